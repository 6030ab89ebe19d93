"""Downloads a large file: resumed where it broke off, checked, and never there in part."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from orchestrator.backends.engine.progress import Progress, megabytes
from orchestrator.errors import UpstreamError

_TIMEOUT = urllib3.Timeout(connect=10.0, read=30.0)
_CHUNK_BYTES = 256 * 1024
_REDIRECTS = 5

# Between a connection that broke on the way and the next.
_PAUSE_S = 0.2

_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')
_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<size>\d+)")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came back for a request: the body from byte ``start`` on, of ``size`` in all."""

    response: BaseHTTPResponse
    start: int
    size: int
    sha256: str | None


class _Other(Exception):
    """The part that is here is longer than the whole file there: it is of another file."""


class _Broken(Exception):
    """The connection can't be made or broke; trying again may help."""


def download(url: str, target: Path, sha256: str | None, cancelled: Callable[[], bool]) -> None:
    """Bring ``url`` to ``target``, and show the progress on stderr.

    The checksum is ``sha256``, or the one that the server says (in X-Linked-ETag, or an ETag of
    64 hexadecimal digits); without any the download is refused. What came before a connection
    broke is kept in a .part file and gone on with, also by a later call. Raises UpstreamError.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            if target.is_file():
                # Another process has just brought it.
                part.unlink()
                return
            _fill(url, file, sha256, cancelled)
            part.replace(target)
    except OSError as error:
        raise cannot_write(target.parent, error) from error


def cannot_write(folder: Path, error: OSError) -> UpstreamError:
    """Return the error for a model that can't be kept in ``folder``."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failure(f"the disk is full ({folder}); free some room, or set XDG_CACHE_HOME")
    return _failure(f"{folder} can't be written ({reason}); set XDG_CACHE_HOME to another folder")


def _failure(reason: str) -> UpstreamError:
    return UpstreamError(f"The model can't be downloaded: {reason}.")


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    while True:
        with part.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _failure("another process is at it") from None
            # Opened before another process gave it its last name, it would be the whole model.
            if _is_at(file, part):
                yield file
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(url: str, file: BinaryIO, sha256: str | None, cancelled: Callable[[], bool]) -> None:
    """Make ``file`` the whole of ``url``, checksum included."""
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            with _asked(url, before) as answer:
                expected = sha256 or answer.sha256
                if expected is None:
                    raise _failure(f"{_host(url)} says no checksum for it")
                _receive(answer, file, url, cancelled)
            break
        except _Other:
            file.truncate(0)
        except (_Broken, HTTPError) as error:
            # A connection that brought nothing is not tried again here; the caller may.
            if file.seek(0, os.SEEK_END) <= before:
                raise _failure(f"{_host(url)} {_reason(error)}") from error
            time.sleep(_PAUSE_S)
    if _checksum(file) != expected:
        file.truncate(0)
        raise _failure(f"what {_host(url)} sent has the wrong checksum, and was thrown away")


@contextmanager
def _asked(url: str, start: int) -> Iterator[_Answer]:
    """Ask for ``url`` from byte ``start`` on, and follow where it leads."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "orchestrator"}
    if start:
        headers["Range"] = f"bytes={start}-"
    secure, sha256 = url.startswith("https:"), None
    with urllib3.PoolManager(timeout=_TIMEOUT, retries=False) as pool:
        for _ in range(_REDIRECTS):
            response = pool.request(
                "GET", url, headers=headers, redirect=False, preload_content=False
            )
            try:
                sha256 = sha256 or _said_checksum(response)
                location = response.get_redirect_location()
                if not location:
                    yield _understood(response, start, sha256, url)
                    return
            finally:
                response.close()
            url = urljoin(url, location)
            if secure and not url.startswith("https:"):
                raise _failure(f"{_host(url)} would send it without encryption")
    raise _failure(f"{_host(url)} sends us round in circles")


def _said_checksum(response: BaseHTTPResponse) -> str | None:
    for header in ("X-Linked-ETag", "ETag"):
        if match := _SHA256.fullmatch(response.headers.get(header, "").lower()):
            return match[1]
    return None


def _understood(response: BaseHTTPResponse, start: int, sha256: str | None, url: str) -> _Answer:
    headers, status = response.headers, response.status
    range_ = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if status == 206 and range_ and range_["start"] == str(start):
        return _Answer(response, start, int(range_["size"]), sha256)
    if status == 416 and range_ and range_["size"] == str(start):
        return _Answer(response, start, start, sha256)
    if status == 416 and start:
        raise _Other
    if status == 200 and (length := headers.get("Content-Length", "")).isdecimal():
        return _Answer(response, 0, int(length), sha256)
    if status in (408, 425, 429) or status >= 500:
        raise _Broken(f"answered with HTTP status {status}")
    host, name = _host(url), PurePosixPath(urlsplit(url).path).name
    match status:
        case 200 | 206:
            raise _failure(f"{host} doesn't say the size of {name}")
        case 401 | 403:
            raise _failure(f"{host} lets nobody have {name} without a login")
        case 404 | 410:
            raise _failure(f"{host} has no {name}; check its name")
    raise _failure(f"{host} answered with HTTP status {status}")


def _receive(answer: _Answer, file: BinaryIO, url: str, cancelled: Callable[[], bool]) -> None:
    """Append what comes until it is all there."""
    file.truncate(answer.start)
    missing, free = answer.size - answer.start, shutil.disk_usage(Path(file.name).parent).free
    if missing > free:
        raise _failure(f"it takes {megabytes(missing)}, and the disk has {megabytes(free)} left")
    progress = Progress(answer.start, answer.size)
    progress.begin(Path(file.name).stem, _host(url))
    came = answer.start
    try:
        while came < answer.size and (data := answer.response.read1(_CHUNK_BYTES)):
            file.write(data)
            came += len(data)
            progress.at(came)
            if cancelled():
                raise _failure("it was stopped; what has come is kept")
            # Other greenlets run meanwhile, however fast it comes.
            time.sleep(0)
    finally:
        file.flush()
        progress.end()
    if came != answer.size:
        raise _Broken("closed the connection too early")


def _checksum(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(_CHUNK_BYTES):
        digest.update(data)
        time.sleep(0)
    return digest.hexdigest()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _reason(error: Exception) -> str:
    match error:
        case NameResolutionError():
            return "can't be found; this machine may be offline"
        case NewConnectionError() | ConnectTimeoutError():
            return "can't be reached; this machine may be offline"
        case ReadTimeoutError():
            return "fell silent; what has come is kept"
        case SSLError():
            return "has no valid TLS certificate"
        case HTTPError():
            return "broke the connection; what has come is kept"
    return str(error)
