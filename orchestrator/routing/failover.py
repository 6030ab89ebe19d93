"""The route over several targets: one after the other, under one deadline."""

import copy
import random
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.backends.base import Message
from orchestrator.errors import RunError, UpstreamError
from orchestrator.job import GenerateRequest
from orchestrator.routing.attempt import Failures, ask
from orchestrator.routing.base import Admission, Attempt, Stream
from orchestrator.routing.choice import Choice
from orchestrator.routing.outage import unavailable
from orchestrator.routing.retry import Plan, Policy, Step
from orchestrator.routing.silence import Patience
from orchestrator.routing.target import Entry, Target
from orchestrator.stop import StopSignal
from orchestrator.stores.alarms import Alarm


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
        self._choice = Choice(targets, policy.retry_after_max_s, clock)
        self._freely = Admission(self, lambda: None)

    def has_room(self) -> bool:
        """Return whether a target may be asked now, or none that is worth waiting for."""
        return self._choice.has_room()

    def admit(self) -> Admission | None:
        """Hold leave and a place at the first target that may be asked and has one."""
        full = False
        for index, target in enumerate(self._targets):
            if target.breaker.wait_s():
                continue
            if target.breaker.is_closed and not target.slots.limited:
                return self._freely
            if entry := self._choice.enter_now(index):
                held = _Held(self, entry)
                return Admission(held, held.leave)
            full = True
        return self._freely if not full and self._choice.is_in_vain() else None

    def alike(self, request: GenerateRequest) -> None:
        """No two requests share a call here."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called each time that a place at a target comes free."""
        for target in self._targets:
            target.slots.watch(wake)

    def check(self) -> None:
        """Raise PipelineUnavailable while every target is known to fail."""
        opened = [target.breaker.open_s() for target in self._targets]
        if not all(opened):
            return
        error = self._targets[0].breaker.last_error
        raise unavailable(self._model, Alarm(min(opened), error.message if error else ""))

    def stream(
        self,
        request: GenerateRequest,
        messages: Sequence[Message],
        stop: StopSignal,
        held: "_Held | None" = None,
    ) -> Stream:
        """Yield the answer. Raises the most telling attempt's RunError, or Stopped.

        The first attempt takes the place that is ``held``.
        """
        deadline = self._clock() + request.timeout_s
        plan = Plan(self._policy, len(self._targets), deadline, self._rng)
        step: Step | None = plan.first
        attempt = 0
        with Failures(self._clock, deadline) as failures:
            while step:
                _sleep(step.wait_s, stop)
                entry = held and held.take()
                entry = entry or self._choice.enter(step.targets, stop, deadline)
                if not entry:
                    break
                attempt += 1
                try:
                    if attempt > 1 or entry.index:
                        yield Attempt(attempt, entry.target.name)
                    patience_s = self._patience_s(step.targets, entry, deadline)
                    if patience_s is None:
                        yield from ask(entry, request, messages, stop, failures)
                    else:
                        with Patience(stop, patience_s) as patience:
                            yield from ask(entry, request, messages, stop, failures, patience)
                    return
                except RunError as error:
                    stop.check()
                    step = plan.after(entry.index, error, self._clock())
                    again = step is not None and plan.may_return_to(entry.index)
                    failures.add(entry, error, again)
                finally:
                    entry.leave()
        raise plan.verdict() or _unavailable(self._targets)

    def _patience_s(self, choices: Sequence[int], entry: Entry, deadline: float) -> float | None:
        """Return how long a target may keep silent, so that those after it have as long.

        None where nobody is left to ask, or the backend itself gives up sooner.
        """
        if len(choices) == 1:
            return None
        others = [self._targets[index] for index in choices if index != entry.index]
        left = 1 + sum(not other.is_left_alone for other in others)
        share_s = max(0.0, deadline - self._clock()) / left
        return share_s if left > 1 and share_s < entry.target.silence_s else None


class _Held:
    """A route for one request, for which leave and a place at one of its targets are held."""

    def __init__(self, route: Failover, entry: Entry) -> None:
        self.name = route.name
        self._route = route
        self._entry = [entry]

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Stream:
        return self._route.stream(request, messages, stop, self)

    def take(self) -> Entry | None:
        """Return what is held, to whoever comes first; it is theirs."""
        try:
            return self._entry.pop()
        except IndexError:
            return None

    def leave(self) -> None:
        """Give back what nobody has taken."""
        if entry := self.take():
            entry.leave()


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
