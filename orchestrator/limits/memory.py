"""What is counted for callers in this process alone."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence

from orchestrator.limits.base import SLICES, Standing
from orchestrator.limits.known import Known
from orchestrator.rate import Rate


class _Window:
    """The calls of one period, by slices."""

    __slots__ = ("_slices", "count")

    def __init__(self) -> None:
        self._slices: deque[list[int]] = deque()
        self.count = 0

    def forget(self, now: float, period_s: int) -> None:
        """Let go of what was before the window that ends now."""
        first = _slice(now, period_s) - SLICES
        while self._slices and self._slices[0][0] < first:
            self.count -= self._slices.popleft()[1]

    def add(self, now: float, period_s: int) -> None:
        """Count one call."""
        number = _slice(now, period_s)
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0])
        self._slices[-1][1] += 1
        self.count += 1

    def reset_s(self, now: float, period_s: int) -> float:
        """Return in how many seconds the oldest call counts no more; 0 where there is none."""
        if not self._slices:
            return 0.0
        return (self._slices[0][0] + SLICES + 1) * period_s / SLICES - now


def _slice(now: float, period_s: int) -> int:
    return int(now * SLICES // period_s)


class MemoryWindows:
    """See limits.base.Windows. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts = Known[dict[int, _Window]]()

    def __len__(self) -> int:
        return len(self._accounts)

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        with self._lock:
            now = self._clock()
            known = self._accounts.get(account) or {}
            self._accounts.put(account, known)
            windows = [(rate, known.setdefault(rate.period_s, _Window())) for rate in rates]
            for rate, window in windows:
                window.forget(now, rate.period_s)
            is_admitted = all(window.count < rate.amount for rate, window in windows)
            if is_admitted:
                for rate, window in windows:
                    window.add(now, rate.period_s)
            return min(
                (
                    Standing(
                        is_admitted,
                        rate,
                        max(0, rate.amount - window.count),
                        window.reset_s(now, rate.period_s),
                    )
                    for rate, window in windows
                ),
                key=lambda standing: (standing.remaining, -standing.reset_s),
            )


class MemoryPlaces:
    """See limits.base.Places."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, set[str]] = {}

    def take(self, account: str, limit: int) -> str | None:
        with self._lock:
            taken = self._taken.get(account, set())
            if len(taken) >= limit:
                return None
            place = uuid.uuid4().hex
            self._taken.setdefault(account, taken).add(place)
            return place

    def hold(self, account: str, place: str) -> None:
        """Note a place that was taken elsewhere."""
        with self._lock:
            self._taken.setdefault(account, set()).add(place)

    def give_back(self, account: str, place: str) -> None:
        with self._lock:
            taken = self._taken.get(account)
            if taken:
                taken.discard(place)
                if not taken:
                    del self._taken[account]

    def all(self) -> list[tuple[str, str]]:
        """Return each account with each of its places."""
        with self._lock:
            return [(account, place) for account, taken in self._taken.items() for place in taken]
