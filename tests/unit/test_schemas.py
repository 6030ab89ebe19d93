"""Each field of a submit, with its rule at its bounds."""

import re
from typing import Any
from uuid import UUID

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.job import GenerateRequest, OnBusy, Priority
from orchestrator.schemas import SubmitReader

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


def test_a_whole_number_is_one_however_it_is_written() -> None:
    """JSON knows one kind of number, and a backend is sent what it takes for a count."""
    request = read(max_tokens=5.0, seed=-7.0)
    assert (request.max_tokens, request.seed) == (5, -7)
    assert isinstance(request.max_tokens, int)
    assert isinstance(request.seed, int)


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
    ((name, messages),) = refused(**{field: value}).items()
    assert name == field
    # What to do, and not what a library calls it.
    assert re.search(r"\b[Mm]ust (be|have|not be)\b|too large a number", messages[0])


def test_a_missing_prompt_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        READER.read({})
    assert list(caught.value.details["fields"]) == ["prompt"]
    assert caught.value.message == "prompt: Must be given."


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


def test_a_model_may_have_a_time_limit_of_its_own() -> None:
    reader = SubmitReader(["default", "large"], 300.0, 3600.0, {"large": 20.0})
    assert reader.read({"prompt": "Hello"}).timeout_s == 300.0
    assert reader.read({"prompt": "Hello", "model": "large"}).timeout_s == 20.0
    assert reader.read({"prompt": "Hello", "model": "large", "timeout_s": 7}).timeout_s == 7.0
