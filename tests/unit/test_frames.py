"""The frames that clients send: what is taken, what is refused, and that the document says so."""

from typing import Any

import pytest

from orchestrator import config
from orchestrator.errors import InvalidRequest
from orchestrator.frames import CLIENT_FRAMES, CLIENT_TYPES, read_command, take_ref
from orchestrator.web import create_app
from tests.described import Described, Json

REQUEST_ID = "0199d1f2-7c3a-7b64-9d2e-5f0c8a1b3e47"
COMMANDS = {
    "cancel": {"request_id": REQUEST_ID},
    "subscribe": {"request_id": REQUEST_ID},
    "unsubscribe": {"request_id": REQUEST_ID},
    "ping": {},
}
WITH_ID = ("cancel", "subscribe", "unsubscribe")
GOOD_REFS: tuple[object, ...] = (None, "", "mine", "x" * 128, 0, -7, 2**53 - 1, -(2**53) + 1)
BAD_REFS: tuple[object, ...] = (
    *("x" * 129, 1.5, 2**53, -(2**53), 10**290),
    *(True, False, [], {}),
)

GOOD: tuple[tuple[str, str, object], ...] = (
    *((kind, "ref", ref) for kind in COMMANDS for ref in GOOD_REFS),
    *(("subscribe", "after", after) for after in (None, -1, 0, 5, 10**18)),
)
BAD: tuple[tuple[str, str, object], ...] = (
    *((kind, "ref", ref) for kind in COMMANDS for ref in BAD_REFS),
    *((kind, "request_id", value) for kind in WITH_ID for value in (None, 7, True, ["x"], {})),
    *(("subscribe", "after", after) for after in ("1", 1.5, True, [], {})),
    *((kind, "colour", "red") for kind in COMMANDS),
    *((kind, "after", 1) for kind in ("cancel", "unsubscribe", "ping")),
    ("ping", "request_id", REQUEST_ID),
)


@pytest.fixture(scope="module")
def described() -> Described:
    answer = create_app(config.load({})).test_client().get("/api/v1/openapi.json")
    assert answer.json is not None
    return Described(answer.json)


def frame_of(kind: str, **fields: object) -> Json:
    return {"type": kind} | COMMANDS[kind] | fields


def refused(frame: Json) -> dict[str, list[str]]:
    """Return the messages by field that a frame is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        read_command(frame)
    fields: dict[str, list[str]] = caught.value.details["fields"]
    assert all(isinstance(text, str) and text for texts in fields.values() for text in texts)
    assert caught.value.message.startswith(next(iter(fields)))
    return fields


def schema(kind: str) -> Json:
    return {"$ref": f"#/components/schemas/{kind.capitalize()}Frame"}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_needs_nothing_more_than_its_fields(described: Described, kind: str) -> None:
    frame = frame_of(kind)
    assert read_command(frame) == frame
    assert not described.faults(schema(kind), frame)


@pytest.mark.parametrize(("kind", "field", "value"), GOOD)
def test_the_document_and_the_reader_take_the_same_frames(
    described: Described, kind: str, field: str, value: object
) -> None:
    frame = frame_of(kind, **{field: value})
    assert read_command(frame) == frame
    assert not described.faults(schema(kind), frame)


@pytest.mark.parametrize(("kind", "field", "value"), BAD)
def test_the_document_and_the_reader_refuse_the_same_frames(
    described: Described, kind: str, field: str, value: object
) -> None:
    frame = frame_of(kind, **{field: value})
    assert list(refused(frame)) == [field]
    assert described.faults(schema(kind), frame)


@pytest.mark.parametrize("kind", WITH_ID)
def test_a_command_names_its_request(described: Described, kind: str) -> None:
    assert list(refused({"type": kind})) == ["request_id"]
    assert described.faults(schema(kind), {"type": kind})


def test_every_field_that_is_wrong_is_named() -> None:
    wrong = {"type": "subscribe", "after": "1", "ref": 1.5, "colour": "red"}
    assert sorted(refused(wrong)) == ["after", "colour", "ref", "request_id"]


def test_a_refusal_is_short_however_much_is_wrong() -> None:
    fields = refused(frame_of("ping") | {f"{number:05}{'x' * 200}": 1 for number in range(2000)})
    assert len(fields) == 20
    assert max(len(name) for name in fields) == 100


@pytest.mark.parametrize("ref", GOOD_REFS)
def test_a_submit_has_the_same_refs(described: Described, ref: Any) -> None:
    submit = {"type": "submit", "prompt": "x", "ref": ref}
    assert not described.faults(schema("submit"), submit)
    assert take_ref(submit) == ({} if ref is None else {"ref": ref})
    assert submit == {"prompt": "x"}


@pytest.mark.parametrize("ref", BAD_REFS)
def test_a_submit_has_no_other_refs(described: Described, ref: Any) -> None:
    submit = {"prompt": "x", "ref": ref}
    assert described.faults(schema("submit"), submit)
    with pytest.raises(InvalidRequest) as caught:
        take_ref(submit)
    said = refused(frame_of("ping", ref=ref))
    assert caught.value.details["fields"] == said, "one rule, in the same words"


def test_a_submit_without_a_ref_has_none() -> None:
    assert take_ref({"prompt": "x"}) == {}


def test_every_type_of_a_frame_has_its_schema() -> None:
    names = [schema.__name__.removesuffix("FrameSchema").lower() for schema in CLIENT_FRAMES]
    assert list(CLIENT_TYPES) == names
