"""Calls to a provider over HTTP: with kept connections, a deadline for every wait, and a stop."""

import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException
from typing import Any, TypedDict, Unpack
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import DecodeError, HTTPError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from orchestrator.backends.final import FinalResponse
from orchestrator.backends.kept import Connection, KeptConnections
from orchestrator.backends.native import NativeSocket, new_lock
from orchestrator.backends.paced import Clock, PacedSocket
from orchestrator.backends.retry_after import retry_after
from orchestrator.errors import RunError, UpstreamError, UpstreamTimeout, UpstreamTruncated
from orchestrator.stop import StopSignal

_READ_BYTES = 16 * 1024
_DRAIN_BYTES = 64 * 1024
_DRAIN_S = 0.1

# A kept connection that ends this soon after a request, without a byte, was closed before it.
_STALE_S = 1.0

_HEADERS = {
    "Accept": "text/event-stream, application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "orchestrator",
}


class Limits(TypedDict):
    """Timeouts in seconds, and how many idle connections are kept for reuse."""

    connect_timeout_s: float
    first_token_timeout_s: float
    idle_timeout_s: float
    max_connections: int


class Upstream:
    """One provider, by its base URL."""

    def __init__(self, base_url: str, **limits: Unpack[Limits]) -> None:
        url = urlsplit(base_url)
        self.host = url.hostname or ""
        self.port = url.port or (443 if url.scheme == "https" else 80)
        self.tls = ssl.create_default_context() if url.scheme == "https" else None
        self.limits = limits
        self._path, self._query = url.path.rstrip("/"), url.query
        self._host_header = url.netloc.rpartition("@")[2]
        self.kept = KeptConnections(limits["max_connections"])

    @contextmanager
    def post(
        self, path: str, headers: Mapping[str, str], body: bytes, stop: StopSignal
    ) -> Iterator["Call"]:
        """Send ``body``, which is JSON, and give the call once the answer's head is there.

        Leaving the context ends the call: the connection is kept where the answer was read to
        its end, and closed at once otherwise. Raises Stopped, UpstreamTimeout (with the stage
        ``connect`` or ``first_token``) or UpstreamError.
        """
        target = f"{self._path}{path}" + (f"?{self._query}" if self._query else "")
        call = Call(self, stop)
        with stop.waking(call.abort):
            try:
                call.begin(target, {"Host": self._host_header, **_HEADERS, **headers}, body)
                yield call
            finally:
                call.close()


class Call:
    """One request and its answer. Every wait obeys the clock, and ends at once on a stop."""

    def __init__(self, upstream: Upstream, stop: StopSignal) -> None:
        self._upstream = upstream
        self._stop = stop
        self._clock = Clock("connect", upstream.limits["connect_timeout_s"])
        self._lock = new_lock()
        self._handle: socket.socket | None = None
        self._broken = False
        self._line: Connection | None = None
        self._response: BaseHTTPResponse | None = None
        self._compressed = False
        self._ended = False

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return self._answer.status

    @property
    def media_type(self) -> str:
        """The answer's media type without parameters, in lower case; empty where it says none."""
        header: str = self._answer.headers.get("Content-Type", "")
        return header.partition(";")[0].strip().lower()

    @property
    def retry_after(self) -> float | None:
        """The seconds after which the provider wants to be asked again, where it says so."""
        return retry_after(self._answer.headers)

    def begin(self, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Connect, send the request and read the head of the answer."""
        send = partial(self._exchange, target, headers, body)
        try:
            kept = self._upstream.kept.take()
            if kept is None or not self._answers(kept, send):
                send(self._open())
        except (HTTPError, HTTPException, OSError, UnicodeError) as error:
            raise self._failure(error) from error

    def lives(self) -> None:
        """Note that the answer has begun and goes on: the idle timeout runs from now."""
        self._clock.start("idle", self._upstream.limits["idle_timeout_s"])

    def allow(self, seconds: float) -> None:
        """Give the rest of the answer that much time in all, at most the idle timeout."""
        self._clock.start("end", min(seconds, self._upstream.limits["idle_timeout_s"]))

    def read(self) -> bytes:
        """Return what has come, at most 16 KiB, or nothing at the answer's end.

        Raises Stopped, UpstreamTimeout, UpstreamTruncated where the connection broke, or
        UpstreamError where the bytes can't be decoded.
        """
        try:
            data = self._answer.read1(_READ_BYTES, decode_content=self._compressed)
        except (HTTPError, OSError) as error:
            self._broken = True
            raise self._failure(error) from error
        self._stop.check()
        self._ended = not data
        return data

    def read_all(self, limit: int) -> bytes:
        """Return the whole answer. Raises as read does, and UpstreamError past ``limit`` bytes."""
        parts, size = [], 0
        while data := self.read():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise UpstreamError(
                    f"The provider's answer exceeds {limit:,} bytes.", reason="too_large"
                )
        return b"".join(parts)

    def drain(self) -> None:
        """Read the little that may be left, so that the connection can be kept."""
        self.allow(_DRAIN_S)
        with suppress(RunError):
            self.read_all(_DRAIN_BYTES)

    def abort(self) -> None:
        """End whatever this call waits for. Safe from any thread, and at any time."""
        with self._lock:
            self._broken = True
            if self._handle:
                with suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back, or close it where the answer wasn't read to its end."""
        with self._lock:
            self._handle = None
        if self._line is None:
            return
        if self._ended and not self._broken and not self._line.http.is_closed:
            self._upstream.kept.keep(self._line)
        else:
            if self._response:
                self._response.close()
            self._line.close()

    @property
    def _answer(self) -> BaseHTTPResponse:
        if self._response is None:
            raise RuntimeError("the call has not begun")
        return self._response

    def _answers(self, kept: Connection, send: Callable[[Connection], None]) -> bool:
        """Send on a kept connection; False where the server had closed it without our noticing."""
        sent_at = time.monotonic()
        try:
            send(kept)
        except ConnectionError:
            self._stop.check()
            if time.monotonic() - sent_at > _STALE_S:
                raise
            self._let_go(kept)
            self._line = None
            self._upstream.kept.drop()
            self._clock.start("connect", self._upstream.limits["connect_timeout_s"])
            return False
        return True

    def _exchange(
        self, target: str, headers: Mapping[str, str], body: bytes, line: Connection
    ) -> None:
        self._line = line
        self._hold(line.handle)
        self._clock.start("first_token", self._upstream.limits["first_token_timeout_s"])
        line.paced.clock = self._clock
        # A server may answer and close before it has read all of a request.
        with suppress(BrokenPipeError):
            line.http.request("POST", target, body, headers, preload_content=False)
        self._response = line.http.getresponse()
        self._compressed = "Content-Encoding" in self._response.headers

    def _hold(self, handle: socket.socket) -> None:
        with self._lock:
            self._stop.check()
            self._handle = handle

    def _open(self) -> Connection:
        """Open a connection of our own, so that a stop can reach it while it is being opened."""
        sock, handle = self._dial()
        try:
            if self._upstream.tls:
                sock.settimeout(self._clock.left())
                sock = self._upstream.tls.wrap_socket(sock, server_hostname=self._upstream.host)
        except BaseException:
            self._let_go(sock, handle)
            raise
        paced = PacedSocket(sock, self._clock)
        connection = HTTPConnection(self._upstream.host, self._upstream.port)
        connection.auto_open = 0
        connection.response_class = FinalResponse
        connection.sock = paced
        return Connection(connection, paced, handle)

    def _dial(self) -> tuple[socket.socket, socket.socket]:
        failure: OSError = OSError(errno.EADDRNOTAVAIL, "the host has no address")
        addresses = self._look_up()
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            handle = NativeSocket(fileno=os.dup(sock.fileno()))
            handle.setblocking(False)
            try:
                self._hold(handle)
                sock.settimeout(self._clock.left() / (len(addresses) - tried))
                sock.connect(address)
                self._stop.check()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                self._let_go(sock, handle)
                self._stop.check()
                failure = error
            except BaseException:
                self._let_go(sock, handle)
                raise
            else:
                return sock, handle
        raise failure

    def _let_go(self, *ends: socket.socket | Connection) -> None:
        with self._lock:
            self._handle = None
        for end in ends:
            end.close()

    def _look_up(self) -> list[Any]:
        """Resolve the host, in a thread of its own, since nothing can wake a look-up."""
        look_up = partial(socket.getaddrinfo, self._upstream.host, self._upstream.port)
        with suppress(socket.gaierror):
            return look_up(type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        found: list[list[Any] | Exception] = []
        done = threading.Event()

        def work() -> None:
            try:
                found.append(look_up(type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.append(error)
            done.set()

        threading.Thread(target=work, name="name-look-up", daemon=True).start()
        with self._stop.waking(done.set):
            done.wait(self._clock.left())
        self._stop.check()
        if not found:
            raise TimeoutError("the name look-up takes too long")
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _failure(self, error: Exception) -> RunError:
        """Say in our words what went wrong. Raises Stopped where it was a stop."""
        self._stop.check()
        if isinstance(error, TimeoutError | ReadTimeoutError):
            return _timeout(self._clock)
        if self._line is None:
            return UpstreamError(
                f"The provider can't be reached ({_reason(error)}); try again later."
            )
        if isinstance(error, DecodeError):
            return UpstreamError("The provider sent an answer that can't be decompressed.")
        if self._response is None and not isinstance(error, OSError | HTTPError):
            return UpstreamError("The provider sent what is no HTTP answer.")
        if self._response is None:
            return UpstreamError(
                "The provider closed the connection without an answer; try again later."
            )
        return UpstreamTruncated("The provider's answer was cut off; try again.")


def _timeout(clock: Clock) -> UpstreamTimeout:
    happened = {
        "connect": "can't be reached: connecting took more than",
        "first_token": "sent no part of an answer within",
    }.get(clock.stage, "fell silent in the middle of its answer for")
    return UpstreamTimeout(
        f"The provider {happened} {clock.seconds:g} s; try again later.", stage=clock.stage
    )


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return "its TLS certificate isn't valid"
        case ssl.SSLError():
            return "no TLS connection comes about"
        case socket.gaierror() | UnicodeError():
            return "its host name can't be resolved"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
    return "the connection broke"
