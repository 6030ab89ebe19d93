"""Which of a model's targets may be asked now, and the wait until one may."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from orchestrator.routing.slots import wait_for_any
from orchestrator.routing.target import Entry, Target
from orchestrator.stop import StopSignal


class Choice:
    """The targets of a model, of which number 0 is preferred.

    One that fails is waited for no longer than ``patience_s``. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets = targets
        self._patience_s = patience_s
        self._clock = clock

    def has_room(self) -> bool:
        """Return whether a target may be asked now, or none that is worth waiting for."""
        full = False
        for target in self._targets:
            if not target.breaker.wait_s():
                if not target.slots.limited or target.slots.has_room:
                    return True
                full = True
        return not full and self.is_in_vain()

    def is_in_vain(self) -> bool:
        """Return whether all are left alone for longer than is waited for: who asks fails now."""
        opened = [target.breaker.open_s() for target in self._targets]
        return min(opened) > self._patience_s

    def enter_now(self, index: int, placed: bool = False) -> Entry | None:
        """Return a permit for a target, without waiting; ``placed``: it has a place already.

        The permit first, then the place: a place that is given back would wake all that wait.
        """
        target = self._targets[index]
        permit = target.breaker.enter() if placed or target.slots.has_room else None
        if permit and (placed or target.slots.take()):
            return Entry(index, target, permit)
        if permit:
            permit.leave()
        if placed:
            target.slots.give()
        return None

    def enter(self, choices: Sequence[int], stop: StopSignal, deadline: float) -> Entry | None:
        """Return leave for the first of ``choices`` that may be asked and has a free place.

        Where all are full, the first place that comes free is waited for. Where all are to be
        left alone, the first that isn't any more is: one that wants to be as long as the deadline
        allows, one that fails no longer than a Retry-After is waited for, and a probe's end longer,
        since it may come at any time. Returns None where that is too long. Raises Stopped.
        """
        until = deadline
        while True:
            ready = [index for index in choices if not self._targets[index].breaker.wait_s()]
            for index in ready:
                if entry := self.enter_now(index):
                    return entry
            if not ready:
                until = min(until, self._clock() + self._patience_s)
                if not self._is_worth_a_wait(choices, until, deadline):
                    return None
            taken = self._wait(choices, ready, stop, deadline)
            if taken is not None and (entry := self.enter_now(taken, placed=True)):
                return entry

    def _is_worth_a_wait(self, choices: Sequence[int], until: float, deadline: float) -> bool:
        """Whether one of them may be asked in time: by ``until`` where it fails."""
        now = self._clock()
        breakers = [self._targets[index].breaker for index in choices]
        return now < deadline and any(
            now + breaker.open_s() <= until and now + breaker.held_s() < deadline
            for breaker in breakers
        )

    def _wait(
        self, choices: Sequence[int], ready: Sequence[int], stop: StopSignal, deadline: float
    ) -> int | None:
        """Wait for a place at one of ``ready``, and return it; None once another may be asked."""
        woken = threading.Event()
        rest = [self._targets[index].breaker for index in choices if index not in ready]
        with ExitStack() as stack:
            for breaker in rest:
                stack.enter_context(breaker.waking(woken.set))
            seconds = min((breaker.wait_s() for breaker in rest), default=None)
            if seconds is not None and not ready:
                seconds = min(seconds, deadline - self._clock())
            lines = [self._targets[index].slots for index in ready]
            taken = wait_for_any(lines, stop, woken, seconds)
        return next((index for index in ready if self._targets[index].slots is taken), None)
