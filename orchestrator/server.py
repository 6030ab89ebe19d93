"""The gunicorn worker: gevent's, with deadlines for slow clients and a drain before the end."""

import contextlib
import functools
import gc
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import orjson
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import ParseException
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from orchestrator.errors import ConfigError

IO_TIMEOUT_S = 5.0
"""How long a client may take to read or send anything at all, and to shake hands."""
BODY_TIMEOUT_S = 30.0
"""How long a whole body may take: 1 MiB at 35 KiB/s."""
VANISHED_MS = 10_000
"""How long what was sent may go unacknowledged before the client counts as vanished."""
DRAIN_RESERVE_S = 5.0
"""What of graceful_timeout is kept for telling clients: gunicorn kills at its end, unasked."""

_NOT_HTTP_BODY = orjson.dumps(
    {
        "error": {
            "code": "INVALID_REQUEST",
            "message": "This is not HTTP as it should be, or its head is too large.",
            "details": {},
        }
    }
)
NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_NOT_HTTP_BODY), _NOT_HTTP_BODY)
)


class DeadlineBody:
    """A request body that must have come by a deadline, however steadily it trickles."""

    def __init__(self, body: Any, seconds: float) -> None:
        self._body = body
        self._deadline = time.monotonic() + seconds

    @property
    def failed(self) -> bool:
        """Whether where the next request begins is unknown: then the connection is closed."""
        return bool(self._body.failed)

    def read(self, size: int | None = None) -> bytes:
        """Read like the body inside. Raises TimeoutError past the deadline."""
        return bytes(self._timed(self._body.read, size))

    def readline(self, size: int | None = None) -> bytes:
        """Read a line like the body inside. Raises TimeoutError past the deadline."""
        return bytes(self._timed(self._body.readline, size))

    def _timed(self, read: Any, size: int | None) -> Any:
        left = self._deadline - time.monotonic()
        try:
            with gevent.Timeout(max(left, 0.001), TimeoutError("the body came too slowly")):
                return read(size)
        except TimeoutError:
            self._body.failed = True
            raise


def ssl_context(conf: Any, default_factory: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return gunicorn's TLS context, with the handshake put off to where it has a deadline."""
    context = default_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    wrap = functools.partial(context.wrap_socket, do_handshake_on_connect=False)
    context.wrap_socket = wrap  # type: ignore[method-assign]
    return context


class Worker(GeventWorker):
    """One process of the service."""

    def init_process(self) -> None:
        self._idle: set[Any] = set()
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
        # Most of what a request allocates is kept for an hour: looking through it all after every
        # 700 objects, the default, is a fifth of a request's cost.
        gc.set_threshold(50_000, 20, 50)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        client.settimeout(IO_TIMEOUT_S)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_MS)
        if isinstance(client, ssl.SSLSocket) and not _shake_hands(client):
            return
        self._idle.add(client)
        try:
            # Past GeventWorker.handle, which would take the timeout off again.
            AsyncWorker.handle(self, listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        self._idle.discard(sock)
        req.body = DeadlineBody(req.body, BODY_TIMEOUT_S)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle.add(sock)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.debug("Refused what is no HTTP request: %s", exc)
        try:
            util.write(client, NOT_HTTP)
        except OSError:
            self.log.debug("Its sender was gone already.")

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM, drain first: until then this process answers polls and streams."""
        gevent.spawn(self._drain)

    def _drain(self) -> None:
        doors = getattr(self.wsgi, "extensions", {}).get("orchestrator")
        if doors:
            self.log.info("Draining: live requests may end, new ones get 503")
            doors.service.drain(self.cfg.graceful_timeout - DRAIN_RESERVE_S)
            doors.connections.finish(DRAIN_RESERVE_S / 5)
        self.alive = False
        for client in list(self._idle):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


def _shake_hands(client: ssl.SSLSocket) -> bool:
    try:
        with gevent.Timeout(IO_TIMEOUT_S, TimeoutError("the handshake took too long")):
            client.do_handshake()
    except OSError:
        client.close()
        return False
    return True
