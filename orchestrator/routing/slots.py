"""How many calls one backend gets at once, and the line of requests that wait for a place."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from orchestrator.stop import StopSignal


class Slots:
    """The places at one backend; None for no limit. First come, first served."""

    def __init__(self, limit: int | None) -> None:
        self._lock = threading.Lock()
        self._free = limit
        self._waiting: deque[_Waiter] = deque()
        self._wakers: list[Callable[[], None]] = []
        self.limited = limit is not None

    @property
    def has_room(self) -> bool:
        """Whether a place is free."""
        return self._free is None or self._free > 0

    def watch(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called each time that a place is free again and nobody waits here."""
        if self.limited and wake not in self._wakers:
            self._wakers.append(wake)

    def take(self) -> bool:
        """Take a place, without waiting; False where none is free."""
        with self._lock:
            return self._take()

    def give(self) -> None:
        """Give a place back, to whoever has waited longest."""
        with self._lock:
            while self._waiting:
                if self._waiting.popleft().accept(self):
                    return
            if self._free is None:
                return
            self._free += 1
        for wake in self._wakers:
            wake()

    def join(self, waiter: "_Waiter") -> None:
        """Put ``waiter`` in line, or let it in at once where a place is free."""
        with self._lock:
            if not self._free and self._free is not None:
                self._waiting.append(waiter)
            elif waiter.accept(self):
                self._take()

    def quit(self, waiter: "_Waiter") -> None:
        """Take ``waiter`` out of the line."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _take(self) -> bool:
        if self._free is not None:
            if not self._free:
                return False
            self._free -= 1
        return True


class _Waiter:
    """Someone in one or more lines, who takes the first place offered and is ``woken`` then."""

    def __init__(self, woken: threading.Event) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._woken = woken
        self._taken: Slots | None = None

    def accept(self, slots: Slots) -> bool:
        """Take the place, or refuse it."""
        with self._lock:
            if self._taken or self._closed:
                return False
            self._taken = slots
        self._woken.set()
        return True

    def close(self) -> "Slots | None":
        """Refuse all that is still offered, and return what was taken."""
        with self._lock:
            self._closed = True
            return self._taken


def wait_for_any(
    choices: Sequence[Slots],
    stop: StopSignal,
    woken: threading.Event | None = None,
    seconds: float | None = None,
) -> Slots | None:
    """Wait in every line at once, and return where a place was taken.

    None after ``seconds``, or once ``woken`` is set by somebody else. Raises Stopped on a stop.
    """
    woken = woken or threading.Event()
    waiter = _Waiter(woken)
    try:
        with stop.waking(woken.set):
            for slots in choices:
                slots.join(waiter)
            woken.wait(seconds)
        stop.check()
    except BaseException:
        if taken := waiter.close():
            taken.give()
        raise
    finally:
        for slots in choices:
            slots.quit(waiter)
    return waiter.close()
