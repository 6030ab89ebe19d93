"""The frames of a WebSocket, field by field: what clients send and what they are sent."""

from typing import Any

from marshmallow import fields, validate

from orchestrator.answers import AnswerSchema
from orchestrator.schemas import SubmitSchema


def _type(name: str, required: bool = True) -> fields.String:
    return fields.String(required=required, validate=validate.Equal(name))


def _ref(description: str) -> fields.Raw:
    forms = [{"type": "string", "maxLength": 128}, {"type": "integer"}]
    return fields.Raw(metadata={"description": description, "anyOf": forms})


def _request_id(description: str, **options: Any) -> fields.UUID:
    return fields.UUID(metadata={"description": description}, **{"required": True, **options})


class SubmitFrameSchema(SubmitSchema):
    """A submit: the body of `POST /api/v1/infer`, with a name of your own if you like."""

    type = _type("submit", required=False)
    ref = _ref("Your own name for it: it comes back in its `ack`, or in the `error` instead.")


class CancelFrameSchema(AnswerSchema):
    """Cancels a request; its end comes as an `error` with the code `CANCELLED`."""

    type = _type("cancel")
    request_id = _request_id("The request to cancel.")


class SubscribeFrameSchema(AnswerSchema):
    """Follows a request token by token, whoever submitted it and by whichever way."""

    type = _type("subscribe")
    request_id = _request_id("The request to follow.")
    after = fields.Integer(
        allow_none=True,
        metadata={"description": "The `seq` of the last event that you have; from the start else."},
    )


class UnsubscribeFrameSchema(AnswerSchema):
    """Follows a request no more. The request itself goes on."""

    type = _type("unsubscribe")
    request_id = _request_id("The request to let go.")


class PingFrameSchema(AnswerSchema):
    """Asks whether the server is there."""

    type = _type("ping")
    ref = _ref("Comes back in the `pong`.")


class AckFrameSchema(AnswerSchema):
    """A submit was accepted."""

    type = _type("ack")
    request_id = _request_id("The new request.")
    status = fields.String(required=True, validate=validate.Equal("processing"))
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
    data = fields.String(required=True, metadata={"description": "The text."})
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
    result = fields.String(required=True, metadata={"description": "The answer."})


class ErrorFrameSchema(AnswerSchema):
    """A request that failed or was cancelled, or a frame that could not be followed."""

    type = _type("error")
    code = fields.String(required=True, metadata={"description": "As in the table of errors."})
    message = fields.String(required=True, metadata={"description": "What to do."})
    request_id = fields.String(metadata={"description": "The request, where one is meant."})
    ref = _ref("Yours, where the frame had one.")
    fields_ = fields.Dict(
        data_key="fields",
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "Each field that breaks a rule, with what is wrong with it."},
    )


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
)
SERVER_FRAMES = (
    AckFrameSchema,
    TokenFrameSchema,
    RestartFrameSchema,
    ResultFrameSchema,
    ErrorFrameSchema,
    PongFrameSchema,
)
