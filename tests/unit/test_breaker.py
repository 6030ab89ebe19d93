"""A breaker opens, waits, tries once, and never stays stuck."""

import threading
import tracemalloc
from collections.abc import Callable

import pytest

from orchestrator.errors import RunError, UpstreamError
from orchestrator.routing.breaker import PROBE_S, SILENCE_S, WINDOW_S, Breaker, Permit
from tests.fakes.clock import Clock

ERROR = UpstreamError("The provider is down; try again later.")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("primary/big", clock)


def enter(breaker: Breaker) -> Permit:
    permit = breaker.enter()
    assert permit
    return permit


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        enter(breaker).failed(ERROR)


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        enter(breaker).succeeded()


def test_five_failures_in_a_row_open_it_for_five_seconds(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 4)
    assert breaker.wait_s() == breaker.open_s() == 0
    fail(breaker)
    assert breaker.open_s() == pytest.approx(5.0)
    assert breaker.enter() is None
    assert breaker.last_error is ERROR
    clock.advance(5.01)
    assert breaker.open_s() == 0
    assert breaker.enter()


def test_a_success_between_them_begins_the_count_anew(breaker: Breaker) -> None:
    for _ in range(2):
        fail(breaker, 4)
        succeed(breaker, 9)
    assert breaker.open_s() == 0


def test_half_of_ten_calls_open_it(breaker: Breaker) -> None:
    succeed(breaker, 5)
    fail(breaker, 4)
    assert breaker.open_s() == 0
    fail(breaker)
    assert breaker.open_s() > 0


def test_half_of_nine_calls_do_not(breaker: Breaker) -> None:
    for _ in range(4):
        fail(breaker)
        succeed(breaker)
    fail(breaker)
    assert breaker.open_s() == 0


def test_old_calls_do_not_count(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        fail(breaker)
        succeed(breaker)
    clock.advance(WINDOW_S + 0.01)
    fail(breaker)
    succeed(breaker)
    assert breaker.open_s() == 0


def test_what_is_remembered_does_not_grow_with_the_calls(clock: Clock) -> None:
    def held(calls: int) -> int:
        breaker = Breaker("primary/big", clock)
        tracemalloc.start()
        try:
            for _ in range(calls):
                clock.advance(WINDOW_S / calls / 2)
                enter(breaker).succeeded()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    held(100)
    assert held(20_000) < held(200) + 50_000


def test_each_opening_in_a_row_is_twice_as_long_up_to_a_minute(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, 5)
    lengths = []
    for _ in range(6):
        lengths.append(breaker.open_s())
        clock.advance(lengths[-1] + 0.01)
        fail(breaker)
    assert lengths == pytest.approx([5, 10, 20, 40, 60, 60])


def test_a_whole_answer_makes_the_next_opening_short_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.advance(5.01)
    fail(breaker)
    clock.advance(10.01)
    succeed(breaker)
    fail(breaker, 5)
    assert breaker.open_s() == pytest.approx(5.0)


def half_open(breaker: Breaker, clock: Clock) -> Permit:
    fail(breaker, 5)
    clock.advance(5.01)
    return enter(breaker)


def test_only_one_probe_goes_at_a_time(breaker: Breaker, clock: Clock) -> None:
    probe = half_open(breaker, clock)
    assert breaker.enter() is None
    assert breaker.wait_s() > 0
    assert breaker.open_s() == 0, "submits may come: the probe will tell"
    probe.succeeded()
    assert breaker.enter()


def test_the_probes_first_token_lets_others_in(breaker: Breaker, clock: Clock) -> None:
    probe = half_open(breaker, clock)
    probe.alive()
    assert breaker.enter()


def test_answers_that_begin_and_break_open_it_for_longer(breaker: Breaker, clock: Clock) -> None:
    probe = half_open(breaker, clock)
    probe.alive()
    probe.failed(ERROR)
    fail(breaker, 4)
    assert breaker.open_s() == pytest.approx(10.0)


def test_a_probe_that_is_cancelled_makes_place_for_another(breaker: Breaker, clock: Clock) -> None:
    half_open(breaker, clock).leave()
    assert breaker.enter()


def test_a_probe_that_is_never_reported_on_makes_place_for_another(
    breaker: Breaker, clock: Clock
) -> None:
    lost = half_open(breaker, clock)
    clock.advance(PROBE_S + 0.01)
    other = enter(breaker)
    lost.failed(ERROR)
    assert breaker.enter() is None, "the second probe is still under way"
    other.succeeded()
    assert breaker.enter()


def test_calls_from_before_it_opened_change_nothing(breaker: Breaker) -> None:
    slow, late = enter(breaker), enter(breaker)
    fail(breaker, 5)
    slow.succeeded()
    late.failed(ERROR)
    assert breaker.open_s() == pytest.approx(5.0)


def test_a_failure_that_is_postponed_counts_once_it_is_reported(breaker: Breaker) -> None:
    fail(breaker, 4)
    postponed = [enter(breaker).failed_for_now(ERROR) for _ in range(2)]
    assert breaker.open_s() == 0
    for permit in postponed:
        assert permit
        permit.failed(ERROR)
    assert breaker.open_s() > 0


def test_a_probe_that_fails_keeps_its_own_request_away_too(breaker: Breaker, clock: Clock) -> None:
    assert half_open(breaker, clock).failed_for_now(ERROR) is None
    assert breaker.open_s() == pytest.approx(10.0)


@pytest.mark.parametrize("end", [Permit.alive, Permit.leave, lambda probe: probe.failed(ERROR)])
def test_whoever_waits_for_the_probe_is_woken_at_its_end(
    breaker: Breaker, clock: Clock, end: Callable[[Permit], None]
) -> None:
    probe, woken = half_open(breaker, clock), threading.Event()
    with breaker.waking(woken.set):
        assert not woken.is_set()
        end(probe)
    assert woken.is_set()


def keep_silent(breaker: Breaker, clock: Clock, seconds: float, times: int = 12) -> None:
    """Let calls be ended by us after that many seconds of silence each."""
    for _ in range(times):
        if permit := breaker.enter():
            clock.advance(seconds)
            permit.silent(ERROR)


def test_silence_opens_it_as_failures_do(breaker: Breaker, clock: Clock) -> None:
    keep_silent(breaker, clock, SILENCE_S, 4)
    assert breaker.open_s() == 0
    keep_silent(breaker, clock, SILENCE_S, 1)
    assert breaker.open_s() > 0
    assert breaker.last_error is ERROR


def test_clients_in_a_hurry_do_not_open_it(breaker: Breaker, clock: Clock) -> None:
    keep_silent(breaker, clock, SILENCE_S / 2)
    assert breaker.open_s() == 0


def test_what_a_target_takes_usually_is_no_silence(breaker: Breaker, clock: Clock) -> None:
    for seconds in (2.0, 1.0, 3.0):
        permit = enter(breaker)
        clock.advance(seconds)
        permit.alive()
        permit.succeeded()
    keep_silent(breaker, clock, 3.0)
    assert breaker.open_s() == 0
    keep_silent(breaker, clock, 5.0, 5)
    assert breaker.open_s() > 0


def test_a_probe_that_was_too_short_to_tell_makes_place_for_another(
    breaker: Breaker, clock: Clock
) -> None:
    probe = half_open(breaker, clock)
    clock.advance(SILENCE_S / 2)
    assert not probe.silent(ERROR)
    assert breaker.wait_s() == 0
    probe = enter(breaker)
    clock.advance(SILENCE_S)
    assert probe.silent(ERROR)
    assert breaker.open_s() > 0


def test_held_it_lets_nobody_through_and_is_not_open(breaker: Breaker, clock: Clock) -> None:
    breaker.hold(20, ERROR)
    assert (breaker.wait_s(), breaker.held_s(), breaker.open_s()) == pytest.approx((20, 20, 0))
    assert breaker.enter() is None
    assert not breaker.is_closed
    assert breaker.last_error is ERROR
    clock.advance(20.01)
    assert breaker.wait_s() == breaker.held_s() == 0
    assert breaker.is_closed
    assert [breaker.enter() is not None for _ in range(3)] == [True] * 3, "there is no probe"


def test_a_shorter_hold_takes_nothing_from_a_longer_one(breaker: Breaker) -> None:
    breaker.hold(20, ERROR)
    breaker.hold(1, ERROR)
    assert breaker.held_s() == pytest.approx(20)


def test_no_hold_lasts_longer_than_a_minute(breaker: Breaker) -> None:
    breaker.hold(86_400, ERROR)
    assert breaker.held_s() == pytest.approx(60)


def test_held_and_open_it_waits_for_the_end_of_both(breaker: Breaker, clock: Clock) -> None:
    breaker.hold(20, ERROR)
    late = Permit(breaker, clock())
    for _ in range(5):
        breaker.add_failure(late, ERROR)
    assert (breaker.wait_s(), breaker.open_s()) == pytest.approx((20, 5))
    clock.advance(20.01)
    assert [breaker.enter() is not None for _ in range(2)] == [True, False], "one probes"


def test_whoever_waits_is_woken_as_it_is_held(breaker: Breaker) -> None:
    woken = threading.Event()
    with breaker.waking(woken.set):
        breaker.hold(1, ERROR)
    assert woken.is_set()


def test_it_tells_of_each_opening_and_of_each_answer(clock: Clock) -> None:
    told: list[tuple[float, RunError | None]] = []
    breaker = Breaker("primary/big", clock, lambda *what: told.append(what))
    succeed(breaker)
    fail(breaker, 5)
    assert told == [(0.0, None), (pytest.approx(5.0), ERROR)]
    late = Permit(breaker, clock())
    breaker.add_success(late)
    breaker.hold(1, ERROR)
    assert len(told) == 2, "one from before it opened tells nothing, nor does a hold"
    clock.advance(5.01)
    enter(breaker).alive()
    assert told[2:] == [(0.0, None)]


def test_only_the_first_report_counts(breaker: Breaker) -> None:
    fail(breaker, 4)
    permit = enter(breaker)
    permit.succeeded()
    permit.failed(ERROR)
    permit.leave()
    fail(breaker, 4)
    assert breaker.open_s() == 0
