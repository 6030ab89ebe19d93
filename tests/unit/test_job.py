"""The state machine of a request: every legal move, and no other."""

import itertools

import pytest

from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Terminal,
    Token,
    Usage,
)
from orchestrator.job import TERMINAL, IllegalMove, Job, Status
from tests.fakes.jobs import a_job

STARTED = Started("echo")
STEPS: list[Event] = [STARTED, Token(0, "a"), Restarted(2)]
COMPLETED = Completed(FinishReason.STOP, Usage(3, 4))
FAILED = Failed("UPSTREAM_ERROR", "The provider is down.")
ENDS: list[Terminal] = [COMPLETED, FAILED, Cancelled()]


def running() -> Job:
    return a_job().apply(STARTED, at=10.0)


def ended(event: Terminal) -> Job:
    return running().end(event, "text", at=12.0, retention_s=60)


def test_three_statuses_are_terminal() -> None:
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED} == set(TERMINAL)
    assert [status for status in Status if not status.is_terminal] == ["pending", "processing"]


def test_a_new_request_is_pending() -> None:
    job = a_job()
    assert job.status is Status.PENDING
    assert (job.attempts, job.backend, job.result, job.error) == (0, None, None, None)


def test_a_start_says_when_by_whom_and_that_it_is_the_first_attempt() -> None:
    job = running()
    assert job.status is Status.PROCESSING
    assert (job.started_at, job.backend, job.attempts) == (10.0, "echo", 1)


def test_only_the_first_token_sets_its_time() -> None:
    job = running().apply(Token(0, "a"), at=11.0).apply(Token(1, "b"), at=12.0)
    assert job.first_token_at == 11.0


def test_a_restart_counts_the_attempt() -> None:
    job = running().apply(Restarted(2), at=11.0)
    assert (job.attempts, job.backend) == (2, "echo")
    job = job.apply(Restarted(3, "spare"), at=12.0)
    assert (job.attempts, job.backend) == (3, "spare")


def test_a_completed_request_has_its_text_and_how_it_ended() -> None:
    job = running().end(COMPLETED, "the text", at=12.0, retention_s=60)
    assert job.status is Status.COMPLETED
    assert (job.result, job.finish_reason, job.usage) == ("the text", "stop", Usage(3, 4))
    assert (job.completed_at, job.expires_at) == (12.0, 72.0)
    assert (job.error, job.error_code) == (None, None)


def test_an_empty_answer_is_an_answer() -> None:
    assert running().end(COMPLETED, "", at=12.0, retention_s=60).result == ""


def test_a_failed_request_has_no_result_but_a_cause() -> None:
    event = Failed("DEADLINE_EXCEEDED", "Too late.", stage="run")
    job = running().end(event, "half of it", at=12.0, retention_s=60)
    assert job.status is Status.FAILED
    assert (job.result, job.finish_reason) == (None, "error")
    assert (job.error, job.error_code, job.error_stage) == ("Too late.", "DEADLINE_EXCEEDED", "run")
    assert job.expires_at == 72.0


def test_a_cancelled_request_keeps_what_was_generated() -> None:
    job = running().end(Cancelled(), "half of it", at=12.0, retention_s=60)
    assert job.status is Status.CANCELLED
    assert (job.result, job.finish_reason, job.error) == ("half of it", "cancelled", None)
    assert job.expires_at == 72.0


def test_a_request_cancelled_before_its_first_token_has_no_result() -> None:
    assert a_job().end(Cancelled(), "", at=12.0, retention_s=60).result is None


@pytest.mark.parametrize("event", [FAILED, Cancelled()])
def test_a_request_that_waits_can_fail_and_be_cancelled(event: Terminal) -> None:
    assert a_job().end(event, "", at=12.0, retention_s=60).status.is_terminal


def test_a_request_that_never_ran_cannot_complete() -> None:
    with pytest.raises(IllegalMove):
        a_job().end(COMPLETED, "", at=12.0, retention_s=60)


@pytest.mark.parametrize("event", [Token(0, "a"), Restarted(2)])
def test_nothing_but_a_start_comes_first(event: Event) -> None:
    with pytest.raises(IllegalMove):
        a_job().apply(event, at=10.0)


def test_a_request_starts_once() -> None:
    with pytest.raises(IllegalMove):
        running().apply(STARTED, at=11.0)


@pytest.mark.parametrize("event", ENDS)
def test_an_end_is_not_applied_like_a_step(event: Terminal) -> None:
    with pytest.raises(IllegalMove):
        running().apply(event, at=11.0)


@pytest.mark.parametrize(("end", "step"), list(itertools.product(ENDS, STEPS)))
def test_no_step_leaves_a_terminal_status(end: Terminal, step: Event) -> None:
    with pytest.raises(IllegalMove):
        ended(end).apply(step, at=13.0)


@pytest.mark.parametrize(("end", "again"), list(itertools.product(ENDS, ENDS)))
def test_no_end_follows_an_end(end: Terminal, again: Terminal) -> None:
    with pytest.raises(IllegalMove):
        ended(end).end(again, "text", at=13.0, retention_s=60)


def test_a_job_is_a_value() -> None:
    job = a_job()
    job.apply(STARTED, at=10.0)
    assert job.status is Status.PENDING
    with pytest.raises(AttributeError):
        job.status = Status.COMPLETED  # type: ignore[misc]
