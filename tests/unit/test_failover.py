"""The route over targets whose breakers are open, half open, or about to open."""

import threading
from collections.abc import Generator, Sequence
from dataclasses import replace

import pytest

from orchestrator.backends.base import Finish, Message
from orchestrator.errors import RunError, UpstreamError
from orchestrator.events import FinishReason
from orchestrator.job import GenerateRequest
from orchestrator.routing.base import Attempt
from orchestrator.routing.breaker import FAILURES, OPEN_S, Breaker
from orchestrator.routing.failover import Failover
from orchestrator.routing.retry import Policy
from orchestrator.routing.silence import Silence
from orchestrator.routing.slots import Slots
from orchestrator.routing.target import Target
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.clock import Clock

DOWN = UpstreamError("The provider is down; try again later.", status=503)


class Told:
    """Answers each call, in order, as it was told to: well, by an error, or once it may."""

    name = "told"

    def __init__(self, *ends: str | RunError | threading.Event) -> None:
        self._ends = list(ends)
        self.calls = 0

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Finish, None, None]:
        end = self._ends[self.calls] if self.calls < len(self._ends) else "hello"
        self.calls += 1
        if isinstance(end, RunError):
            raise end
        if isinstance(end, threading.Event):
            with stop.waking(end.set):
                assert end.wait(WAIT_S)
            stop.check()
        yield "hello"
        yield Finish(FinishReason.STOP)


class Slow:
    """Says nothing until it is let on or stopped, but for a thought where it has one."""

    name = "slow"

    def __init__(self, *thoughts: str) -> None:
        self._thoughts = thoughts
        self.may_speak = threading.Event()
        self.calls = 0

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Finish, None, None]:
        self.calls += 1
        yield from self._thoughts
        with stop.waking(self.may_speak.set):
            assert self.may_speak.wait(WAIT_S)
        stop.check()
        yield "slowly"
        yield Finish(FinishReason.STOP)


class Asker:
    """A request in a thread of its own."""

    def __init__(self, route: Failover, timeout_s: float = 60.0) -> None:
        self.stop = StopSignal()
        self.error: Exception | None = None
        self.heard: list[object] = []
        self._stream = route.stream(a_request(timeout_s=timeout_s), [], self.stop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.heard += self._stream
        except (RunError, Stopped) as error:
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Wait for that long; return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self) -> list[object]:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the answer does not end"
        return self.heard


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_target(backend: Told | Slow, clock: Clock, limit: int | None = None) -> Target:
    return Target(backend.name, backend, Breaker(backend.name, clock), Slots(limit))


def fail(target: Target, times: int = FAILURES, error: RunError = DOWN) -> None:
    """Let that many calls to a target fail."""
    for _ in range(times):
        permit = target.breaker.enter()
        assert permit
        permit.failed(error)


def a_route(clock: Clock, *targets: Target, patience_s: float = 60.0) -> Failover:
    """A route that takes no wait for a retry."""
    return Failover("default", targets, Policy(2, patience_s), clock, rng=lambda: 0.0)


def test_a_breaker_that_is_open_past_the_deadline_is_not_waited_for(clock: Clock) -> None:
    target = a_target(Told(), clock)
    fail(target)
    asker = Asker(a_route(clock, target), timeout_s=OPEN_S / 2)
    asker.end()
    assert isinstance(asker.error, UpstreamError)
    assert asker.error.message == DOWN.message


def test_whoever_finds_a_silent_target_left_alone_is_told_of_its_silence(clock: Clock) -> None:
    target = a_target(Told(), clock)
    fail(target, error=Silence.of(1.0))
    asker = Asker(a_route(clock, target), timeout_s=OPEN_S / 2)
    asker.end()
    assert isinstance(asker.error, Silence)
    assert asker.error is not target.breaker.last_error


@pytest.mark.parametrize("patience_s", [0.0, 5.0])
def test_whoever_comes_during_the_probe_waits_for_its_end(clock: Clock, patience_s: float) -> None:
    may_end = threading.Event()
    backend = Told(may_end)
    target = a_target(backend, clock)
    fail(target)
    clock.advance(OPEN_S + 1)
    route = a_route(clock, target, patience_s=patience_s)
    probe = Asker(route)
    eventually(lambda: backend.calls == 1)
    others = [Asker(route) for _ in range(3)]
    eventually(lambda: len(target.breaker._wakers) == 3 or any(other.error for other in others))
    clock.advance(patience_s + 1)
    may_end.set()
    for asker in (probe, *others):
        assert asker.end() == ["hello", Finish(FinishReason.STOP)], asker.error
    assert backend.calls == 4


def test_when_the_probe_fails_those_who_waited_have_its_error(clock: Clock) -> None:
    backend = Told()
    target = a_target(backend, clock)
    fail(target)
    clock.advance(OPEN_S + 1)
    probe = target.breaker.enter()
    assert probe
    asker = Asker(a_route(clock, target, patience_s=5.0))
    eventually(lambda: target.breaker._wakers or asker.error)
    probe.failed(UpstreamError("Still down."))
    asker.end()
    assert isinstance(asker.error, UpstreamError)
    assert asker.error.message == "Still down."
    assert backend.calls == 0


def test_a_cancel_ends_the_wait_for_the_probe(clock: Clock) -> None:
    target = a_target(Told(), clock)
    fail(target)
    clock.advance(OPEN_S + 1)
    assert target.breaker.enter()
    asker = Asker(a_route(clock, target))
    eventually(lambda: target.breaker._wakers)
    asker.stop.request()
    asker.end()
    assert isinstance(asker.error, Stopped)
    assert not target.breaker._wakers


def test_a_request_that_asks_again_and_again_counts_once(clock: Clock) -> None:
    target = a_target(Told(*[DOWN] * 3 * FAILURES), clock)
    route = a_route(clock, target)
    for number in range(FAILURES):
        assert target.breaker.open_s() == 0, f"after {number} requests"
        Asker(route).end()
    assert target.breaker.open_s() > 0


def test_a_failure_counts_though_its_request_is_stopped_before_it_asks_again(clock: Clock) -> None:
    busy = UpstreamError("busy", status=503, retry_after=30)
    backend = Told(busy)
    target = a_target(backend, clock)
    fail(target, FAILURES - 1)
    asker = Asker(a_route(clock, target))
    eventually(lambda: backend.calls == 1)
    asker.stop.request()
    asker.end()
    eventually(lambda: target.breaker.open_s() > 0, 1.0)


def test_a_failure_counts_though_its_request_goes_to_another_target(clock: Clock) -> None:
    class TakenAtOnce(Slots):
        """One place: whoever gives it back finds it taken by somebody else."""

        def give(self) -> None:
            pass

    first = Told(DOWN)
    target = Target("first", first, Breaker("first", clock), TakenAtOnce(1))
    fail(target, FAILURES - 1)
    heard = Asker(a_route(clock, target, a_target(Told(), clock))).end()
    assert (heard[0], heard[-1]) == (Attempt(2, "told"), Finish(FinishReason.STOP))
    assert first.calls == 1
    assert target.breaker.open_s() > 0


def test_a_success_after_a_failure_makes_it_good(clock: Clock) -> None:
    target = a_target(Told(DOWN), clock)
    fail(target, FAILURES - 1)
    assert Asker(a_route(clock, target)).end()[-1] == Finish(FinishReason.STOP)
    fail(target, FAILURES - 1)
    assert target.breaker.open_s() == 0


def test_silence_hands_over_while_there_is_time(clock: Clock) -> None:
    silent = Slow()
    route = a_route(clock, a_target(silent, clock), a_target(Told(), clock))
    heard = Asker(route, timeout_s=0.2).end()
    assert heard == [Attempt(2, "told"), "hello", Finish(FinishReason.STOP)]
    assert silent.calls == 1


def test_the_time_is_shared_with_none_that_is_left_alone(clock: Clock) -> None:
    slow, other = Slow(), a_target(Told(), clock)
    fail(other)
    asker = Asker(a_route(clock, a_target(slow, clock), other), timeout_s=0.2)
    assert not asker.wait(0.3)
    slow.may_speak.set()
    assert asker.end() == ["slowly", Finish(FinishReason.STOP)]


def test_a_target_that_thinks_is_not_silent(clock: Clock) -> None:
    slow = Slow("")
    asker = Asker(a_route(clock, a_target(slow, clock), a_target(Told(), clock)), timeout_s=0.2)
    assert not asker.wait(0.3)
    slow.may_speak.set()
    assert asker.end() == ["slowly", Finish(FinishReason.STOP)]


def test_a_cancel_ends_the_wait_for_a_silent_target(clock: Clock) -> None:
    slow, target = Slow(), a_target(Told(), clock)
    asker = Asker(a_route(clock, a_target(slow, clock), target))
    eventually(lambda: slow.calls == 1)
    asker.stop.request()
    asker.end()
    assert isinstance(asker.error, Stopped)


def test_who_gives_up_sooner_is_not_cut_short(clock: Clock) -> None:
    slow = Slow()
    quick = replace(a_target(slow, clock), silence_s=0.01)
    asker = Asker(a_route(clock, quick, a_target(Told(), clock)), timeout_s=0.2)
    assert not asker.wait(0.3)
    slow.may_speak.set()
    assert asker.end() == ["slowly", Finish(FinishReason.STOP)]


def test_a_target_that_is_left_alone_is_waited_for_outside(clock: Clock) -> None:
    target = a_target(Told(), clock)
    route = a_route(clock, target, patience_s=OPEN_S)
    fail(target)
    assert not route.has_room()
    assert route.admit() is None
    clock.advance(OPEN_S)
    assert route.has_room()


def test_a_request_starts_at_once_where_it_is_to_fail_at_once(clock: Clock) -> None:
    target = a_target(Told(), clock)
    route = a_route(clock, target, patience_s=OPEN_S / 2)
    fail(target)
    assert route.has_room()
    admission = route.admit()
    assert admission
    with pytest.raises(UpstreamError, match=DOWN.message):
        list(admission.route.stream(a_request(), [], StopSignal()))


def test_a_target_that_asks_for_time_is_left_alone_by_all(clock: Clock) -> None:
    busy = Told(UpstreamError("busy", status=429, retry_after=20))
    target, other = a_target(busy, clock), a_target(Told(), clock)
    route = a_route(clock, target, other, patience_s=5.0)
    assert Asker(route).end()[0] == Attempt(2, "told")

    alone = a_route(clock, target)
    assert not alone.has_room(), "what comes waits in the queue"
    assert alone.admit() is None
    alone.check()
    assert Asker(route).end()[0] == Attempt(1, "told")
    assert busy.calls == 1
    clock.advance(20)
    assert alone.has_room()
    assert Asker(alone).end()[-1] == Finish(FinishReason.STOP)


def test_whoever_has_begun_waits_for_it_up_to_the_deadline(clock: Clock) -> None:
    target = a_target(Told(), clock)
    target.breaker.hold(20, DOWN)
    late = Asker(a_route(clock, target), timeout_s=19)
    late.end()
    assert isinstance(late.error, UpstreamError)
    assert late.error.message == DOWN.message

    in_time = Asker(a_route(clock, target, patience_s=1.0), timeout_s=21)
    assert not in_time.wait(0.1)
    clock.advance(20)
    target.breaker.hold(0.0, DOWN)
    assert in_time.end() == ["hello", Finish(FinishReason.STOP)]


def test_to_be_asked_too_often_is_no_failure(clock: Clock) -> None:
    busy = UpstreamError("busy", status=429, retry_after=1)
    target, other = a_target(Told(*[busy] * 2 * FAILURES), clock), a_target(Told(), clock)
    route = a_route(clock, target, other, patience_s=0.5)
    for _ in range(2 * FAILURES):
        Asker(route).end()
        clock.advance(2)
    assert target.breaker.open_s() == 0


def test_whoever_waits_for_a_place_sees_another_target_come_back(clock: Clock) -> None:
    full, other = a_target(Told(), clock, 1), a_target(Told(), clock)
    assert full.slots.take()
    fail(other)
    asker = Asker(a_route(clock, full, other))
    eventually(lambda: other.breaker._wakers)
    assert not asker.wait(0.1)
    clock.advance(OPEN_S)
    probe = other.breaker.enter()
    assert probe
    probe.alive()
    assert asker.end() == [Attempt(1, "told"), "hello", Finish(FinishReason.STOP)]


def test_whoever_waits_for_a_place_looks_again_when_another_may_be_tried(clock: Clock) -> None:
    full, other = a_target(Told(), clock, 1), a_target(Told(), clock)
    assert full.slots.take()
    fail(other)
    clock.advance(OPEN_S - 0.2)
    asker = Asker(a_route(clock, full, other))
    eventually(lambda: other.breaker._wakers)
    clock.advance(0.2)
    assert asker.end() == [Attempt(1, "told"), "hello", Finish(FinishReason.STOP)]


def test_others_go_to_the_next_target_while_one_is_tried(clock: Clock) -> None:
    slow, target = Slow(), a_target(Told(), clock)
    tried = a_target(slow, clock)
    fail(tried)
    clock.advance(OPEN_S)
    route = a_route(clock, tried, target)
    probe = Asker(route)
    eventually(lambda: slow.calls == 1)
    for other in [Asker(route) for _ in range(3)]:
        assert other.end() == [Attempt(1, "told"), "hello", Finish(FinishReason.STOP)]
    slow.may_speak.set()
    assert probe.end() == ["slowly", Finish(FinishReason.STOP)]
    assert slow.calls == 1


@pytest.mark.parametrize("limit", [None, 1])
def test_one_alone_is_admitted_to_probe(clock: Clock, limit: int | None) -> None:
    target = a_target(Told(), clock, limit)
    route = a_route(clock, target)
    fail(target)
    clock.advance(OPEN_S)
    admission = route.admit()
    assert admission
    assert not route.has_room()
    admission.leave()
    admission.leave()
    assert (probe := route.admit())
    assert list(probe.route.stream(a_request(), [], StopSignal())) == [
        "hello",
        Finish(FinishReason.STOP),
    ]
    assert target.breaker.is_closed
    assert route.has_room()


def test_as_many_are_admitted_as_there_are_places(clock: Clock) -> None:
    one, other = a_target(Told(), clock, 1), a_target(Told(), clock, 2)
    route = a_route(clock, one, other)
    woken: list[int] = []
    route.watch(lambda: woken.append(1))
    admissions = [route.admit() for _ in range(4)]
    assert [admission is not None for admission in admissions] == [True, True, True, False]
    first = admissions[0]
    assert first
    first.leave()
    assert woken == [1]
    assert route.has_room()


def test_a_place_that_was_held_is_given_back_by_whoever_used_it(clock: Clock) -> None:
    target = a_target(Told(), clock, 1)
    route = a_route(clock, target)
    admission = route.admit()
    assert admission
    stream = admission.route.stream(a_request(), [], StopSignal())
    assert next(stream) == "hello"
    admission.leave()
    assert not route.has_room()
    stream.close()
    assert route.has_room()
