"""Which failures are worth another attempt, where, and after which wait."""

import pytest

from orchestrator.errors import (
    RunError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
)
from orchestrator.routing.retry import (
    BACKOFF_MAX_S,
    BACKOFF_S,
    MOST_ATTEMPTS,
    Plan,
    Policy,
    Step,
    Verdict,
    backoff,
    judge,
)

DEADLINE = 100.0

REFUSED = UpstreamError("refused")
BUSY = UpstreamError("busy", status=429)
BROKEN = UpstreamError("broken", status=500)
LOCKED = UpstreamError("locked", status=401)
CUT = UpstreamTruncated("cut")
SILENT = UpstreamTimeout("silent", stage="first_token")
STALLED = UpstreamTimeout("stalled", stage="idle")
WRONG = UpstreamRejected("wrong", status=400)
TOO_LONG = UpstreamRejected("too long", status=400, reason="context_length")
INDECENT = UpstreamRejected("indecent", status=400, reason="content_policy")


def asked_to_wait(seconds: float) -> UpstreamError:
    return UpstreamError("busy", status=429, retry_after=seconds)


def a_plan(targets: int, retries: int = 2, retry_after_max_s: float = 5.0) -> Plan:
    """A plan whose every wait is the longest that it can be."""
    return Plan(Policy(retries, retry_after_max_s), targets, DEADLINE, rng=lambda: 1.0)


def targets_asked(plan: Plan, *errors: RunError) -> list[int]:
    """Who is asked while attempts fail with ``errors`` in order, the last one again and again."""
    asked = []
    step: Step | None = plan.first
    while step:
        target = step.targets[0]
        error = errors[min(len(asked), len(errors) - 1)]
        asked.append(target)
        step = plan.after(target, error, now=0.0)
    return asked


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert judge(UpstreamError("no", status=status)) is Verdict.ANYONE


@pytest.mark.parametrize("error", [REFUSED, CUT, STALLED], ids=str)
def test_what_breaks_on_the_way_is_tried_again(error: RunError) -> None:
    assert judge(error) is Verdict.ANYONE


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 405, 413, 422])
def test_what_is_meant_so_is_not_asked_for_again_at_the_same_target(status: int) -> None:
    assert judge(UpstreamError("no", status=status)) is Verdict.ANOTHER
    assert judge(UpstreamRejected("no", status=status)) is Verdict.ANOTHER


@pytest.mark.parametrize("stage", ["connect", "first_token"])
def test_a_silent_target_is_not_asked_again(stage: str) -> None:
    assert judge(UpstreamTimeout("silent", stage=stage)) is Verdict.ANOTHER


def test_content_that_is_refused_on_principle_is_shown_to_no_other() -> None:
    assert judge(INDECENT) is Verdict.NOBODY


@pytest.mark.parametrize(
    ("error", "alone", "with_fallback"),
    [
        (BROKEN, [0, 0, 0], [0, 0, 1, 1, 1]),
        (CUT, [0, 0, 0], [0, 0, 1, 1, 1]),
        (SILENT, [0], [0, 1]),
        (LOCKED, [0], [0, 1]),
        (WRONG, [0], [0, 1]),
        (INDECENT, [0], [0]),
        (asked_to_wait(4), [0, 0, 0], [0, 0, 1, 1, 1]),
        (asked_to_wait(30), [0, 0, 0], [0, 1, 0, 1, 0, 1]),
    ],
    ids=lambda value: getattr(value, "message", None),
)
def test_each_failure_has_its_way(
    error: RunError, alone: list[int], with_fallback: list[int]
) -> None:
    assert targets_asked(a_plan(1), error) == alone
    assert targets_asked(a_plan(2), error) == with_fallback


def test_what_is_too_long_goes_on_once() -> None:
    assert targets_asked(a_plan(3), TOO_LONG) == [0, 1]


def test_no_retries_still_means_one_attempt_at_each_target() -> None:
    assert targets_asked(a_plan(3, retries=0), BROKEN) == [0, 1, 2]


def test_ten_attempts_are_all() -> None:
    assert targets_asked(a_plan(1, retries=9), BROKEN) == [0] * MOST_ATTEMPTS
    assert len(targets_asked(a_plan(8, retries=9), BROKEN)) == MOST_ATTEMPTS


@pytest.mark.parametrize("targets", range(2, 11))
def test_whoever_fails_leaves_an_attempt_to_each_other(targets: int) -> None:
    asked = targets_asked(a_plan(targets, retries=9), BROKEN)
    assert sorted(set(asked)) == list(range(targets))
    assert asked[:2] == ([0, 1] if targets == 10 else [0, 0])


def test_a_target_that_was_passed_by_is_asked_once_the_others_have_failed() -> None:
    plan = a_plan(2)
    assert plan.after(1, LOCKED, now=0.0) == Step([0])


def test_the_next_target_is_asked_at_once() -> None:
    assert a_plan(2).after(0, SILENT, now=0.0) == Step([1], 0.0)


def test_a_target_in_waiting_may_be_replaced_by_one_that_has_room() -> None:
    assert a_plan(2).after(0, BROKEN, now=0.0) == Step([0, 1], BACKOFF_S)


def test_what_the_provider_asks_for_is_waited_for_and_up_to_a_tenth_more() -> None:
    assert a_plan(2).after(0, asked_to_wait(4.5), now=0.0) == Step([0, 1], pytest.approx(4.95))
    assert a_plan(1).after(0, asked_to_wait(60), now=0.0) == Step([0], 60 + 0.1 * 40)
    eager = Plan(Policy(), 1, DEADLINE, rng=lambda: 0.0)
    assert eager.after(0, asked_to_wait(4.5), now=0.0) == Step([0], 4.5)


def test_the_tenth_more_never_goes_past_the_deadline() -> None:
    step = a_plan(1).after(0, asked_to_wait(99), now=0.0)
    assert step
    assert 99 < step.wait_s < DEADLINE


def test_a_target_that_asks_for_a_long_wait_is_asked_again_once_no_other_is_left() -> None:
    plan = a_plan(2)
    assert plan.after(0, asked_to_wait(10), now=0.0) == Step([1])
    assert plan.may_return_to(0)
    assert plan.after(1, LOCKED, now=1.0) == Step([0], 10.0)
    assert not plan.may_return_to(1)


def test_its_wait_runs_while_the_others_are_asked() -> None:
    plan = a_plan(2)
    plan.after(0, asked_to_wait(10), now=0.0)
    assert plan.after(1, LOCKED, now=30.0) == Step([0], 0.0)


def test_of_several_set_aside_the_one_that_may_be_asked_first_is() -> None:
    plan = a_plan(3)
    plan.after(0, asked_to_wait(30), now=0.0)
    plan.after(1, asked_to_wait(10), now=0.0)
    assert plan.after(2, LOCKED, now=1.0) == Step([1], 10.0)
    assert plan.after(1, LOCKED, now=11.0) == Step([0], 22.0)
    assert plan.after(0, LOCKED, now=33.0) is None


def test_a_wait_past_the_deadline_is_not_begun_later_either() -> None:
    plan = a_plan(2)
    assert plan.after(0, asked_to_wait(120), now=0.0) == Step([1])
    assert plan.after(1, LOCKED, now=1.0) is None


def test_a_provider_that_asks_for_no_wait_is_not_hammered() -> None:
    assert a_plan(1).after(0, asked_to_wait(0), now=0.0) == Step([0], BACKOFF_S)


def test_no_wait_goes_past_the_deadline() -> None:
    assert a_plan(1).after(0, asked_to_wait(60), now=50.0) is None
    assert a_plan(2).after(0, asked_to_wait(4), now=99.0) == Step([1])
    assert a_plan(1).after(0, BROKEN, now=99.9) is None


def test_waits_double_up_to_a_limit_and_are_spread_over_all_of_it() -> None:
    longest = [backoff(failures, lambda: 1.0) for failures in range(1, 10)]
    assert longest[:4] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S]
    assert longest[-1] == BACKOFF_MAX_S
    assert backoff(3, lambda: 0.0) == 0.0
    assert backoff(2000) <= BACKOFF_MAX_S


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([(0, BROKEN), (1, REFUSED)], BROKEN),
        ([(0, REFUSED), (0, BROKEN), (1, CUT)], BROKEN),
        ([(0, BROKEN), (1, LOCKED)], BROKEN),
        ([(0, LOCKED), (1, BROKEN)], BROKEN),
        ([(0, BROKEN), (1, WRONG)], WRONG),
        ([(0, SILENT), (1, LOCKED)], SILENT),
        ([(0, TOO_LONG), (1, INDECENT)], INDECENT),
    ],
    ids=str,
)
def test_the_most_telling_failure_is_told(
    failures: list[tuple[int, RunError]], told: RunError
) -> None:
    plan = a_plan(2)
    for target, error in failures:
        plan.after(target, error, now=0.0)
    assert plan.verdict() is told


def test_without_a_failure_there_is_nothing_to_tell() -> None:
    assert a_plan(1).verdict() is None
