"""The frames of a WebSocket, field by field: what clients send and what they are sent."""

from itertools import islice
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from orchestrator.answers import AnswerSchema
from orchestrator.schemas import MAX_WRONG_FIELDS, UNKNOWN_FIELD, SubmitSchema, Text, invalid
from orchestrator.strict_json import Json

MAX_REF_LENGTH = 128
MAX_REF = 2**53 - 1
"""The largest whole number that is the same in every client's JSON."""
REF_RULE = f"Must be a string of at most {MAX_REF_LENGTH} characters, or a whole number."


def is_ref(value: object) -> bool:
    """Whether a client may name a frame so: what REF_RULE says."""
    if isinstance(value, str):
        return len(value) <= MAX_REF_LENGTH
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_REF


class _Ref(fields.Field[str | int]):
    """The client's own name for a frame."""

    default_error_messages = {"invalid": REF_RULE}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str | int:
        if not is_ref(value):
            raise self.make_error("invalid")
        known: str | int = value
        return known


def _ref(description: str, *, allow_none: bool = False) -> _Ref:
    forms: list[Json] = [
        {"type": "string", "maxLength": MAX_REF_LENGTH},
        {"type": "integer", "minimum": -MAX_REF, "maximum": MAX_REF},
    ]
    if allow_none:
        forms.append({"type": "null"})
    return _Ref(allow_none=allow_none, metadata={"description": description, "anyOf": forms})


def _type(name: str) -> Text:
    return Text(required=True, validate=validate.Equal(name))


def _request_id(description: str) -> fields.UUID:
    return fields.UUID(required=True, metadata={"description": description})


class _KnownId(Text):
    """An id that a client gives back, in either case. Any text that is none never was one."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, *args, **kwargs).lower()


def _known_id(description: str) -> Text:
    rule = "Must be the id that an ack gave."
    return _KnownId(
        required=True,
        metadata={"description": description, "format": "uuid"},
        error_messages=dict.fromkeys(("required", "null", "invalid"), rule),
    )


class SubmitFrameSchema(SubmitSchema):
    """A submit: the body of `POST /api/v1/infer`, with a name of your own if you like."""

    type = Text(allow_none=True, validate=validate.Equal("submit"))
    ref = _ref(
        "Your own name for it: it comes back in its `ack`, or in the `error` instead.",
        allow_none=True,
    )


class CommandFrameSchema(Schema):
    """A frame that is no submit. A field that is not named here is refused."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": UNKNOWN_FIELD}


class CancelFrameSchema(CommandFrameSchema):
    """Cancels a request; its end comes as an `error` with the code `CANCELLED`."""

    type = _type("cancel")
    request_id = _known_id("The request to cancel.")
    ref = _ref("Comes back in an `error` that this frame leads to.", allow_none=True)


class SubscribeFrameSchema(CommandFrameSchema):
    """Follows a request token by token, whoever submitted it and by whichever way."""

    type = _type("subscribe")
    request_id = _known_id("The request to follow.")
    after = fields.Integer(
        strict=True,
        allow_none=True,
        metadata={"description": "The `seq` of the last event that you have; from the start else."},
        error_messages={"invalid": "Must be the seq of the last event that you have."},
    )
    ref = _ref("Comes back in an `error` that this frame leads to.", allow_none=True)


class UnsubscribeFrameSchema(CommandFrameSchema):
    """Follows a request no more. The request itself goes on."""

    type = _type("unsubscribe")
    request_id = _known_id("The request to let go.")
    ref = _ref("Comes back in an `error` that this frame leads to.", allow_none=True)


class AuthFrameSchema(CommandFrameSchema):
    """Says who asks, where a page can't send headers: the first frame, within 5 seconds."""

    type = _type("auth")
    token = Text(
        required=True,
        validate=validate.Length(1, 8192),
        metadata={"description": "An API key, or a JSON web token."},
        error_messages=dict.fromkeys(
            ("required", "null", "invalid"), "Must be an API key or a token."
        ),
    )
    ref = _ref("Comes back in the `welcome`, or in an `error` instead.", allow_none=True)


class PingFrameSchema(CommandFrameSchema):
    """Asks whether the server is there."""

    type = _type("ping")
    ref = _ref("Comes back in the `pong`.", allow_none=True)


# Built once: a schema costs more to build than to load a frame with.
_COMMANDS: dict[str, Schema] = {
    "cancel": CancelFrameSchema(),
    "subscribe": SubscribeFrameSchema(),
    "unsubscribe": UnsubscribeFrameSchema(),
    "ping": PingFrameSchema(),
    "auth": AuthFrameSchema(),
}
CLIENT_TYPES = ("submit", *_COMMANDS)


def read_command(frame: Json) -> Json:
    """Return the fields of a frame whose ``type`` is known and no submit.

    Raises InvalidRequest with the fields.
    """
    try:
        fields_given: Json = _COMMANDS[frame["type"]].load(frame)
    except ValidationError as error:
        wrong = islice(error.messages_dict.items(), MAX_WRONG_FIELDS)
        raise invalid({name[:100]: messages for name, messages in wrong}) from None
    return fields_given


def take_ref(submit: Json) -> Json:
    """Take ``type`` and ``ref`` out of a submit, and return the latter where there is one.

    What is left is a body as SubmitReader reads it. Raises InvalidRequest.
    """
    submit.pop("type", None)
    ref = submit.pop("ref", None)
    if ref is None:
        return {}
    if not is_ref(ref):
        raise invalid({"ref": [REF_RULE]})
    return {"ref": ref}


class AckFrameSchema(AnswerSchema):
    """A submit was accepted."""

    type = _type("ack")
    request_id = _request_id("The new request.")
    status = Text(required=True, validate=validate.Equal("processing"))
    ref = _ref("Yours, where the submit had one.")


class TokenFrameSchema(AnswerSchema):
    """A piece of the answer, for submits with `stream` and for subscriptions."""

    type = _type("token")
    request_id = _request_id("The request it belongs to.")
    chunk = fields.Integer(
        required=True,
        validate=validate.Range(0),
        metadata={"description": "Counts the pieces from 0."},
    )
    data = Text(required=True, metadata={"description": "The text."})
    seq = fields.Integer(
        required=True,
        validate=validate.Range(0),
        metadata={"description": "Its place in the log: the `after` of a later `subscribe`."},
    )


class RestartFrameSchema(AnswerSchema):
    """The answer so far is void and begins again at chunk 0."""

    type = _type("restart")
    request_id = _request_id("The request.")
    attempt = fields.Integer(required=True, validate=validate.Range(2))


class ResultFrameSchema(AnswerSchema):
    """The whole answer: the last frame of a request that ended well."""

    type = _type("result")
    request_id = _request_id("The request.")
    result = Text(required=True, metadata={"description": "The answer."})


class ErrorFrameSchema(AnswerSchema):
    """A request that failed or was cancelled, or a frame that could not be followed."""

    type = _type("error")
    code = Text(required=True, metadata={"description": "As in the table of errors."})
    message = Text(required=True, metadata={"description": "What to do."})
    request_id = Text(metadata={"description": "The request, where one is meant."})
    ref = _ref("Yours, where the frame had one.")
    retry_after = fields.Integer(
        validate=validate.Range(1),
        metadata={
            "description": "With `RATE_LIMITED` and `PIPELINE_UNAVAILABLE`: in how many seconds to "
            "ask again, where that is known."
        },
    )
    fields_ = fields.Dict(
        data_key="fields",
        keys=Text(),
        values=fields.List(Text()),
        metadata={"description": "Each field that breaks a rule, with what is wrong with it."},
    )


class WelcomeFrameSchema(AnswerSchema):
    """The credentials of an `auth` are good."""

    type = _type("welcome")
    ref = _ref("Yours, where the auth had one.")


class PongFrameSchema(AnswerSchema):
    """The server is there."""

    type = _type("pong")
    ref = _ref("Yours, where the ping had one.")


CLIENT_FRAMES = (
    SubmitFrameSchema,
    CancelFrameSchema,
    SubscribeFrameSchema,
    UnsubscribeFrameSchema,
    PingFrameSchema,
    AuthFrameSchema,
)
SERVER_FRAMES = (
    AckFrameSchema,
    TokenFrameSchema,
    RestartFrameSchema,
    ResultFrameSchema,
    ErrorFrameSchema,
    PongFrameSchema,
    WelcomeFrameSchema,
)
