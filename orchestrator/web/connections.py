"""The open streams and sockets of this process: how many there may be, and how they end."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import PipelineUnavailable

TCP_ESTABLISHED = 1
UNNAMED_SHARE = 8
"""One of this many places is for clients that have yet to say who they are."""
LOOK_S = 2.5
"""How often a stream with nothing to send looks whether its client is still there."""


class Connections:
    """Counts long-lived connections up to ``limit``, and brings them all to an end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[object, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._unnamed = 0
        self._finished = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_finished(self) -> bool:
        """Whether the process is about to end: what has nothing to deliver now has to go."""
        return self._finished

    def check(self) -> None:
        """Raise PipelineUnavailable when there is no room for one more."""
        if len(self._open) >= self._limit:
            raise PipelineUnavailable(
                f"{self._limit} streams are open already. Poll instead, or try again later.",
                retry_after=2,
            )

    def check_unnamed(self) -> None:
        """Raise PipelineUnavailable when there is no room for one more that is unnamed."""
        if self._unnamed >= max(1, self._limit // UNNAMED_SHARE):
            raise PipelineUnavailable(
                "Too many sockets have yet to say who they are. Try again, or send the "
                "credentials with the handshake.",
                retry_after=2,
            )

    @contextmanager
    def unnamed(self) -> Iterator[None]:
        """Count one of the open connections as unnamed while inside."""
        self._unnamed += 1
        try:
            yield
        finally:
            self._unnamed -= 1

    @contextmanager
    def opened(self, is_busy: Callable[[], bool], close: Callable[[], None]) -> Iterator[None]:
        """Count one connection while inside.

        ``is_busy`` tells whether it still has something to deliver; ``close`` ends it, at once
        where it comes too late.
        """
        key = object()
        self._open[key] = (is_busy, close)
        try:
            if self._finished:
                close()
            yield
        finally:
            del self._open[key]

    def pauses(self, seconds: float, environ: Mapping[str, Any]) -> Iterator[float]:
        """Yield waits that add up to ``seconds``, as long as the client of ``environ`` is there.

        They are counted as one connection; where there is no room for it, there are none.
        """
        if len(self._open) >= self._limit:
            return
        sock, deadline = client_socket(environ), time.monotonic() + seconds
        with self.opened(is_busy=lambda: True, close=lambda: None):
            while (left := deadline - time.monotonic()) > 0 and not is_gone(sock):
                yield min(left, LOOK_S)
                if self._finished:
                    return

    def finish(self, timeout: float) -> None:
        """Let connections deliver what they have, ``timeout`` seconds long, then close them.

        Each is closed by a thread of its own: one that doesn't read holds up no other.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(
            is_busy() for is_busy, _ in list(self._open.values())
        ):
            time.sleep(0.02)
        self._finished = True
        closers = [
            threading.Thread(target=close, daemon=True) for _, close in list(self._open.values())
        ]
        for closer in closers:
            closer.start()
        deadline = time.monotonic() + timeout
        for closer in closers:
            closer.join(max(0.0, deadline - time.monotonic()))


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the socket of a WSGI request, where the server shows it."""
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")


def is_gone(sock: socket.socket | None) -> bool:
    """Whether the peer has closed its side: known without reading, and under TLS as well.

    Where the system can't tell, no: then only a write shows it.
    """
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_ESTABLISHED
    except OSError:
        return sock.fileno() < 0
