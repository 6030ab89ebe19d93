"""A circuit breaker: a target that keeps failing is left alone for a while, then tried once."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import RunError

logger = logging.getLogger("orchestrator")

FAILURES = 5
"""So many failures in a row open it,"""
SHARE, LEAST, WINDOW_S = 0.5, 10, 30.0
"""and so does this share of at least so many calls in so many seconds."""
OPEN_S, OPEN_MAX_S = 5.0, 60.0
"""How long it stays open at first, and at most: each time in a row twice as long."""
HELD_MAX_S = OPEN_MAX_S
"""The longest that one Retry-After keeps all others away: it was said of one call."""
PROBE_S = 30.0
"""How long a probe may keep others away without a sign of life."""
SILENCE_S, SILENCE_TIMES = 0.5, 2.0
"""A silence that a request's deadline cut short is a failure if it lasted this long, and this many
times what the target usually takes to begin: else a hurried client would open it for all."""
NEWEST = 0.125
"""The weight of the newest answer in what is usual."""


Tell = Callable[[float, RunError | None], None]
"""Called with the seconds for which a target is left alone, and why; an answer gives 0 and None."""


@dataclass(slots=True)
class _Second:
    """What came of the calls that ended in one second of the clock."""

    number: int
    calls: int = 0
    failures: int = 0


class Permit:
    """A permit to make one call, which ends with one report, or with ``leave`` and no report.

    Only the first report counts. ``since`` is when it was given, by the breaker's clock.
    """

    __slots__ = ("_breaker", "since")

    def __init__(self, breaker: "Breaker", since: float) -> None:
        self._breaker: Breaker | None = breaker
        self.since = since

    def alive(self) -> None:
        """Note that an answer has begun: a probe need keep nobody away any longer."""
        if self._breaker:
            self._breaker.heard(self, self.since)

    def silent(self, error: RunError) -> bool:
        """Note that nothing came before the call was ended by us; ``error`` says so.

        Returns whether that counts as a failure; a silence too short to tell is like ``leave``.
        """
        breaker = self._take()
        if breaker is None or not breaker.is_long(self.since):
            if breaker:
                breaker.forget(self)
            return False
        breaker.add_failure(self, error)
        return True

    def succeeded(self) -> None:
        """Note that the answer is whole, or at least that the target did its part."""
        if breaker := self._take():
            breaker.add_success(self)

    def failed(self, error: RunError) -> None:
        """Note that the target failed."""
        if breaker := self._take():
            breaker.add_failure(self, error)

    def failed_for_now(self, error: RunError) -> "Permit | None":
        """Note that the target failed, and that the same request means to ask it once more.

        Returns what to report that with in the end; None where it counts now: the probe's does.
        """
        breaker = self._take()
        if breaker is None:
            return None
        if not breaker.is_probe(self):
            return Permit(breaker, self.since)
        breaker.add_failure(self, error)
        return None

    def leave(self) -> None:
        """Note that the call was ended by us: that tells nothing about the target."""
        if breaker := self._take():
            breaker.forget(self)

    def _take(self) -> "Breaker | None":
        breaker, self._breaker = self._breaker, None
        return breaker


class Breaker:
    """Watches the calls to one target, named ``name`` in the log. ``clock``: monotonic seconds.

    ``tell`` may block: it is called outside the lock, by whoever reports on a call.

    Closed, it lets every call through; open, none; after its time, one: the probe. Its first
    sign of life closes the breaker, its failure opens it again for longer, and one that is never
    reported on makes place for another. Held, it lets none through for as long as the target asks.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        tell: Tell | None = None,
    ) -> None:
        self._name = name
        self._tell = tell or (lambda seconds, error: None)
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: deque[_Second] = deque()
        self._in_a_row = 0
        self._openings = 0
        self._open_until: float | None = None
        self._held_until: float | None = None
        self._probe: Permit | None = None
        self._probe_until = 0.0
        self._usual_s: float | None = None
        self._error: RunError | None = None
        self._wakers: list[Callable[[], None]] = []

    @property
    def last_error(self) -> RunError | None:
        """What the target failed with last."""
        return self._error

    @property
    def is_closed(self) -> bool:
        """Whether it lets every call through."""
        return self._open_until is None and self._held_until is None

    def open_s(self) -> float:
        """Return for how many seconds it stays open; 0 where it doesn't keep every call away."""
        if self._open_until is None:
            return 0.0
        with self._lock:
            return max(0.0, (self._open_until or 0.0) - self._clock())

    def held_s(self) -> float:
        """Return for how many seconds the target has asked to be left alone."""
        if self._held_until is None:
            return 0.0
        with self._lock:
            return self._held_s()

    def wait_s(self) -> float:
        """Return the seconds until a call is let through, at a probe's end sooner; 0 for now."""
        if self.is_closed:
            return 0.0
        with self._lock:
            return self._wait_s()

    def hold(self, seconds: float, error: RunError) -> None:
        """Let no call through for so long: the target asks for it. That alone is no failure."""
        seconds = min(seconds, HELD_MAX_S)
        with self._lock:
            until = self._clock() + seconds
            if self._held_s():
                until = max(until, self._held_until or 0.0)
            else:
                logger.warning("%s asks to be left alone for %.3g s", self._name, seconds)
            self._held_until, self._error = until, error
            self._wake()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While inside, ``wake``, which must not block, is called where a wait changes."""
        with self._lock:
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._wakers.remove(wake)

    def enter(self) -> Permit | None:
        """Return a permit for one call, or None where the target is to be left alone."""
        with self._lock:
            if self._wait_s():
                return None
            now = self._clock()
            permit = Permit(self, now)
            if self._open_until is not None:
                self._probe = permit
                self._probe_until = now + PROBE_S
            return permit

    def is_probe(self, permit: Permit) -> bool:
        """Return whether ``permit`` is the probe's."""
        with self._lock:
            return permit is self._probe

    def is_long(self, since: float) -> bool:
        """Return whether silence ``since`` then tells that the target fails."""
        usual_s = self._usual_s or 0.0
        return self._clock() - since >= max(SILENCE_S, SILENCE_TIMES * usual_s)

    def heard(self, permit: Permit, since: float) -> None:
        """Take note of how long an answer took to begin; close where ``permit`` is the probe's."""
        # Not in the lock: of two at once, either may be forgotten.
        took_s, usual_s = self._clock() - since, self._usual_s
        self._usual_s = took_s if usual_s is None else usual_s + NEWEST * (took_s - usual_s)
        if permit is not self._probe:
            return
        with self._lock:
            is_probe = permit is self._probe
            if is_probe:
                self._close()
        if is_probe:
            self._tell(0.0, None)

    def add_success(self, permit: Permit) -> None:
        """Count a call that went well."""
        with self._lock:
            if permit is self._probe:
                self._close()
            is_well = self._open_until is None
            if is_well:
                self._openings = self._in_a_row = 0
                self._count(failed=False)
        if is_well:
            self._tell(0.0, None)

    def add_failure(self, permit: Permit, error: RunError) -> None:
        """Count a call that failed, and open where it is one too many."""
        with self._lock:
            self._error, openings = error, self._openings
            if permit is self._probe:
                self._open()
            elif self._open_until is None:
                self._in_a_row += 1
                self._count(failed=True)
                if self._in_a_row >= FAILURES or self._fails_often():
                    self._open()
            has_opened = self._openings > openings
        if has_opened:
            self._tell(self.open_s(), error)

    def forget(self, permit: Permit) -> None:
        """Drop a call that tells nothing."""
        with self._lock:
            if permit is self._probe:
                self._probe = None
                self._wake()

    # Inside the lock

    def _wait_s(self) -> float:
        held_s = self._held_s()
        if self._open_until is None:
            return held_s
        now = self._clock()
        if now < self._open_until:
            return max(held_s, self._open_until - now)
        if self._probe and now < self._probe_until:
            return self._probe_until - now
        return held_s

    def _held_s(self) -> float:
        if self._held_until is None:
            return 0.0
        held_s = max(0.0, self._held_until - self._clock())
        if not held_s:
            self._held_until = None
        return held_s

    def _count(self, failed: bool) -> None:
        now = math.floor(self._clock())
        if not self._seconds or self._seconds[-1].number != now:
            self._seconds.append(_Second(now))
        self._seconds[-1].calls += 1
        self._seconds[-1].failures += failed
        while self._seconds[0].number <= now - WINDOW_S:
            self._seconds.popleft()

    def _fails_often(self) -> bool:
        calls = sum(second.calls for second in self._seconds)
        failures = sum(second.failures for second in self._seconds)
        return calls >= LEAST and failures >= SHARE * calls

    def _open(self) -> None:
        seconds = min(OPEN_MAX_S, OPEN_S * 2 ** min(self._openings, 10))
        self._openings += 1
        self._open_until = self._clock() + seconds
        self._forget_calls()
        self._wake()
        logger.warning("%s fails: it is left alone for %g s", self._name, seconds)

    def _close(self) -> None:
        self._open_until = None
        self._forget_calls()
        self._wake()
        logger.warning("%s answers again", self._name)

    def _wake(self) -> None:
        for wake in self._wakers:
            wake()

    def _forget_calls(self) -> None:
        self._probe = None
        self._seconds.clear()
        self._in_a_row = 0
