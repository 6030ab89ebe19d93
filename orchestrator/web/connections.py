"""The open streams and sockets of this process: how many there may be, and how they end."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.errors import PipelineUnavailable

TCP_ESTABLISHED = 1


class Connections:
    """Counts long-lived connections up to ``limit``, and brings them all to an end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[object, tuple[Callable[[], bool], Callable[[], None]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check(self) -> None:
        """Raise PipelineUnavailable when there is no room for one more."""
        if len(self._open) >= self._limit:
            raise PipelineUnavailable(
                f"{self._limit} streams are open already. Poll instead, or try again later.",
                retry_after=2,
            )

    @contextmanager
    def opened(self, is_busy: Callable[[], bool], close: Callable[[], None]) -> Iterator[None]:
        """Count one connection while inside.

        ``is_busy`` tells whether it still has something to deliver; ``close`` ends it.
        """
        key = object()
        self._open[key] = (is_busy, close)
        try:
            yield
        finally:
            del self._open[key]

    def finish(self, timeout: float) -> None:
        """Let connections deliver what they have, ``timeout`` seconds long, then close them."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(
            is_busy() for is_busy, _ in list(self._open.values())
        ):
            time.sleep(0.02)
        for _, close in list(self._open.values()):
            close()


def is_gone(sock: socket.socket | None) -> bool:
    """Whether the peer has closed its side: known without reading, and under TLS as well."""
    if sock is None:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_ESTABLISHED
    except OSError:
        return sock.fileno() < 0
