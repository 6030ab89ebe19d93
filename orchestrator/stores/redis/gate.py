"""Limits the calls to Redis at once, and stops them for a moment after one has failed."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

AWAY_S = 0.25
"""After a failure no call is made for this long, so that thousands of readers cost nothing."""
WAIT_S = 5.0
"""How long a call waits for its turn while Redis answers others."""
RECENT_S = 0.3
"""A failed call doesn't mean that Redis is away if another was answered this short a time ago."""


class Closed(Exception):
    """Redis is away, or too many calls wait for this one to get a turn in time."""


class _Waiter:
    """A call that waits for its turn, and whether it has got it."""

    __slots__ = ("has_turn", "woken")

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.has_turn = False


class Gate:
    """Lets ``limit`` calls through at once, the others in the order they came.

    Calls that wait when Redis is found to be away fail at once.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._waiters: deque[_Waiter] = deque()
        self._closed_until = 0.0
        self._answered_at = 0.0
        self._up_since: float | None = None
        self._is_away = False

    @property
    def up_s(self) -> float:
        """For how long Redis has answered, in seconds."""
        up_since = self._up_since
        return 0.0 if up_since is None else time.monotonic() - up_since

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Wait for a turn, and have it. Raises Closed."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def note_answer(self) -> bool:
        """Note that Redis answered. Returns whether it was away until now."""
        self._answered_at = now = time.monotonic()
        if self._up_since is not None:
            return False
        with self._lock:
            was_away, self._is_away = self._is_away, False
            self._up_since = now
        return was_away

    def note_failure(self) -> bool:
        """Note that a call failed. Returns whether Redis is away, and was not until now."""
        now = time.monotonic()
        if now - self._answered_at < RECENT_S:
            return False
        with self._lock:
            is_news = not self._is_away
            self._is_away = True
            self._up_since = None
            self._closed_until = now + AWAY_S
            waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.woken.set()
        return is_news

    def _enter(self) -> None:
        with self._lock:
            if time.monotonic() < self._closed_until:
                raise Closed
            if self._free > 0:
                self._free -= 1
                return
            waiter = _Waiter()
            self._waiters.append(waiter)
        try:
            waiter.woken.wait(WAIT_S)
        except BaseException:
            # A greenlet was killed, and its turn may have come at the last moment.
            if self._withdraw(waiter):
                self._leave()
            raise
        if not self._withdraw(waiter):
            raise Closed

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Wait no more. Returns whether the turn has come."""
        if waiter.has_turn:
            return True
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            return waiter.has_turn

    def _leave(self) -> None:
        with self._lock:
            if not self._waiters:
                self._free += 1
                return
            waiter = self._waiters.popleft()
            waiter.has_turn = True
        waiter.woken.set()
