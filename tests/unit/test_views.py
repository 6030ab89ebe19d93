"""What clients are shown of requests and sessions."""

import pytest

from orchestrator.events import Cancelled, Completed, Failed, FinishReason, Started, Token, Usage
from orchestrator.job import Priority
from orchestrator.session import History, Message, Session
from orchestrator.views import (
    accepted_view,
    conversation_view,
    result_view,
    session_view,
    status_view,
    timestamp,
)
from tests.fakes.jobs import a_job


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1645557742.0, "2022-02-22T19:22:22.000Z"),
        (1645557742.1239, "2022-02-22T19:22:22.123Z"),
        (1645557742.9999, "2022-02-22T19:22:22.999Z"),
        (None, None),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(seconds: float | None, text: str) -> None:
    assert timestamp(seconds) == text


def test_a_submit_is_answered_with_the_five_fields() -> None:
    assert accepted_view("id", "session") == {
        "request_id": "id",
        "session_id": "session",
        "status": "processing",
        "result": None,
        "error": None,
    }


def test_a_result_has_the_five_fields() -> None:
    job = a_job().apply(Started("echo"), at=1.0)
    job = job.end(Completed(FinishReason.STOP), "the text", at=2.0, retention_s=60)
    assert result_view(job) == {
        "request_id": job.id,
        "session_id": job.request.session_id,
        "status": "completed",
        "result": "the text",
        "error": None,
    }


def test_the_status_of_a_waiting_request_has_its_place_and_no_times_yet() -> None:
    job = a_job(metadata={"a": 1}, priority=Priority.LOW, clock=lambda: 100.0)
    assert status_view(job, queue_position=3) == {
        "request_id": job.id,
        "session_id": job.request.session_id,
        "status": "pending",
        "result": None,
        "error": None,
        "model": "default",
        "backend": None,
        "priority": "low",
        "metadata": {"a": 1},
        "attempts": 0,
        "cached": False,
        "finish_reason": None,
        "error_code": None,
        "queue_position": 3,
        "usage": None,
        "failed_usage": None,
        "metrics": {"queue_ms": None, "ttft_ms": None, "run_ms": None},
        "created_at": "1970-01-01T00:01:40.000Z",
        "started_at": None,
        "first_token_at": None,
        "completed_at": None,
        "expires_at": None,
        "cancel_requested_at": None,
    }


def test_the_status_of_an_ended_request_has_all_there_is_to_know() -> None:
    job = a_job(clock=lambda: 100.0).apply(Started("echo"), at=100.25).apply(Token(0, "x"), at=101)
    job = job.end(Completed(FinishReason.LENGTH, Usage(3, 4), Usage(5, 0)), "x", 102.5, 60)
    view = status_view(job, queue_position=None)
    assert (view["status"], view["attempts"], view["backend"]) == ("completed", 1, "echo")
    assert (view["finish_reason"], view["queue_position"]) == ("length", None)
    assert view["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert view["failed_usage"] == {"input_tokens": 5, "output_tokens": 0, "total_tokens": 5}
    assert view["metrics"] == {"queue_ms": 250, "ttft_ms": 750, "run_ms": 2250}
    assert view["started_at"] == "1970-01-01T00:01:40.250Z"
    assert view["first_token_at"] == "1970-01-01T00:01:41.000Z"
    assert view["completed_at"] == "1970-01-01T00:01:42.500Z"
    assert view["expires_at"] == "1970-01-01T00:02:42.500Z"


def test_a_failure_is_shown_with_its_code() -> None:
    job = a_job().end(Failed("DEADLINE_EXCEEDED", "Too late.", "queue"), "", at=1, retention_s=60)
    view = status_view(job, queue_position=None)
    assert (view["status"], view["error"]) == ("failed", "Too late.")
    assert (view["error_code"], view["finish_reason"]) == ("DEADLINE_EXCEEDED", "error")


def test_a_cancelled_request_shows_what_was_generated() -> None:
    job = a_job().apply(Started("echo"), at=1.0).end(Cancelled(), "half", at=2, retention_s=60)
    view = status_view(job, queue_position=None)
    assert (view["status"], view["result"], view["error"]) == ("cancelled", "half", None)


def test_a_clock_that_went_back_gives_no_negative_times() -> None:
    job = a_job(clock=lambda: 100.0).apply(Started("echo"), at=99.0)
    assert status_view(job, queue_position=None)["metrics"]["queue_ms"] == 0


def test_a_session_is_shown_with_its_messages_in_order() -> None:
    history = History("Be brief.", (Message("user", "Hi"), Message("assistant", "Hello")))
    session = Session("chat", 100.0, 101.0, len(history.messages), ("id",), history)
    assert session_view(session) == {
        "session_id": "chat",
        "messages_count": 2,
        "active_requests": ("id",),
        "created_at": "1970-01-01T00:01:40.000Z",
        "last_used_at": "1970-01-01T00:01:41.000Z",
    }
    assert conversation_view(session) == session_view(session) | {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
    }
