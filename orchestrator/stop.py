"""How a run is stopped from outside: the reason, and waking a backend that is blocked."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.errors import OrchestratorError

logger = logging.getLogger("orchestrator")


class Stopped(Exception):
    """Raised inside a run that was asked to stop. Not an error: the asker knows why."""


class StopSignal:
    """One run's stop button, shared between the run and those who may end it.

    The first request wins and gives the reason: an error to fail with, or None for a
    cancellation. A backend that blocks registers what unblocks it (say, shutting its socket
    down) with ``waking``, so that a stop takes effect at once and from any thread.
    """

    __slots__ = ("_lock", "_wakers", "reason", "requested")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []
        self.requested = False
        self.reason: OrchestratorError | None = None

    def request(self, reason: OrchestratorError | None = None) -> None:
        """Ask the run to end. Safe to call from anywhere, and more than once."""
        with self._lock:
            if self.requested:
                return
            self.requested, self.reason = True, reason
            # Inside the lock: whoever leaves ``waking`` is not woken later, as somebody else.
            for wake in self._wakers:
                try:
                    wake()
                except Exception:
                    logger.exception("a blocked run could not be woken")

    def check(self) -> None:
        """Raise Stopped once a stop was requested."""
        if self.requested:
            raise Stopped

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While inside, and never after, a stop calls ``wake``, which must not block.

        Raises Stopped at once where the stop came first.
        """
        with self._lock:
            if self.requested:
                raise Stopped
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)
