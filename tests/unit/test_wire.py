"""What goes over the wire, to the byte."""

import json

import pytest

from orchestrator import wire
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
from orchestrator.job import Job
from tests.fakes.jobs import a_job

ID = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
DONE = Completed(FinishReason.STOP, Usage(3, 4))
FAILED = Failed("UPSTREAM_ERROR", "The provider is down.")

FRAMES: list[tuple[Event, bytes]] = [
    (
        Started("echo"),
        b'id: 7\nevent: start\ndata: {"request_id":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f"}\n\n',
    ),
    (Token(0, "Hello "), b'id: 7\nevent: token\ndata: {"chunk":0,"data":"Hello "}\n\n'),
    (Token(12, ""), b'id: 7\nevent: token\ndata: {"chunk":12,"data":""}\n\n'),
    (
        Token(1, 'a\nb\r\n"c" \u2028 é 😀 \x00'),
        b'id: 7\nevent: token\ndata: {"chunk":1,"data":"a\\nb\\r\\n\\"c\\" '
        + "\u2028 é 😀".encode()
        + b' \\u0000"}\n\n',
    ),
    (Restarted(2), b'id: 7\nevent: restart\ndata: {"attempt":2}\n\n'),
    (
        DONE,
        b'id: 7\nevent: complete\ndata: {"status":"done","finish_reason":"stop",'
        b'"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}\n\n',
    ),
    (
        Completed(FinishReason.LENGTH),
        b'id: 7\nevent: complete\ndata: {"status":"done","finish_reason":"length"}\n\n',
    ),
    (
        FAILED,
        b'id: 7\nevent: complete\ndata: {"status":"failed","error":'
        b'{"code":"UPSTREAM_ERROR","message":"The provider is down."}}\n\n',
    ),
    (
        Failed("DEADLINE_EXCEEDED", "Too late.", stage="run"),
        b'id: 7\nevent: complete\ndata: {"status":"failed","error":{"code":"DEADLINE_EXCEEDED",'
        b'"message":"Too late.","details":{"stage":"run"}}}\n\n',
    ),
    (Cancelled(), b'id: 7\nevent: complete\ndata: {"status":"cancelled"}\n\n'),
]


@pytest.mark.parametrize(("event", "frame"), FRAMES)
def test_an_sse_frame_is_exact(event: Event, frame: bytes) -> None:
    assert wire.sse(7, event, ID) == frame


@pytest.mark.parametrize(("event", "frame"), FRAMES)
def test_an_item_of_the_events_page_says_the_same_as_the_sse_frame(
    event: Event, frame: bytes
) -> None:
    number, name, data = frame.decode().rstrip("\n").split("\n")
    item = wire.page_item(7, event, ID)
    assert number == f"id: {item['seq']}"
    assert name == f"event: {item['event']}"
    assert json.loads(data.removeprefix("data: ")) == item["data"]


def test_the_constant_frames_are_exact() -> None:
    assert wire.SSE_RETRY == b"retry: 2000\n\n"
    assert wire.SSE_PING == b": ping\n\n"


def a_running_job() -> Job:
    return a_job().apply(Started("echo"), at=1.0)


def ended(event: Terminal, text: str = "the text") -> Job:
    return a_running_job().end(event, text, at=2.0, retention_s=60)


def test_a_websocket_token_has_its_request_its_chunk_and_its_seq() -> None:
    job = a_running_job()
    assert wire.ws_frame(3, Token(2, "word "), job) == {
        "type": "token",
        "request_id": job.id,
        "chunk": 2,
        "data": "word ",
        "seq": 3,
    }


def test_the_start_is_no_websocket_frame_since_the_ack_stood_for_it() -> None:
    assert wire.ws_frame(0, Started("echo"), a_running_job()) is None


def test_a_restart_is_told_over_a_websocket() -> None:
    job = a_running_job()
    frame = wire.ws_frame(3, Restarted(2), job)
    assert frame == {"type": "restart", "request_id": job.id, "attempt": 2}


@pytest.mark.parametrize("text", ["the text", ""])
def test_a_whole_answer_is_a_result_over_a_websocket(text: str) -> None:
    job = ended(DONE, text)
    expected = {"type": "result", "request_id": job.id, "result": text}
    assert wire.ws_end(job) == wire.ws_frame(3, DONE, job) == expected


def test_a_failure_is_an_error_over_a_websocket() -> None:
    job = ended(FAILED)
    expected = {
        "type": "error",
        "request_id": job.id,
        "code": "UPSTREAM_ERROR",
        "message": "The provider is down.",
    }
    assert wire.ws_end(job) == wire.ws_frame(3, FAILED, job) == expected


def test_a_cancellation_is_an_error_with_its_code_over_a_websocket() -> None:
    job = ended(Cancelled())
    frame = wire.ws_end(job)
    assert frame == wire.ws_frame(3, Cancelled(), job)
    assert (frame["type"], frame["request_id"], frame["code"]) == ("error", job.id, "CANCELLED")
    assert frame["message"]


@pytest.mark.parametrize(
    ("text", "seq"), [("0", 0), ("7", 7), ("007", 7), ("999999999999999", 999999999999999)]
)
def test_a_cursor_is_a_seq(text: str, seq: int) -> None:
    assert wire.cursor(text) == seq


@pytest.mark.parametrize(
    "text",
    [None, "", "-1", "+1", "1.0", "1e3", "abc", " 1", "1_0", "0x1", "٣", "²", "9" * 16, "1\n"],
)
def test_a_cursor_that_is_nonsense_means_from_the_start(text: str | None) -> None:
    assert wire.cursor(text) == -1
