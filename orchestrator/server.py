"""The gunicorn worker: gevent's, with deadlines for slow clients and a drain before the end."""

import contextlib
import functools
import gc
import os
import resource
import signal
import socket
import ssl
import sys
import time
from types import SimpleNamespace
from typing import Any

import gevent
import orjson
from gevent.event import Event
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.http import wsgi
from gunicorn.http.errors import (
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.sock import ssl_context
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from orchestrator import headers
from orchestrator.body import Body
from orchestrator.errors import ConfigError, InternalError, InvalidRequest, OrchestratorError
from orchestrator.head import Response
from orchestrator.views import error_view

IO_TIMEOUT_S = 5.0
"""How long a client may take to read or send anything at all, to shake hands, and to send the head
of a request once it has begun, or has connected."""
READ_AT_ONCE = 8192
"""Bytes, as many as gunicorn reads of a head."""
CROWDED = 7 / 8
"""Past this share of the connections, those that were idle longest make room for new ones."""
CLIENT_OPTIONS = {
    # How long, in ms, a client may leave what was sent without a sign of life.
    "TCP_USER_TIMEOUT": 10_000,
    # What the system holds unsent for a client, in bytes: it would take megabytes, each.
    "TCP_NOTSENT_LOWAT": 64 * 1024,
}
"""Set on the listening socket, and so on every connection."""
HEARTBEAT_S = 1.0
"""How often the master is told that the loop turns."""
DRAIN_RESERVE_S = 5.0
"""The part of graceful_timeout kept for telling clients: at its end gunicorn kills the worker."""
TELL_S = 1.0
"""How long open streams and sockets may take to deliver their ends."""
POLL_S = 2.0
"""How long clients that poll have to fetch their result after the drain: they ask every second."""
EXIT_RESERVE_S = 1.5
"""The part of graceful_timeout kept for the process itself to end."""
GC_THRESHOLD = (10_000, 10, 1_000)
"""How seldom garbage is looked for: see gc.set_threshold."""

# It names itself in every answer otherwise, and has no setting for it.
wsgi.SERVER = headers.SERVER
wsgi.Response = Response

_NativeSocket = get_original("socket", "socket")


def _refusal(status: str, error: OrchestratorError) -> bytes:
    body = orjson.dumps(error_view(error.code, error.message))
    sent = [
        ("Server", headers.SERVER),
        ("Connection", "close"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        headers.NO_STORE,
        *headers.DATA,
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


NOT_HTTP = _refusal(
    "400 Bad Request",
    InvalidRequest(
        "This is not HTTP as it should be. Look at what sends it, or at a proxy on the way."
    ),
)
TOO_LARGE: dict[type[BaseException], bytes] = {
    LimitRequestLine: _refusal(
        "414 URI Too Long", InvalidRequest("The address is too long. Send 8 KiB at most.")
    ),
    LimitRequestHeaders: _refusal(
        "431 Request Header Fields Too Large",
        InvalidRequest("The headers are too large. Send 64 at most, and 8 KiB in each."),
    ),
}
FAULT = _refusal("500 Internal Server Error", InternalError())


def files_for(runs: int) -> int:
    """Return how many files may be open for so many running requests, and the process itself.

    Two for each: the upstream's socket, or a pipe, and one that it may open besides.
    """
    return 2 * runs + 100


def raise_file_limit(wanted: int) -> str | None:
    """Let this process and its children open ``wanted`` files, or as many as it may.

    Returns a sentence where these are fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (ValueError, OSError):
        # Some systems have a limit beyond the limit.
        allowed = soft
    if allowed == wanted:
        return None
    return (
        f"Only {allowed} files may be open at once, and {wanted} may be needed: past that new "
        "connections wait. Raise the limit (ulimit -n), or lower ORCHESTRATOR_MAX_CONNECTIONS."
    )


class _Patience(gevent.Timeout):
    """Ends a wait for a request silently, as the socket's own timeout does."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds, False)

    def __exit__(self, kind: Any, value: Any, trace: Any) -> bool:
        return bool(super().__exit__(kind, value, trace)) or isinstance(value, TimeoutError)


class _Server(StreamServer):
    """Accepts connections. One that broke before its handshake is no fault to report."""

    def wrap_socket_and_handle(self, client: Any, address: Any) -> None:
        with contextlib.suppress(OSError):
            super().wrap_socket_and_handle(client, address)


class Worker(GeventWorker):
    """One process of the service."""

    def init_process(self) -> None:
        # A stop that comes before this process can handle it just ends it: nothing runs yet.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        # In the order in which they became idle.
        self._idle: dict[Any, None] = {}
        self._open = 0
        self._leaves_at: float | None = None
        self._quits = False
        self._leaving = Event()
        # gunicorn looks every setting up through __getattr__, 22 times a request.
        self.cfg.__dict__.update({name: item.get() for name, item in self.cfg.settings.items()})
        # A native thread that computes gives the interpreter back after this, not after 5 ms.
        sys.setswitchinterval(0.0005)
        super().init_process()

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except ConfigError as error:
            self.log.error("orchestrator: %s", error)
            sys.exit(Arbiter.APP_LOAD_ERROR)

    def run(self) -> None:
        gc.collect()
        gc.freeze()
        # Most of what a request allocates is kept for an hour. Looking for garbage after every 700
        # objects, the default, is a fifth of a request's cost, and looking through all that is
        # kept a pause of 300 ms at 100,000 requests (benchmarks/memory.py).
        gc.set_threshold(*GC_THRESHOLD)
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        servers = [self._serve(listener, tls) for listener in self.sockets]
        while self.alive:
            self.notify()
            self._leaving.wait(HEARTBEAT_S)
        for server in servers:
            server.close()
        self._see_off([server.pool for server in servers])

    def _serve(self, listener: Any, tls: dict[str, Any]) -> StreamServer:
        listener.setblocking(1)
        for option, value in CLIENT_OPTIONS.items():
            # Only Linux has all of them, and only TCP.
            with contextlib.suppress(OSError):
                if hasattr(socket, option):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if tls:
            # Put off to where it has a deadline.
            tls = tls | {"do_handshake_on_connect": False}
        # gunicorn asks for it on every connection, also on one that came just before the end.
        name = listener.getsockname()
        handle = functools.partial(self.handle, SimpleNamespace(getsockname=lambda: name))
        server = _Server(listener, handle=handle, spawn=Pool(self.worker_connections), **tls)
        server.start()
        return server

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.settimeout(IO_TIMEOUT_S)
        if isinstance(client, ssl.SSLSocket) and not _shake_hands(client):
            return
        self._make_room()
        self._open += 1
        self._idle[client] = None
        try:
            # Past GeventWorker.handle, which would take the timeout off again.
            AsyncWorker.handle(self, listener, client, addr)
        finally:
            self._open -= 1
            self._idle.pop(client, None)

    def _make_room(self) -> None:
        if self._open >= self.worker_connections * CROWDED and self._idle:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            _end_input(oldest)

    def timeout_ctx(self) -> _Patience:
        return _Patience(IO_TIMEOUT_S)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        self._idle.pop(sock, None)
        req.body = body = Body(req)
        try:
            try:
                super().handle_request(listener_name, req, sock, addr)
            finally:
                body.drain()
        except TimeoutError:
            self.log.debug("Left a client that reads too slowly.")
            raise StopIteration from None
        finally:
            req.body = body.inner
            if req.body.failed:
                # Where the next request begins is unknown.
                util.close_graceful(sock)
            self._idle[sock] = None
        if not req.body.failed:
            self._await_next(req.unreader, sock)

    def _await_next(self, unreader: Any, sock: Any) -> None:
        """Wait for how another request begins: longer than for the rest of its head."""
        if unreader.buf.getbuffer().nbytes:
            return
        sock.settimeout(self.cfg.keepalive)
        try:
            unreader.unread(sock.recv(READ_AT_ONCE))
        except TimeoutError:
            raise StopIteration from None
        finally:
            sock.settimeout(IO_TIMEOUT_S)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer in the API's own form what never came to the app, or what it let through."""
        if isinstance(exc, ssl.SSLError):
            self.log.debug("Left a client whose TLS is broken: %s", exc)
            return
        ours = not isinstance(exc, ParseException)
        ours = ours or isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName)
        if ours:
            self.log.error("a fault while answering", exc_info=exc)
        else:
            self.log.debug("Refused what is no HTTP request: %s", type(exc).__name__)
        with contextlib.suppress(OSError):
            util.write(client, FAULT if ours else TOO_LARGE.get(type(exc), NOT_HTTP))
        util.close_graceful(client)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM, drain first: until then this process answers polls and streams."""
        if not hasattr(self, "wsgi"):
            # The app is still being loaded: nobody is served yet, and nothing is to be ended.
            os._exit(0)
        if self._leaves_at is None:
            self._leaves_at = time.monotonic() + self.cfg.graceful_timeout - EXIT_RESERVE_S
            gevent.spawn(self._drain)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """On SIGINT and SIGQUIT, end at once. Ctrl-C brings both: the master passes its own on."""
        if not self._quits:
            self._quits = True
            super().handle_quit(sig, frame)

    def _drain(self) -> None:
        app = getattr(self, "wsgi", None)
        doors = getattr(app, "extensions", {}).get("orchestrator")
        try:
            if doors:
                self.log.info("Draining: live requests may end, new ones get 503")
                self._end_requests(doors)
        finally:
            self.alive = False
            self._leaving.set()

    def _end_requests(self, doors: Any) -> None:
        try:
            had_some = doors.service.drain(self.cfg.graceful_timeout - DRAIN_RESERVE_S)
        finally:
            ended_at = time.monotonic()
            doors.connections.finish(TELL_S)
        if had_some:
            until = min(ended_at + POLL_S, self._leaves_at or ended_at)
            gevent.sleep(max(0.0, until - time.monotonic()))

    def _see_off(self, pools: list[Pool]) -> None:
        """Let answers under way end; idle connections, and those that become idle, end now."""
        leaves_at = self._leaves_at or time.monotonic() + self.cfg.graceful_timeout
        while any(len(pool) for pool in pools) and time.monotonic() < leaves_at:
            self.notify()
            for client in list(self._idle):
                _end_input(client)
            gevent.sleep(0.05)


def _shake_hands(client: ssl.SSLSocket) -> bool:
    try:
        with gevent.Timeout(IO_TIMEOUT_S, TimeoutError("the handshake took too long")):
            client.do_handshake()
    except OSError:
        client.close()
        return False
    return True


def _end_input(client: Any) -> None:
    """Let a connection's reader see its end after what has come already.

    Through a second handle: gevent's socket would raise in the reader, and a TLS socket would go on
    without TLS.
    """
    with contextlib.suppress(OSError), _NativeSocket(fileno=os.dup(client.fileno())) as handle:
        handle.shutdown(socket.SHUT_RD)
