"""The rules of a submit: what each field may be, and the request that comes of it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from orchestrator.errors import InvalidRequest
from orchestrator.job import GenerateRequest, OnBusy, Priority, Reuse
from orchestrator.strict_json import Json, excerpt

MAX_WAIT_S = 60.0
MAX_WRONG_FIELDS = 20
"""How many fields one refusal names: a body has room for a hundred thousand."""
UNKNOWN_FIELD = "There is no such field. See the API's documentation at /docs."
MISSING = "Must be given."


class Text(fields.String):
    """A string."""

    default_error_messages = {
        "required": MISSING,
        "null": "Must not be null.",
        "invalid": "Must be a string.",
    }


class _Mapping(fields.Dict):
    """A JSON object."""

    default_error_messages = {"invalid": "Must be an object."}


class _Number(fields.Float):
    """A JSON number and nothing that merely looks like one."""

    default_error_messages = {
        "invalid": "Must be a number.",
        **dict.fromkeys(("special", "too_large"), "Must be a number nearer to 0."),
    }

    def _validated(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.make_error("invalid")
        try:
            number = float(value)
        except OverflowError:
            raise self.make_error("too_large") from None
        if not math.isfinite(number):
            raise self.make_error("special")
        return number


class _Whole(fields.Integer):
    """A JSON number without a fraction; 5.0 is one, as JSON Schema has it."""

    default_error_messages = {"invalid": "Must be a whole number."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _validated(self, value: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        return super()._validated(int(value) if whole else value)


class _Flag(fields.Boolean):
    """true or false and nothing that merely looks like one."""

    default_error_messages = {"invalid": "Must be true or false."}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": 256}


class _StopTexts(fields.Field[tuple[str, ...]]):
    """A text, or up to four of them."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or len(texts) > 4:
            raise ValidationError("Must be a string or a list of up to 4 strings.")
        if not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
            raise ValidationError("Each stop text must have 1 to 256 characters.")
        return tuple(texts)


def _not_blank(value: str) -> None:
    if not value.strip():
        raise ValidationError("Must not be blank.")


def _valid_metadata(value: Mapping[str, Any]) -> None:
    if len(value) > 50:
        raise ValidationError("Must have at most 50 entries.")
    for key, item in value.items():
        if len(key) > 128:
            raise ValidationError("Keys must have at most 128 characters.")
        if isinstance(item, str) and len(item) > 1024:
            raise ValidationError(f"{excerpt(key)} must have at most 1024 characters.")
        if not isinstance(item, (str, int, float, bool, type(None))):
            raise ValidationError(f"{excerpt(key)} must be a string, number, boolean or null.")
        if isinstance(item, (int, float)) and not abs(item) < 2**63:
            raise ValidationError(f"{excerpt(key)} is too large a number.")
    if value.get("priority") is not None and value["priority"] not in list(Priority):
        raise ValidationError('"priority" must be one of: high, normal, low.')


def _one_of(names: Iterable[str]) -> validate.OneOf:
    return validate.OneOf([str(name) for name in names], error="Must be one of: {choices}.")


def _text(
    description: str, *checks: Any, rule: Mapping[str, Any] | None = None, **options: Any
) -> Text:
    """Make a text field; ``rule`` tells in JSON Schema's words what only ``checks`` know."""
    return Text(
        allow_none=not options.get("required"),
        validate=checks,
        metadata={"description": description, **(rule or {})},
        **options,
    )


def _number(description: str, check: validate.Range) -> _Number:
    return _Number(allow_none=True, validate=check, metadata={"description": description})


def _seconds(description: str) -> _Number:
    error = "Must be more than 0 and at most 3600 seconds."
    return _number(description, validate.Range(0, 3600, min_inclusive=False, error=error))


SESSION_ID_RULE = "Must be 1 to 128 characters of A-Z a-z 0-9 . _ : -"
_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SESSION_ID_PATTERN = f"^{_SESSION_ID.pattern}$"


def is_session_id(text: str) -> bool:
    """Whether a text can name a session."""
    return _SESSION_ID.fullmatch(text) is not None


def _valid_session_id(text: str) -> None:
    if not is_session_id(text):
        raise ValidationError(SESSION_ID_RULE)


class SubmitSchema(Schema):
    """The body of a submit."""

    class Meta:
        unknown = RAISE

    prompt = _text("What the model is asked.", _not_blank, rule={"pattern": r"\S"}, required=True)
    session_id = _text(
        "The conversation it belongs to; a new one when absent.",
        _valid_session_id,
        rule={"pattern": SESSION_ID_PATTERN},
    )
    metadata = _Mapping(
        allow_none=True,
        validate=_valid_metadata,
        metadata={
            "description": "Your own data, kept and given back. Only `priority` is looked at.",
            "properties": {"priority": {"enum": [*map(str, Priority), None]}},
            "additionalProperties": {
                "type": ["string", "number", "boolean", "null"],
                "maxLength": 1024,
                "exclusiveMinimum": -(2**63),
                "exclusiveMaximum": 2**63,
            },
            "propertyNames": {"maxLength": 128},
            "maxProperties": 50,
        },
    )
    priority = _text("Which queue it waits in; wins over `metadata.priority`.", _one_of(Priority))
    stream = _Flag(
        allow_none=True,
        metadata={"description": "Whether tokens will be watched as they come.", "default": False},
    )
    model = _text("One of `GET /api/v1/models`; the first of them when absent.")
    system = _text("Instructions that come before the conversation and stay in force.")
    max_tokens = _Whole(
        allow_none=True,
        validate=validate.Range(1, 10_000_000),
        metadata={"description": "The longest answer, in tokens."},
    )
    temperature = _number("Randomness; 0 has the least.", validate.Range(0, 2))
    top_p = _number(
        "Nucleus sampling: only the likeliest tokens, up to this share.",
        validate.Range(0, 1, min_inclusive=False),
    )
    stop = _StopTexts(
        allow_none=True,
        metadata={
            "description": "Texts that end the answer where they would come.",
            "anyOf": [
                _STOP_TEXT,
                {"type": "array", "items": _STOP_TEXT, "maxItems": 4},
                {"type": "null"},
            ],
        },
    )
    seed = _Whole(
        allow_none=True,
        validate=validate.Range(-(2**63), 2**63 - 1),
        metadata={"description": "For the same answer again, where the model can."},
    )
    timeout_s = _seconds("How long it may run, in seconds.")
    queue_timeout_s = _seconds("How long it may wait to run, in seconds.")
    on_busy = _text(
        "When its session is busy: wait in line, be refused, cancel what runs, or run beside it.",
        _one_of(OnBusy),
        rule={"default": OnBusy.ENQUEUE},
    )


_FIELDS = SubmitSchema().fields


def invalid(fields: Mapping[str, Any]) -> InvalidRequest:
    """Make an InvalidRequest of a map of field to messages."""
    first = next(iter(fields.items()))
    message = first[1][0] if isinstance(first[1], list) else str(first[1])
    return InvalidRequest(f"{first[0]}: {message}", fields=dict(fields))


class SubmitReader:
    """Makes requests of bodies, with the defaults and models of a configuration.

    ``models`` are the names that may be asked for, the default one first; ``timeouts`` are those
    of models that have their own.
    """

    def __init__(
        self,
        models: Sequence[str],
        timeout_s: float,
        queue_timeout_s: float,
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        self._models = models
        self._timeout_s = timeout_s
        self._timeouts = timeouts or {}
        self._queue_timeout_s = queue_timeout_s

    def read(self, body: Json, reuse: Reuse = Reuse.ALLOWED) -> GenerateRequest:
        """Return the request that ``body`` asks for. Raises InvalidRequest with the fields."""
        given = _load(body)
        model = given.setdefault("model", self._models[0])
        if model not in self._models:
            raise invalid({"model": [f"Must be one of: {', '.join(self._models)}."]})
        metadata = given.setdefault("metadata", {})
        if priority := given.get("priority") or metadata.get("priority"):
            given["priority"] = Priority(priority)
        if "on_busy" in given:
            given["on_busy"] = OnBusy(given["on_busy"])
        if "session_id" not in given:
            given["session_id"] = str(uuid4())
        given.setdefault("timeout_s", self._timeouts.get(model, self._timeout_s))
        given.setdefault("queue_timeout_s", self._queue_timeout_s)
        return GenerateRequest(**given, reuse=reuse)


def _load(body: Json) -> Json:
    """Return the fields of a submit that are given and not null. Raises InvalidRequest.

    Field by field: Schema.load looks at each declared one, at twice the cost of all that is given.
    """
    given: Json = {}
    wrong: Json = {}
    for name, value in body.items():
        field = _FIELDS.get(name)
        try:
            if field is None:
                raise ValidationError(UNKNOWN_FIELD)
            loaded = field.deserialize(value, name, body)
        except ValidationError as error:
            wrong[name[:100]] = error.messages
            if len(wrong) == MAX_WRONG_FIELDS:
                break
        else:
            if loaded is not None:
                given[name] = loaded
    if "prompt" not in body:
        wrong["prompt"] = [MISSING]
    if wrong:
        raise invalid(wrong)
    return given
