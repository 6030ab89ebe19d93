"""One call to an address that somebody else may have chosen.

The name is resolved once, and only an address that was checked is connected to. Redirects are not
followed and proxies not used. The whole call has a deadline, and its answer a size limit.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestrator.net.addresses import Address, Rule, is_public, resolve
from orchestrator.urls import base_url

MAX_BYTES = 256 * 1024
TIMEOUT_S = 10.0
AT_ONCE = 32
"""Calls under way in a process at most, including those that wait for a name server."""
_PIECE = 16 * 1024

_places = threading.BoundedSemaphore(AT_ONCE)


class FetchFailed(Exception):
    """The call failed. The message says why, and quotes nothing of the answer."""


class Fetched(NamedTuple):
    """An answer, of whatever status."""

    status: int
    body: bytes


def fetch(
    url: str,
    *,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
    allowed: Rule = is_public,
    tls: ssl.SSLContext | None = None,
) -> Fetched:
    """Get ``url`` and return the answer. Raises FetchFailed, for a redirect as well.

    ``allowed`` says which addresses may be connected to. Without TLS only this machine is called,
    and only where that is allowed. ``timeout_s`` covers all, from the name to the last byte.
    """
    try:
        base_url(url)
    except ValueError as error:
        raise FetchFailed(f"The address can't be called: {error}.") from None
    call = _Call(url, time.monotonic() + timeout_s, max_bytes, allowed, tls)
    _start(call)
    if not call.done.wait(timeout_s):
        call.end()
        raise FetchFailed(f"{_host(url)}: it took longer than {timeout_s:g} s.")
    if call.fetched is None:
        raise FetchFailed(f"{_host(url)}: {call.fault}.")
    return call.fetched


def _start(call: "_Call") -> None:
    """Make a call in a thread of its own, which has one of the places until it ends."""
    places = _places
    if not places.acquire(blocking=False):
        raise FetchFailed(f"{AT_ONCE} calls are under way already.")

    def run() -> None:
        try:
            call.make()
        finally:
            places.release()
            call.done.set()

    try:
        threading.Thread(target=run, name="fetch", daemon=True).start()
    except RuntimeError:
        places.release()
        raise FetchFailed("There is no thread for the call.") from None


@dataclass
class _Call:
    """One call: what it is to bring, and what it has opened and brought so far."""

    url: str
    deadline: float
    max_bytes: int
    allowed: Rule
    tls: ssl.SSLContext | None
    done: threading.Event = field(default_factory=threading.Event)
    sock: socket.socket | None = None
    fetched: Fetched | None = None
    fault: str = "it took too long"
    is_late: bool = False

    def make(self) -> None:
        """Bring the answer, or note why there is none."""
        try:
            connection = _connection(self)
            with contextlib.closing(connection):
                connection.request("GET", _path(self.url))
                self.fetched = _answer(connection, self.max_bytes)
        except FetchFailed as error:
            self.fault = str(error)
        except TimeoutError:
            pass
        except ssl.SSLError as error:
            self.fault = f"its TLS is not as it should be ({error.reason or 'no certificate'})"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.fault = f"the connection failed ({type(error).__name__})"

    def hold(self, sock: socket.socket) -> None:
        """Note the socket that the call goes over. Raises TimeoutError where it is too late."""
        self.sock = sock
        if self.is_late:
            sock.close()
            raise TimeoutError

    def end(self) -> None:
        """Have a call that is still under way fail, whatever it waits for."""
        self.is_late = True
        if self.sock:
            with contextlib.suppress(OSError):
                # Not its own under TLS, which would forget the session that is being read.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _path(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _connection(call: _Call) -> http.client.HTTPConnection:
    """Return a connection to the first address that may be called and answers."""
    parts = urlsplit(call.url)
    host = parts.hostname or ""
    is_plain = parts.scheme != "https"
    port = parts.port or (80 if is_plain else 443)
    try:
        addresses = resolve(host, port)
    except (OSError, ValueError):
        raise FetchFailed("the name can't be resolved") from None
    chosen = [
        address
        for address in addresses
        if call.allowed(address) and (address.is_loopback or not is_plain)
    ]
    if not chosen:
        why = "over plain HTTP" if is_plain else "there"
        raise FetchFailed(f"nothing may be called {why}: it is no public address")
    connect = _connector(chosen, call)
    if is_plain:
        return _Plain(host, port, connect)
    return _Secure(host, port, connect, call)


def _connector(addresses: list[Address], call: _Call) -> Callable[[int], socket.socket]:
    def connect(port: int) -> socket.socket:
        for place, address in enumerate(addresses):
            left = call.deadline - time.monotonic()
            if left <= 0 or call.is_late:
                raise TimeoutError
            try:
                share = left / (len(addresses) - place)
                sock = socket.create_connection((str(address), port), share)
            except OSError:
                if place == len(addresses) - 1:
                    raise
            else:
                call.hold(sock)
                sock.settimeout(max(call.deadline - time.monotonic(), 0.001))
                return sock
        raise TimeoutError

    return connect


class _Plain(http.client.HTTPConnection):
    """HTTP over a socket that is connected already."""

    def __init__(self, host: str, port: int, connect: Callable[[int], socket.socket]) -> None:
        super().__init__(host, port)
        self._open = connect

    def connect(self) -> None:
        """Connect to an address that was checked."""
        self.sock = self._open(self.port)


class _Secure(_Plain):
    """The same under TLS: the certificate must be of the name that was asked for."""

    default_port = 443

    def __init__(
        self,
        host: str,
        port: int,
        connect: Callable[[int], socket.socket],
        call: _Call,
    ) -> None:
        super().__init__(host, port, connect)
        self._call = call
        self._tls = call.tls or ssl.create_default_context()

    def connect(self) -> None:
        """Shake hands over such a socket."""
        super().connect()
        self.sock = secure = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._call.hold(secure)
        secure.do_handshake()


def _answer(connection: http.client.HTTPConnection, max_bytes: int) -> Fetched:
    response = connection.getresponse()
    if 300 <= response.status < 400 and response.status != HTTPStatus.NOT_MODIFIED:
        raise FetchFailed(f"it redirects (status {response.status}), and that is not followed")
    pieces, size = [], 0
    while piece := response.read(_PIECE):
        size += len(piece)
        if size > max_bytes:
            raise FetchFailed(f"the answer is larger than {max_bytes} bytes")
        pieces.append(piece)
    if response.length:
        raise FetchFailed("the answer was cut")
    return Fetched(response.status, b"".join(pieces))
