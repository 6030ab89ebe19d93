"""The route over several targets: one after the other, under one deadline."""

import copy
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from orchestrator.backends.base import Backend, Finish, Message
from orchestrator.errors import (
    DeadlineExceeded,
    PipelineUnavailable,
    RunError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTruncated,
)
from orchestrator.events import Usage
from orchestrator.job import GenerateRequest
from orchestrator.routing.base import Admission, Attempt
from orchestrator.routing.breaker import Breaker, Permit
from orchestrator.routing.retry import Plan, Policy, Step
from orchestrator.routing.silence import Patience, Silence
from orchestrator.routing.slots import Slots, wait_for_any
from orchestrator.stop import StopSignal

_ABOUT_A_PROMPT = frozenset({"callable", "too_large", "tool"})
"""Failures that one prompt may bring about at a sound target: others must not suffer for it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a backend. Targets of one backend share its slots, those of one model too its
    breaker.

    ``silence_s`` is how long the backend itself waits at most until an answer begins.
    """

    name: str
    backend: Backend
    breaker: Breaker
    slots: Slots
    silence_s: float = math.inf


@dataclass(frozen=True, slots=True)
class _Entry:
    """Leave to ask a target, and the place there that is held for it."""

    index: int
    target: Target
    permit: Permit


class Failover:
    """Asks its targets in order until one has given a whole answer.

    The request's ``timeout_s`` runs from the call of ``stream``; whoever runs the request ends it
    then. The route only begins no wait that is known to end later; nobody knows when a place at a
    full backend comes free. Whoever waits keeps its thread. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        model: str,
        targets: Sequence[Target],
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = targets[0].name
        self._model = model
        self._targets = targets
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._freely = Admission(self, lambda: None)

    def has_room(self) -> bool:
        """Return whether a target may be asked now, or none that is worth waiting for."""
        full = False
        for target in self._targets:
            if not target.breaker.wait_s():
                if not target.slots.limited or target.slots.has_room:
                    return True
                full = True
        return not full and self._is_in_vain()

    def admit(self) -> Admission | None:
        """Hold leave and a place at the first target that may be asked and has one."""
        full = False
        for index, target in enumerate(self._targets):
            if target.breaker.wait_s():
                continue
            if target.breaker.is_closed and not target.slots.limited:
                return self._freely
            if entry := self._enter_now(index):
                held = _Held(self, entry)
                return Admission(held, held.leave)
            full = True
        return self._freely if not full and self._is_in_vain() else None

    def alike(self, request: GenerateRequest) -> None:
        """No two requests share a call here."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called each time that a place at a target comes free."""
        for target in self._targets:
            target.slots.watch(wake)

    def _is_in_vain(self) -> bool:
        """Whether all are left alone for longer than is waited for: a request fails at once."""
        opened = [target.breaker.open_s() for target in self._targets]
        return min(opened) > self._policy.retry_after_max_s

    def check(self) -> None:
        """Raise PipelineUnavailable while every target is known to fail."""
        opened = [target.breaker.open_s() for target in self._targets]
        if not all(opened):
            return
        error = self._targets[0].breaker.last_error
        raise PipelineUnavailable(
            f"Nothing answers for the model {self._model} at the moment"
            + (f". {error.message}" if error else "; try again later."),
            retry_after=math.ceil(min(opened)),
        )

    def stream(
        self,
        request: GenerateRequest,
        messages: Sequence[Message],
        stop: StopSignal,
        held: "_Held | None" = None,
    ) -> Generator[str | Usage | Attempt | Finish, None, None]:
        """Yield the answer. Raises the most telling attempt's RunError, or Stopped.

        The first attempt takes the place that is ``held``.
        """
        deadline = self._clock() + request.timeout_s
        plan = Plan(self._policy, len(self._targets), deadline, self._rng)
        step: Step | None = plan.first
        attempt = 0
        with _Failures(self._clock, deadline) as failures:
            while step:
                _sleep(step.wait_s, stop)
                entry = held and held.take()
                entry = entry or self._enter(step.targets, stop, plan, deadline)
                attempt += 1
                try:
                    if attempt > 1 or entry.index:
                        yield Attempt(attempt, entry.target.name)
                    patience_s = self._patience_s(step.targets, entry, deadline)
                    if patience_s is None:
                        yield from _ask(entry, request, messages, stop, failures)
                    else:
                        with Patience(stop, patience_s) as patience:
                            yield from _ask(entry, request, messages, stop, failures, patience)
                    return
                except RunError as error:
                    stop.check()
                    step = plan.after(entry.index, error, self._clock())
                    again = step is not None and plan.may_return_to(entry.index)
                    failures.add(entry, error, again)
                finally:
                    entry.permit.leave()
                    entry.target.slots.give()
        raise plan.verdict() or _unavailable(self._targets)

    def _enter(
        self, choices: Sequence[int], stop: StopSignal, plan: Plan, deadline: float
    ) -> _Entry:
        """Return leave for the first target that may be asked and has a free place.

        Where all are full, the first place that comes free is waited for. Where all are to be
        left alone, the first that isn't any more is, for as long as a Retry-After would be and
        not past the deadline; a probe's end is waited for longer, since it may come at any time.
        Raises RunError where that is too long.
        """
        until = deadline
        while True:
            allowed = [index for index in choices if not self._targets[index].breaker.wait_s()]
            if entry := self._enter_one_of(allowed, stop):
                return entry
            if not allowed:
                until = min(until, self._clock() + self._policy.retry_after_max_s)
                breakers = [self._targets[index].breaker for index in choices]
                if not self._wait_for_leave(breakers, stop, until, deadline):
                    raise plan.verdict() or _unavailable(self._targets)

    def _patience_s(self, choices: Sequence[int], entry: _Entry, deadline: float) -> float | None:
        """Return how long a target may keep silent, so that those after it have as long.

        None where nobody is left to ask, or the backend itself gives up sooner.
        """
        if len(choices) == 1:
            return None
        others = [self._targets[index] for index in choices if index != entry.index]
        left = 1 + sum(not other.breaker.open_s() for other in others)
        share_s = max(0.0, deadline - self._clock()) / left
        return share_s if left > 1 and share_s < entry.target.silence_s else None

    def _wait_for_leave(
        self, breakers: Sequence[Breaker], stop: StopSignal, until: float, deadline: float
    ) -> bool:
        """Wait until one of them may let a call through; False where that is too late."""
        woken = threading.Event()
        with ExitStack() as stack:
            stack.enter_context(stop.waking(woken.set))
            for breaker in breakers:
                stack.enter_context(breaker.waking(woken.set))
            now = self._clock()
            wait_s = min(breaker.wait_s() for breaker in breakers)
            known = all(breaker.open_s() for breaker in breakers)
            if now >= deadline or (known and now + wait_s > until):
                return False
            woken.wait(min(wait_s, deadline - now))
        stop.check()
        return True

    def _enter_now(self, index: int) -> _Entry | None:
        """Return leave for a target, without waiting. In this order: no place is given back."""
        target = self._targets[index]
        if not target.slots.has_room or not (permit := target.breaker.enter()):
            return None
        if target.slots.take():
            return _Entry(index, target, permit)
        permit.leave()
        return None

    def _enter_one_of(self, choices: Sequence[int], stop: StopSignal) -> _Entry | None:
        """Return leave for one of them, waiting for a place where all are full."""
        taken: int | None = None
        for taken in choices:
            if self._targets[taken].slots.take():
                break
        else:
            taken = self._wait_for_place(choices, stop) if choices else None
        if taken is None:
            return None
        target = self._targets[taken]
        permit = target.breaker.enter()
        if permit is None:
            # Its breaker has opened, or lets one try, since it was looked at.
            target.slots.give()
            return None
        return _Entry(taken, target, permit)

    def _wait_for_place(self, choices: Sequence[int], stop: StopSignal) -> int:
        slots = wait_for_any([self._targets[index].slots for index in choices], stop)
        return next(index for index in choices if self._targets[index].slots is slots)


class _Held:
    """A route for one request, for which leave and a place at one of its targets are held."""

    def __init__(self, route: Failover, entry: _Entry) -> None:
        self.name = route.name
        self._route = route
        self._entry = [entry]

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Usage | Attempt | Finish, None, None]:
        return self._route.stream(request, messages, stop, self)

    def take(self) -> _Entry | None:
        """Return what is held, to whoever comes first; it is theirs."""
        try:
            return self._entry.pop()
        except IndexError:
            return None

    def leave(self) -> None:
        """Give back what nobody has taken."""
        if entry := self.take():
            entry.permit.leave()
            entry.target.slots.give()


class _Failures:
    """Tells the breakers of one request's failures, one of each target at most.

    One request that no server can bear must not look like many. So a failure at a target that is
    to be asked once more is kept: it counts at the request's end, unless another report comes.
    """

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._kept: dict[int, tuple[Permit, RunError]] = {}

    def __enter__(self) -> "_Failures":
        return self

    def __exit__(self, *_: object) -> None:
        for permit, error in self._kept.values():
            permit.failed(error)

    def add(self, entry: _Entry, error: RunError, again: bool) -> None:
        """Take a failure; ``again`` where its target may be asked once more."""
        if isinstance(error, Silence):
            self._add_silence(entry, error)
            return
        self.forget(entry)
        if isinstance(error, UpstreamRejected):
            # The target did its part: what came was no good.
            entry.permit.succeeded()
        elif error.details.get("reason") in _ABOUT_A_PROMPT:
            entry.permit.leave()
        elif not again:
            entry.permit.failed(error)
        elif permit := entry.permit.failed_for_now(error):
            self._kept[entry.index] = permit, error

    def add_stop(self, entry: _Entry, stop: StopSignal) -> None:
        """Take the stop of a call that had said nothing: it tells something at the deadline."""
        now = self._clock()
        if isinstance(stop.reason, DeadlineExceeded) or now >= self._deadline:
            self._add_silence(entry, Silence.of(now - entry.permit.since))

    def _add_silence(self, entry: _Entry, error: Silence) -> None:
        if entry.permit.silent(error):
            self.forget(entry)

    def forget(self, entry: _Entry) -> None:
        """Drop what is kept of a target, now that there is something newer to tell."""
        self._kept.pop(entry.index, None)


def _ask(
    entry: _Entry,
    request: GenerateRequest,
    messages: Sequence[Message],
    stop: StopSignal,
    failures: _Failures,
    patience: Patience | None = None,
) -> Generator[str | Usage | Finish, None, None]:
    """Make one attempt, and report how it goes, but for its failure. Raises Silence too."""
    permit, begun = entry.permit, False
    signal = patience.signal if patience else stop
    stream = entry.target.backend.stream(request, messages, signal)
    try:
        for piece in stream:
            if isinstance(piece, Finish):
                failures.forget(entry)
                permit.succeeded()
                yield piece
                return
            if not begun and isinstance(piece, str):
                begun = True
                permit.alive()
                if patience:
                    patience.heard()
            if piece != "":
                yield piece
        raise UpstreamTruncated("The model's answer stopped before its end. Submit it again.")
    except Exception as error:
        if patience and patience.ran_out:
            raise Silence.of(patience.seconds) from error
        if stop.requested and not begun:
            failures.add_stop(entry, stop)
        raise
    finally:
        stream.close()


def _sleep(seconds: float, stop: StopSignal) -> None:
    """Wait, but not past a stop. Raises Stopped."""
    if seconds > 0:
        woken = threading.Event()
        with stop.waking(woken.set):
            woken.wait(seconds)
    stop.check()


def _unavailable(targets: Sequence[Target]) -> RunError:
    """Return what the preferred target failed with last."""
    error = targets[0].breaker.last_error
    if error is None:
        return UpstreamError("Nothing answers for this model at the moment; try again later.")
    # A copy: an error that several threads raise collects all their tracebacks.
    return copy.copy(error)
