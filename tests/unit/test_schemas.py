"""Strict JSON in, each field's rule at its bounds, and what clients are shown."""

import json
from typing import Any
from uuid import UUID

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.events import Cancelled, Completed, Failed, FinishReason, Started, Token, Usage
from orchestrator.job import GenerateRequest, OnBusy, Priority
from orchestrator.schemas import SubmitReader
from orchestrator.session import History, Message, Session
from orchestrator.strict_json import MAX_BODY, parse_object
from orchestrator.views import (
    accepted_view,
    conversation_view,
    result_view,
    session_view,
    status_view,
    timestamp,
)
from tests.fakes.jobs import a_job

READER = SubmitReader(["default", "large"], timeout_s=300.0, queue_timeout_s=3600.0)


def read(**body: Any) -> GenerateRequest:
    return READER.read({"prompt": "Hi"} | body)


def refused(**body: Any) -> dict[str, list[str]]:
    """Return the messages by field that a body is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        read(**body)
    fields: dict[str, list[str]] = caught.value.details["fields"]
    assert all(isinstance(text, str) and text for texts in fields.values() for text in texts)
    return fields


def unreadable(data: bytes | str) -> str:
    """Return the message that a text is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        parse_object(data)
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 400
    return caught.value.message


# Strict JSON


@pytest.mark.parametrize(
    "data", [b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}', '{"a": {}}', b" {}\n"]
)
def test_a_json_object_is_read(data: bytes | str) -> None:
    assert parse_object(data) == json.loads(data)


@pytest.mark.parametrize("data", [b"", "", b" \r\n\t "])
def test_an_empty_body_is_called_empty(data: bytes | str) -> None:
    assert "empty" in unreadable(data)


@pytest.mark.parametrize(
    "data",
    [
        "prompt=Hi",
        "{",
        '{"prompt": "Hi"',
        '{"prompt": "Hi",}',
        "{'prompt': 'Hi'}",
        '{"prompt": "Hi"} {}',
        '{"prompt": "a\nb"}',
        '{"prompt": "\\x41"}',
        '{"prompt": 01}',
        '{"prompt": +1}',
        '\ufeff{"prompt": "Hi"}',
        "null null",
    ],
)
def test_what_is_not_json_is_refused(data: str) -> None:
    assert "not JSON" in unreadable(data)
    assert "not JSON" in unreadable(data.encode())


@pytest.mark.parametrize("data", ["null", "true", "5", '"Hi"', "[]", '[{"prompt": "Hi"}]'])
def test_json_that_is_no_object_is_refused(data: str) -> None:
    assert "no JSON object" in unreadable(data)


@pytest.mark.parametrize(
    "data", [b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b"\xfe\xff"]
)
def test_what_is_not_utf_8_is_refused(data: bytes) -> None:
    assert "UTF-8" in unreadable(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(number: str) -> None:
    assert number in unreadable(f'{{"temperature": {number}}}')


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_5000_digits_is_refused(sign: str) -> None:
    message = unreadable('{"seed": ' + sign + "1" * 5000 + "}")
    assert "digits" in message
    assert "sys." not in message


def test_a_key_that_comes_twice_is_refused_by_name() -> None:
    assert '"prompt"' in unreadable('{"prompt": "a", "stream": true, "prompt": "b"}')
    assert '"priority"' in unreadable('{"metadata": {"priority": "low", "priority": "high"}}')


def test_the_same_key_in_two_objects_is_no_duplicate() -> None:
    assert parse_object('{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]}')


def test_keys_are_compared_as_they_read() -> None:
    assert '"a"' in unreadable('{"a": 1, "\\u0061": 2}')


def test_a_duplicate_after_a_hundred_thousand_keys_is_found_without_comparing_all_pairs() -> None:
    # In quadratic time this would take minutes, and the whole server would stand still.
    pairs = [f'"{number}":0' for number in [*range(100_000), 99_999]]
    assert '"99999"' in unreadable("{" + ",".join(pairs) + "}")


@pytest.mark.parametrize(
    "data",
    [
        '{"prompt": "\\ud800"}',
        '{"prompt": "a\\udc00b"}',
        '{"prompt": "\\ude00\\ud83d"}',
        '{"\\ud800": 1}',
        '{"metadata": {"a": "\\uD83D"}}',
        '{"metadata": {"a": ["\\uDBFF"]}}',
        '{"prompt": "\ud800"}',
    ],
)
def test_half_of_a_surrogate_pair_is_refused(data: str) -> None:
    assert "surrogate" in unreadable(data)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_object('{"prompt": "\\ud83d\\ude00"}') == {"prompt": "😀"}


def test_a_surrogate_that_comes_twice_as_a_key_is_refused_with_words_that_can_be_sent() -> None:
    unreadable('{"\\ud800": 1, "\\ud800": 2}').encode()


def nested(depth: int, begin: str, end: str) -> str:
    return begin * (depth - 1) + ("{}" if "{" in begin else "[]") + end * (depth - 1)


def test_32_levels_are_read_and_33_are_not() -> None:
    assert parse_object(nested(32, '{"a":', "}"))
    assert parse_object('{"a":' + nested(31, "[", "]") + "}")
    assert "32" in unreadable(nested(33, '{"a":', "}"))
    assert "32" in unreadable('{"a":' + nested(32, "[", "]") + "}")


@pytest.mark.parametrize("begin", ["[", '{"a":', '[{"a":'])
def test_100_000_levels_are_refused_like_33(begin: str) -> None:
    assert "32" in unreadable(begin * 100_000)


def test_brackets_in_a_text_are_no_levels() -> None:
    assert parse_object('{"prompt": "' + "[{" * 1000 + '"}')


def test_many_objects_beside_each_other_are_no_levels() -> None:
    assert parse_object('{"a": [' + ",".join(["{}"] * 1000) + "]}")


# The fields of a submit


def test_a_prompt_is_all_it_takes() -> None:
    request = READER.read({"prompt": "Hi"})
    assert UUID(request.session_id).version == 4
    assert request == GenerateRequest(
        prompt="Hi",
        session_id=request.session_id,
        model="default",
        metadata={},
        priority=Priority.NORMAL,
        stream=False,
        system=None,
        max_tokens=None,
        temperature=None,
        top_p=None,
        stop=(),
        seed=None,
        timeout_s=300.0,
        queue_timeout_s=3600.0,
        on_busy=OnBusy.ENQUEUE,
    )


def test_every_field_is_taken() -> None:
    body = {
        "prompt": "Hi",
        "session_id": "chat:1",
        "metadata": {"a": 1},
        "priority": "high",
        "stream": True,
        "model": "large",
        "system": "Be brief.",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["end"],
        "seed": 7,
        "timeout_s": 5,
        "queue_timeout_s": 6,
        "on_busy": "reject",
    }
    assert READER.read(body) == GenerateRequest(
        prompt="Hi",
        session_id="chat:1",
        metadata={"a": 1},
        priority=Priority.HIGH,
        stream=True,
        model="large",
        system="Be brief.",
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop=("end",),
        seed=7,
        timeout_s=5.0,
        queue_timeout_s=6.0,
        on_busy=OnBusy.REJECT,
    )


OPTIONAL = [
    "session_id",
    "metadata",
    "priority",
    "stream",
    "model",
    "system",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "timeout_s",
    "queue_timeout_s",
    "on_busy",
]


def test_null_is_as_good_as_absent() -> None:
    request = READER.read({"prompt": "Hi"} | dict.fromkeys(OPTIONAL))
    assert request == READER.read({"prompt": "Hi", "session_id": request.session_id})


def test_two_requests_without_a_session_get_one_each() -> None:
    assert read().session_id != read().session_id


def shown(value: Any) -> str:
    return ascii(value)[:40]


ACCEPTED: list[tuple[str, Any]] = [
    ("prompt", "x"),
    ("prompt", " x\n"),
    ("prompt", "\u200b"),
    ("session_id", "a"),
    ("session_id", "Aa0._:-" + "z" * 121),
    ("metadata", {}),
    ("metadata", {str(number): number for number in range(50)}),
    ("metadata", {"k" * 128: "v" * 1024}),
    ("metadata", {"a": None, "b": True, "c": 1.5, "d": -(2**63) + 1, "e": 2**63 - 1, "": ""}),
    ("metadata", {"priority": "low"}),
    ("metadata", {"priority": None}),
    ("priority", "low"),
    ("stream", False),
    ("model", "large"),
    ("system", ""),
    ("max_tokens", 1),
    ("max_tokens", 10_000_000),
    ("temperature", 0),
    ("temperature", 2),
    ("temperature", 2.0),
    ("top_p", 0.0001),
    ("top_p", 1),
    ("stop", "x"),
    ("stop", []),
    ("stop", ["a", "b", "c", "d" * 256]),
    ("seed", 0),
    ("seed", -(2**63)),
    ("seed", 2**63 - 1),
    ("timeout_s", 0.001),
    ("timeout_s", 3600),
    ("queue_timeout_s", 0.001),
    ("queue_timeout_s", 3600),
    ("on_busy", "enqueue"),
    ("on_busy", "reject"),
    ("on_busy", "interrupt"),
    ("on_busy", "parallel"),
]


@pytest.mark.parametrize(("field", "value"), ACCEPTED, ids=shown)
def test_what_the_rule_of_a_field_allows_is_taken_as_it_is(field: str, value: Any) -> None:
    taken = getattr(read(**{field: value}), field)
    assert taken == (
        tuple([value] if isinstance(value, str) else value) if field == "stop" else value
    )


HUGE = 10**400

REFUSED: list[tuple[str, Any]] = [
    ("prompt", None),
    ("prompt", ""),
    ("prompt", " \n\t\u00a0\u2003"),
    ("prompt", 5),
    ("prompt", True),
    ("prompt", ["Hi"]),
    ("prompt", {"text": "Hi"}),
    ("session_id", ""),
    ("session_id", "a" * 129),
    ("session_id", "a b"),
    ("session_id", "a/b"),
    ("session_id", "é"),
    ("session_id", "a\n"),
    ("session_id", 5),
    ("metadata", []),
    ("metadata", "text"),
    ("metadata", 5),
    ("metadata", {str(number): number for number in range(51)}),
    ("metadata", {"k" * 129: 1}),
    ("metadata", {"a": "v" * 1025}),
    ("metadata", {"a": {}}),
    ("metadata", {"a": []}),
    ("metadata", {"a": 2**63}),
    ("metadata", {"a": -(2**63)}),
    ("metadata", {"a": 1e300}),
    ("metadata", {"a": float("inf")}),
    ("metadata", {"a": HUGE}),
    ("metadata", {"priority": "urgent"}),
    ("metadata", {"priority": ""}),
    ("metadata", {"priority": 1}),
    ("metadata", {"priority": True}),
    ("priority", "urgent"),
    ("priority", "HIGH"),
    ("priority", ""),
    ("priority", 1),
    ("stream", "true"),
    ("stream", 1),
    ("stream", 0),
    ("stream", []),
    ("model", "unknown"),
    ("model", ""),
    ("model", 5),
    ("system", 5),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 10_000_001),
    ("max_tokens", 1.0),
    ("max_tokens", 1.5),
    ("max_tokens", "5"),
    ("max_tokens", True),
    ("max_tokens", HUGE),
    ("temperature", -0.01),
    ("temperature", 2.01),
    ("temperature", "1"),
    ("temperature", True),
    ("temperature", float("inf")),
    ("temperature", HUGE),
    ("temperature", -HUGE),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", "1"),
    ("top_p", HUGE),
    ("stop", ""),
    ("stop", [""]),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", "x" * 257),
    ("stop", [5]),
    ("stop", [None]),
    ("stop", 5),
    ("stop", {}),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("seed", 1.0),
    ("seed", "1"),
    ("seed", False),
    ("timeout_s", 0),
    ("timeout_s", -1),
    ("timeout_s", 3600.1),
    ("timeout_s", "5"),
    ("timeout_s", True),
    ("timeout_s", HUGE),
    ("queue_timeout_s", 0),
    ("queue_timeout_s", 3600.1),
    ("queue_timeout_s", HUGE),
    ("on_busy", "wait"),
    ("on_busy", ""),
    ("on_busy", True),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=shown)
def test_what_the_rule_of_a_field_forbids_is_refused_with_its_name(field: str, value: Any) -> None:
    assert list(refused(**{field: value})) == [field]


def test_a_missing_prompt_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        READER.read({})
    assert list(caught.value.details["fields"]) == ["prompt"]
    assert caught.value.message.startswith("prompt: ")


def test_every_field_that_breaks_a_rule_is_named() -> None:
    assert set(refused(prompt="", stream="yes", nonsense=1)) == {"prompt", "stream", "nonsense"}


@pytest.mark.parametrize("name", ["nonsense", "Prompt", "prompt ", "prénom", 'a"b"', "", "type"])
def test_an_unknown_field_is_refused_by_its_name(name: str) -> None:
    assert list(refused(**{name: 1})) == [name]


def test_an_unknown_field_with_a_long_name_is_shown_in_short() -> None:
    (name,) = refused(**{"x" * 10_000: 1})
    assert 0 < len(name) <= 100


def test_a_hundred_thousand_unknown_fields_are_not_all_listed() -> None:
    assert len(refused(**{f"field {number}": 1 for number in range(100_000)})) <= 100


def test_metadata_is_kept_as_it_came() -> None:
    metadata = {"b": 1, "a": "x", "priority": "low", "nothing": None}
    assert list(read(metadata=metadata).metadata.items()) == list(metadata.items())


def test_metadata_can_set_the_priority() -> None:
    assert read(metadata={"priority": "high"}).priority is Priority.HIGH
    assert read(metadata={"priority": None}).priority is Priority.NORMAL
    assert read(metadata={}).priority is Priority.NORMAL


def test_the_field_wins_over_metadata() -> None:
    request = read(priority="low", metadata={"priority": "high"})
    assert request.priority is Priority.LOW
    assert request.metadata == {"priority": "high"}
    assert read(priority=None, metadata={"priority": "high"}).priority is Priority.HIGH


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    (message,) = refused(model="unknown")["model"]
    assert "default" in message
    assert "large" in message


def test_the_limit_of_a_body_is_1_mib() -> None:
    assert MAX_BODY == 1024 * 1024


# What clients are shown


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
        "finish_reason": None,
        "error_code": None,
        "queue_position": 3,
        "usage": None,
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
    job = job.end(Completed(FinishReason.LENGTH, Usage(3, 4)), "x", at=102.5, retention_s=60)
    view = status_view(job, queue_position=None)
    assert (view["status"], view["attempts"], view["backend"]) == ("completed", 1, "echo")
    assert (view["finish_reason"], view["queue_position"]) == ("length", None)
    assert view["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
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
    session = Session("chat", 100.0, 101.0, history, ("id",))
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
