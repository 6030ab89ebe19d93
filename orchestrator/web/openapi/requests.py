"""Submitting, polling, cancelling and listing, as the OpenAPI document tells it."""

from orchestrator import answers
from orchestrator.schemas import SubmitSchema
from orchestrator.strict_json import Json
from orchestrator.web.openapi import samples
from orchestrator.web.openapi.parts import faults, named, operation, reply, with_stream

_WAITING = ("Wait", "Prefer")

_infer = operation(
    "Submit and poll",
    "submit",
    "Submit a prompt",
    "Answers at once with the request's id, or with the stream itself when you accept only "
    "`text/event-stream`, or with the finished request when you prefer to wait. A client that "
    "leaves cancels nothing.",
    with_stream(
        reply(
            200,
            "Accepted; or ended already, when waiting was asked for.",
            answers.RequestSchema,
            {
                "Accepted": samples.ACCEPTED,
                "Ended while waiting": samples.COMPLETED,
                "Failed while waiting": samples.FAILED,
            },
            ("Location", "Preference-Applied", "Idempotent-Replayed", "X-Cache"),
        ),
        200,
        samples.event_stream(),
        ("Content-Location", "Cache-Control", "X-Accel-Buffering"),
    ),
    reply(
        202,
        "Accepted, and not ended yet: with `Prefer: respond-async`, or when the wait was over.",
        answers.RequestSchema,
        {"Accepted": samples.ACCEPTED},
        ("Location", "Preference-Applied", "Idempotent-Replayed", "X-Cache"),
    ),
    faults(
        "blank_prompt",
        "unknown_field",
        "not_an_object",
        "bad_wait",
        "bad_prefer",
        "bad_key",
        "expired",
        "not_acceptable",
        "session_busy",
        "too_large",
        "no_json",
        "key_reused",
        "model_used",
        "crowded",
        "tokens_used",
        "places_taken",
        "queue_full",
        "restarting",
        "no_worker",
        "redis_away",
        "streams_full",
    ),
    parameters=("PreferAsync", "Wait", "IdempotencyKey", "CacheControl"),
    more={
        "requestBody": {
            "required": True,
            "description": "At most 1 MiB of JSON, at most 32 levels deep and 1,000 values, "
            "without NaN, half surrogate pairs or keys that come twice.",
            "content": {
                "application/json": {
                    "schema": SubmitSchema,
                    "examples": named(
                        {
                            "A turn of a conversation": samples.IN_A_SESSION,
                            "The least": samples.SMALLEST,
                            "Every field": samples.WITH_ALL,
                        }
                    ),
                }
            },
        },
    },
)

_status = operation(
    "Submit and poll",
    "getStatus",
    "Ask how a request stands",
    "Answers with all that is known of it. With `wait` the answer comes the moment it ends.",
    reply(
        200,
        "The request.",
        answers.StatusSchema,
        {
            "Completed": samples.STATUS_COMPLETED,
            "Pending": samples.STATUS_PENDING,
            "Processing": samples.STATUS_PROCESSING,
            "Failed": samples.STATUS_FAILED,
            "An earlier answer": samples.STATUS_CACHED,
        },
        ("Preference-Applied", "X-Cache"),
    ),
    faults("bad_wait", "bad_prefer", "no_request", "expired", "redis_away"),
    parameters=("RequestId", *_WAITING),
)

_result = operation(
    "Submit and poll",
    "getResult",
    "Get the result",
    "200 once it is there, 202 until then: poll, or let `wait` hold the answer back until the "
    "request ends.",
    reply(
        200,
        "It is complete.",
        answers.RequestSchema,
        {"Completed": samples.COMPLETED},
        ("Preference-Applied", "X-Cache"),
    ),
    reply(
        202,
        "Not yet: ask again after `Retry-After`.",
        answers.RequestSchema,
        {"Processing": samples.PROCESSING, "Pending": samples.PENDING},
        ("Retry-After", "Preference-Applied", "X-Cache"),
    ),
    faults("bad_wait", "bad_prefer", "no_request", "expired", "cancelled", "failed", "redis_away"),
    parameters=("RequestId", *_WAITING),
)

_cancel = operation(
    "Submit and poll",
    "cancel",
    "Cancel a request",
    "One that waits ends at once. One that runs is stopped, the call to its model closed, and "
    "what was generated until then is kept in its `result`. Of one that has ended nothing changes.",
    reply(
        200,
        "It has ended.",
        answers.RequestSchema,
        {"Cancelled": samples.CANCELLED, "Had ended before": samples.COMPLETED},
        ("Preference-Applied",),
    ),
    reply(
        202,
        "It is being stopped, which takes a second at most.",
        answers.RequestSchema,
        {"Being stopped": samples.PROCESSING},
        ("Preference-Applied",),
    ),
    faults("bad_wait", "bad_prefer", "no_request", "expired", "redis_away"),
    parameters=("RequestId", *_WAITING),
)

_requests = operation(
    "Look back",
    "listRequests",
    "List requests",
    "Newest first. A page may be short, even empty, and yet not be the last: `has_more` says so. "
    "With 1 MiB of results it is full, whatever its `limit`.",
    reply(200, "A page.", answers.RequestListSchema, {"A page": samples.REQUEST_LIST}),
    faults("bad_limit", "bad_status", "bad_session_id", "bad_cursor", "redis_away"),
    parameters=("Status", "SessionId", "Limit", "RequestCursor"),
)

_delete = operation(
    "Look back",
    "deleteRequest",
    "Forget a request",
    "Its result and its events are gone with it. Its session keeps what was said.",
    reply(204, "It is forgotten."),
    faults("no_request", "expired", "in_progress", "redis_away"),
    parameters=("RequestId",),
)

SUBMIT_PATHS: dict[str, Json] = {
    "/api/v1/infer": {"post": _infer},
    "/api/v1/status/{request_id}": {"get": _status},
    "/api/v1/result/{request_id}": {"get": _result},
    "/api/v1/cancel/{request_id}": {"post": _cancel},
}
LIST_PATHS: dict[str, Json] = {
    "/api/v1/requests": {"get": _requests},
    "/api/v1/requests/{request_id}": {"delete": _delete},
}
