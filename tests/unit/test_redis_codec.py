"""What is written to Redis is read again as it was, or not at all."""

from typing import Any

import pytest

from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Token,
    Usage,
)
from orchestrator.job import GenerateRequest, Job, OnBusy, Priority, Reuse, Status
from orchestrator.session import Message
from orchestrator.stores.redis import codec
from orchestrator.stores.redis.codec import ForeignData
from tests.fakes.asking import a_request
from tests.fakes.jobs import a_job

EVENTS: list[Event] = [
    Started("primary/big"),
    Restarted(2),
    Restarted(3, "spare"),
    Completed(FinishReason.LENGTH),
    Completed(FinishReason.STOP, Usage(3, 4), Usage(5, 6)),
    Failed("INTERNAL", "Sorry."),
    Failed("DEADLINE_EXCEEDED", "Too late: 'é' \n\x00", "run", Usage(0, 0)),
    Cancelled(),
    Cancelled(Usage(1, 2)),
]

UNUSUAL: dict[str, Any] = {
    "prompt": "Hello \x00 \u2028 😀",
    "session_id": "s-1",
    "model": "fast",
    "metadata": {"é": "x", "n": 2**62, "f": 0.1, "none": None, "yes": True},
    "priority": Priority.HIGH,
    "stream": True,
    "system": "",
    "max_tokens": 7,
    "temperature": 0.1 + 0.2,
    "top_p": 1.0,
    "stop": ("\n", "end"),
    "seed": 2**62,
    "timeout_s": 1 / 3,
    "queue_timeout_s": 2 / 3,
    "on_busy": OnBusy.PARALLEL,
    "reuse": Reuse.NEVER,
    "tenant": "a/b c",
}


def hashed(job: Job) -> codec.Hash:
    """Return the job's fields as Redis gives them back."""
    flat = [part if isinstance(part, bytes) else part.encode() for part in codec.dump_job(job)]
    return codec.pairs(flat)


def test_a_request_is_read_as_it_was() -> None:
    assert set(UNUSUAL) == set(GenerateRequest._fields)
    for request in (a_request(), GenerateRequest(**UNUSUAL)):
        job = a_job()._replace(request=request)
        assert codec.load_job(hashed(job)) == job


def test_what_became_of_a_request_is_read() -> None:
    job = a_job()
    values = hashed(job) | {
        b"status": b"failed",
        b"run": b"3",
        b"attempts": b"4",
        b"backend": b"spare",
        b"started_at": b"1732400000.1234567",
        b"first_token_at": b"1732400001",
        b"completed_at": b"1732400002.5",
        b"expires_at": b"1732403602.5",
        b"cancel_requested_at": b"1732400002",
        b"result": b"half",
        b"finish_reason": b"error",
        b"usage": b"[3,4]",
        b"failed_usage": b"[5,6]",
        b"error": b"Sorry.",
        b"error_code": b"INTERNAL",
        b"error_stage": b"run",
    }
    assert codec.load_job(values) == job._replace(
        status=Status.FAILED,
        run=3,
        attempts=4,
        backend="spare",
        started_at=1732400000.1234567,
        first_token_at=1732400001.0,
        completed_at=1732400002.5,
        expires_at=1732403602.5,
        cancel_requested_at=1732400002.0,
        result="half",
        finish_reason=FinishReason.ERROR,
        usage=Usage(3, 4),
        failed_usage=Usage(5, 6),
        error="Sorry.",
        error_code="INTERNAL",
        error_stage="run",
    )


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_an_event_is_read_as_it_was(event: Event) -> None:
    assert codec.load_event(codec.dump_event(event)) == event


def test_tokens_are_numbered_from_where_the_answer_began() -> None:
    payload = codec.dump_texts(["a", "", "😀\x00"])
    assert codec.load_tokens(12, 9, payload) == [
        (12, Token(2, "a")),
        (13, Token(3, "")),
        (14, Token(4, "😀\x00")),
    ]


def test_a_history_is_read_by_turns() -> None:
    history = codec.load_history(b"Be brief.", [b"one", b"1", "zwei é".encode(), b""])
    assert history.system == "Be brief."
    assert history.messages == (
        Message("user", "one"),
        Message("assistant", "1"),
        Message("user", "zwei é"),
        Message("assistant", ""),
    )
    assert codec.load_history(None, []).system is None


@pytest.mark.parametrize("version", [b"0", b"2", b"", b"\xff", None])
def test_what_another_version_wrote_is_refused(version: bytes | None) -> None:
    values = hashed(a_job())
    del values[b"v"]
    if version is not None:
        values[b"v"] = version
    with pytest.raises(ForeignData, match="this version reads form 1"):
        codec.load_job(values)


@pytest.mark.parametrize("payload", [b'{"type":"paused"}', b'{"type":"failed"}', b"{}"])
def test_an_event_of_another_version_is_refused(payload: bytes) -> None:
    with pytest.raises(ForeignData, match="does not know"):
        codec.load_event(payload)
