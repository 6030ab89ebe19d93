"""The schemas of all answers, field by field: the shapes of what views.py and wire.py make.

The views are written by hand, for speed; tests hold real answers against these.
"""

from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from orchestrator.events import FinishReason
from orchestrator.job import Priority, Status


class Either(fields.Field[Any]):
    """An object of one of several schemas: what its field ``by`` says chooses among them."""

    def __init__(self, by: str, schemas: Mapping[str, type[Schema]]) -> None:
        super().__init__()
        self.by = by
        self.schemas = schemas


class AnswerSchema(Schema):
    """An answer: fields that are not named here may be added to it later."""

    class Meta:
        unknown = EXCLUDE


def _always(description: str) -> dict[str, Any]:
    return {"required": True, "metadata": {"description": description}}


def _or_null(description: str) -> dict[str, Any]:
    return _always(description) | {"allow_none": True}


def _sometimes(description: str) -> dict[str, Any]:
    return {"metadata": {"description": description}}


def _count(**options: Any) -> fields.Integer:
    return fields.Integer(validate=validate.Range(0), **options)


def _only(text: str) -> fields.String:
    return fields.String(required=True, validate=validate.Equal(text))


class RequestSchema(AnswerSchema):
    """A request: the five fields that every answer about one has."""

    request_id = fields.UUID(**_always("Names the request everywhere: a UUIDv7, ordered by time."))
    session_id = fields.String(**_always("The conversation it belongs to."))
    status = fields.Enum(
        Status,
        by_value=fields.String,
        **_always("Where it stands. Nothing leaves `completed`, `failed` or `cancelled`."),
    )
    result = fields.String(
        **_or_null("The answer once it is whole; what there was of it when it was cancelled.")
    )
    error = fields.String(**_or_null("Why it failed, in a sentence."))


class UsageSchema(AnswerSchema):
    """Tokens as the model's server counted them."""

    input_tokens = _count(**_always("Tokens of the prompt and of the conversation before it."))
    output_tokens = _count(**_always("Tokens of the answer."))
    total_tokens = _count(**_always("Both together."))


class MetricsSchema(AnswerSchema):
    """How long what took, in milliseconds; null while it has not happened."""

    queue_ms = _count(**_or_null("From the submit to the start."))
    ttft_ms = _count(**_or_null("From the start to the first token."))
    run_ms = _count(**_or_null("From the start to the end."))


class StatusSchema(RequestSchema):
    """A request and all that is known of it."""

    model = fields.String(**_always("The model that was asked for."))
    backend = fields.String(
        **_or_null("What runs it, in the end what answered; null until something does.")
    )
    priority = fields.Enum(Priority, by_value=fields.String, **_always("Which queue it waited in."))
    metadata = fields.Dict(**_always("What came with the submit, unchanged."))
    attempts = _count(**_always("How often a model was asked; 0 where it is `cached`."))
    cached = fields.Boolean(**_always("Whether an earlier request's answer was given again."))
    finish_reason = fields.Enum(
        FinishReason,
        by_value=fields.String,
        **_or_null("Why the answer ended: `length` means that a limit cut it."),
    )
    error_code = fields.String(**_or_null("The code of the failure, such as `UPSTREAM_TIMEOUT`."))
    queue_position = _count(
        **_or_null(
            "How many are ahead of it by now, in its session and in the queue: more may come in "
            "between where it waits for its session. Null unless it is pending."
        )
    )
    usage = fields.Nested(UsageSchema, **_or_null("What it cost, where the model says so."))
    failed_usage = fields.Nested(
        UsageSchema, **_or_null("What attempts without a whole answer cost, as far as known.")
    )
    metrics = fields.Nested(MetricsSchema, **_always("How long it took."))
    created_at = fields.DateTime(**_always("When it was submitted."))
    started_at = fields.DateTime(**_or_null("When it left the queue."))
    first_token_at = fields.DateTime(**_or_null("When its first token came."))
    completed_at = fields.DateTime(**_or_null("When it ended, however it did."))
    expires_at = fields.DateTime(**_or_null("Until when it is kept."))
    cancel_requested_at = fields.DateTime(**_or_null("When someone asked it to stop."))


class PageSchema(AnswerSchema):
    """A page of a list."""

    has_more = fields.Boolean(**_always("Whether another page follows."))
    next_cursor = fields.String(**_or_null("The `cursor` of the next page; null at the end."))


class RequestListSchema(PageSchema):
    """A page of requests, newest first."""

    data = fields.List(fields.Nested(StatusSchema), **_always("The requests of this page."))


class SessionSchema(AnswerSchema):
    """A session: a conversation that its requests carry on."""

    session_id = fields.String(**_always("Names the session."))
    messages_count = _count(**_always("How many messages were said so far."))
    active_requests = fields.List(
        fields.UUID(),
        **_always(
            "The one whose turn it is, those that wait for theirs in order, and those that run "
            "beside them."
        ),
    )
    created_at = fields.DateTime(**_always("When its first request came."))
    last_used_at = fields.DateTime(**_always("When it was last used: it is kept from then on."))


class SessionListSchema(PageSchema):
    """A page of sessions, last used first."""

    data = fields.List(fields.Nested(SessionSchema), **_always("The sessions of this page."))


class MessageSchema(AnswerSchema):
    """One message of a conversation."""

    role = fields.String(
        validate=validate.OneOf(["system", "user", "assistant"]), **_always("Who said it.")
    )
    content = fields.String(**_always("What was said."))


class ConversationSchema(SessionSchema):
    """A session with its messages."""

    messages = fields.List(fields.Nested(MessageSchema), **_always("What was said, in order."))


class ModelSchema(AnswerSchema):
    """A model that a submit may name."""

    id = fields.String(**_always("What to send as `model`."))
    backend = fields.String(**_always("What runs it."))
    default = fields.Boolean(**_always("Whether it answers when a submit names none."))


class ModelListSchema(AnswerSchema):
    """The models, the default one first."""

    data = fields.List(fields.Nested(ModelSchema), **_always("The models."))


class HealthSchema(AnswerSchema):
    """The service is up."""

    status = _only("healthy")
    service = _only("web-api")
    version = fields.String(**_always("The version that runs."))
    model = fields.String(**_always("The model that answers by default."))
    backend = fields.String(**_always("What runs it; `echo` is no language model."))


class LiveSchema(AnswerSchema):
    """The process answers."""

    status = _only("healthy")


class ReadySchema(AnswerSchema):
    """Requests may be sent here."""

    status = _only("ready")


class DetailsSchema(AnswerSchema):
    """What else is known of an error; which of these there are depends on its code."""

    fields_ = fields.Dict(
        data_key="fields",
        keys=fields.String(),
        values=fields.List(fields.String()),
        **_sometimes("Each field that breaks a rule, with what is wrong with it."),
    )
    request_id = fields.UUID(**_sometimes("The request that the error is about."))
    cause = fields.String(**_sometimes("Why a request failed: the `error_code` of its status."))
    stage = fields.String(**_sometimes("Where a deadline ran out, such as `queue` or `run`."))


class FaultSchema(AnswerSchema):
    """One error."""

    code = fields.String(**_always("What went wrong, for programs: see the table of errors."))
    message = fields.String(**_always("What went wrong and what to do, for people."))
    details = fields.Nested(DetailsSchema, **_always("What else is known; often empty."))


class ErrorSchema(AnswerSchema):
    """The answer for every error, whatever raised it."""

    error = fields.Nested(FaultSchema, **_always("The error."))


class StartDataSchema(AnswerSchema):
    """The data of a `start` event: a worker has begun."""

    request_id = fields.UUID(**_always("The request."))


class TokenDataSchema(AnswerSchema):
    """The data of a `token` event: a piece of the answer."""

    chunk = _count(**_always("Counts the pieces from 0, since the start or the last `restart`."))
    data = fields.String(**_always("The text."))


class RestartDataSchema(AnswerSchema):
    """The data of a `restart` event: the answer so far is void and begins again at chunk 0."""

    attempt = fields.Integer(
        validate=validate.Range(2), **_always("Which attempt begins, counted from 1.")
    )


class RunFaultSchema(AnswerSchema):
    """Why a request failed, as its last event tells it."""

    code = fields.String(**_always("The code of the failure, such as `UPSTREAM_TIMEOUT`."))
    message = fields.String(**_always("What happened, and what to do."))
    details = fields.Nested(DetailsSchema, **_sometimes("What else is known."))


class CompleteDataSchema(AnswerSchema):
    """The data of a `complete` event, the last one of every ending."""

    status = fields.String(
        validate=validate.OneOf(["done", "failed", "cancelled"]), **_always("How it ended.")
    )
    finish_reason = fields.Enum(
        FinishReason, by_value=fields.String, **_sometimes("Why the answer ended.")
    )
    usage = fields.Nested(UsageSchema, **_sometimes("What it cost, where the model says so."))
    error = fields.Nested(RunFaultSchema, **_sometimes("Why it failed, when it did."))


class EventSchema(AnswerSchema):
    """What each event of a log has."""

    seq = _count(**_always("Its place in the log, from 0 and without gaps: the cursor."))


class StartEventSchema(EventSchema):
    """A worker has begun."""

    event = _only("start")
    data = fields.Nested(StartDataSchema, required=True)


class TokenEventSchema(EventSchema):
    """A piece of the answer."""

    event = _only("token")
    data = fields.Nested(TokenDataSchema, required=True)


class RestartEventSchema(EventSchema):
    """The answer so far is void."""

    event = _only("restart")
    data = fields.Nested(RestartDataSchema, required=True)


class CompleteEventSchema(EventSchema):
    """The end."""

    event = _only("complete")
    data = fields.Nested(CompleteDataSchema, required=True)


class EventPageSchema(AnswerSchema):
    """A page of a request's event log."""

    events = fields.List(
        Either(
            "event",
            {
                "start": StartEventSchema,
                "token": TokenEventSchema,
                "restart": RestartEventSchema,
                "complete": CompleteEventSchema,
            },
        ),
        **_always("The events after the cursor, in order."),
    )
    next = fields.Integer(validate=validate.Range(-1), **_always("The `after` of the next page."))
    done = fields.Boolean(**_always("Whether nothing can follow: the request has ended."))


class StreamTokenSchema(AnswerSchema):
    """What opens one stream once."""

    token = fields.String(
        required=True, metadata={"description": "For `?token=` of the request's stream."}
    )
    expires_in = fields.Integer(
        required=True,
        validate=validate.Range(0, 60),
        metadata={"description": "For how many seconds it is good."},
    )
