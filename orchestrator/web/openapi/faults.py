"""The errors that the documentation shows: each with its code, its reason and an example."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.auth.guard import HOW
from orchestrator.errors import (
    Forbidden,
    IdempotencyKeyReused,
    InProgress,
    InternalError,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    OrchestratorError,
    PayloadTooLarge,
    PipelineUnavailable,
    RateLimited,
    Restarting,
    ResultExpired,
    SessionBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from orchestrator.schemas import SESSION_ID_RULE, UNKNOWN_FIELD, invalid
from orchestrator.strict_json import Json
from orchestrator.web.errors import STATUS
from orchestrator.web.json_io import TOO_LARGE
from orchestrator.web.openapi.samples import FAILED_JOB, MODEL, REQUEST_ID, SESSION_ID


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of error answer; ``reason`` is a sentence about when it is given."""

    reason: str
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0
    headers: tuple[str, ...] = ()

    def envelope(self) -> Json:
        """Return the body of such an answer."""
        return {
            "error": {"code": self.code, "message": self.message, "details": dict(self.details)}
        }


def _of(reason: str, error: OrchestratorError) -> Fault:
    headers = ("Retry-After",) if isinstance(error, PipelineUnavailable | RateLimited) else ()
    return Fault(reason, error.code, error.message, error.details, STATUS[error.code], headers)


def _invalid(reason: str, name: str, message: str) -> Fault:
    return _of(reason, invalid({name: [message]}))


_ID = {"request_id": REQUEST_ID}

FAULTS: dict[str, Fault] = {
    "no_credentials": _of(
        "The service asks for credentials, and these are missing or not good.",
        Unauthorized(f"Credentials are needed here. {HOW}"),
    ),
    "no_scope": _of(
        "The credentials are good, and don't allow this.",
        Forbidden("This needs the scope infer, which these credentials don't have."),
    ),
    "blank_prompt": _invalid("A field breaks its rule.", "prompt", "Must not be blank."),
    "unknown_field": _invalid("A field has a name that there isn't.", "promt", UNKNOWN_FIELD),
    "not_an_object": _of(
        "The body is not JSON, or no object of it.",
        InvalidRequest(
            'The body is no JSON object. Send a JSON object such as {"prompt": "Hello"}.'
        ),
    ),
    "bad_wait": _invalid("`wait` is out of its bounds.", "wait", "Must be a number from 0 to 60."),
    "bad_prefer": _invalid(
        "`Prefer` has a `wait` that is no whole number.",
        "Prefer",
        "wait must be whole seconds, as in: wait=30",
    ),
    "bad_key": _invalid(
        "The Idempotency-Key is too long, or not plain ASCII.",
        "Idempotency-Key",
        "Must be 1 to 255 visible ASCII characters.",
    ),
    "bad_after": _invalid(
        "`after` is out of its bounds.",
        "after",
        "Must be a whole number from -1 to 1000000000000.",
    ),
    "bad_limit": _invalid(
        "`limit` is out of its bounds.", "limit", "Must be a whole number from 1 to 100."
    ),
    "bad_event_limit": _invalid(
        "`limit` is out of its bounds.", "limit", "Must be a whole number from 1 to 1000."
    ),
    "bad_status": _invalid(
        "There is no such status.",
        "status",
        "Must be one of: pending, processing, completed, failed, cancelled.",
    ),
    "bad_cursor": _invalid(
        "`cursor` is none that a page gave.",
        "cursor",
        "Must be the next_cursor of the page before.",
    ),
    "bad_session_id": _invalid("`session_id` can't name a session.", "session_id", SESSION_ID_RULE),
    "bad_socket_key": _invalid(
        "The handshake is not one.", "Sec-WebSocket-Key", "Must be 16 bytes in base64."
    ),
    "foreign_origin": _of(
        "The page that connects is of an origin that may not.",
        Forbidden("Pages of this origin may not connect. Name it in ORCHESTRATOR_CORS_ORIGINS."),
    ),
    "no_request": _of(
        "There never was such a request, or it was deleted.",
        NotFound(
            f"There is no request '{REQUEST_ID}', or no longer. Use the request_id that a submit "
            "gave; in place of one that was deleted submit the prompt again, with a new "
            "Idempotency-Key."
        ),
    ),
    "expired": _of(
        "There was, but it is no longer kept.",
        ResultExpired(
            f"Request {REQUEST_ID} is no longer kept: results are kept for 3600 seconds after "
            "their end, less when memory is short. Submit the prompt again."
        ),
    ),
    "no_session": _of(
        "There is no such session, or no longer.",
        NotFound(
            f"There is no session '{SESSION_ID}'. Sessions are kept for 3600 seconds after their "
            "last use."
        ),
    ),
    "not_acceptable": _of(
        "The Accept header allows no form that this answer has.",
        NotAcceptable(
            "This address answers with application/json or text/event-stream. Send an Accept "
            "header that allows it."
        ),
    ),
    "not_a_stream": _of(
        "The Accept header doesn't allow an event stream.",
        NotAcceptable(
            "This address answers with text/event-stream. Send an Accept header that allows it."
        ),
    ),
    "cancelled": Fault(
        "The request was cancelled: its status has what was generated until then.",
        "CANCELLED",
        "The request was cancelled. What was generated until then is in its status.",
        _ID,
        STATUS["CANCELLED"],
    ),
    "in_progress": _of(
        "It still runs.",
        InProgress(f"Request {REQUEST_ID} is processing. Cancel it first, or wait for its end."),
    ),
    "session_in_progress": _of(
        "It has a request that still runs.",
        InProgress(
            f"Session {SESSION_ID} runs request {REQUEST_ID}. Cancel it first, or wait for its end."
        ),
    ),
    "session_busy": _of(
        'The session runs another request, and `on_busy` is "reject".',
        SessionBusy(
            f"Session {SESSION_ID} runs request {REQUEST_ID}. Wait for it, cancel it, or submit "
            'with on_busy "enqueue", "interrupt" or "parallel".',
            request_id=REQUEST_ID,
        ),
    ),
    "too_large": _of(
        "The body has more than 1 MiB.",
        PayloadTooLarge(TOO_LARGE),
    ),
    "no_json": _of(
        "The Content-Type is not JSON.",
        UnsupportedMediaType(
            "The body must be JSON. Send it with the header Content-Type: application/json."
        ),
    ),
    "key_reused": _of(
        "The Idempotency-Key came before with another body.",
        IdempotencyKeyReused(
            "This Idempotency-Key came before with another body. Use a new key for a new request.",
            request_id=REQUEST_ID,
        ),
    ),
    "calls_used": _of(
        "You have made as many calls as you may.",
        RateLimited("You have used up your 600/minute calls. Call again in 7 seconds.", 7),
    ),
    "model_used": _of(
        "You have submitted as much as you may to this model.",
        RateLimited(
            f"You have used up your 100/hour calls of model {MODEL!r}. Call again in 40 seconds.",
            40,
        ),
    ),
    "crowded": _of(
        "You have as many requests that wait or run as you may.",
        RateLimited(
            "You have 20 requests that wait or run, and may not have more at once. Submit again "
            "when one has ended, or cancel one.",
            1,
        ),
    ),
    "tokens_used": _of(
        "You have fewer tokens left for today than this may need.",
        RateLimited(
            "You may use 200000 tokens a day. 198900 are used or reserved, and this request may "
            "need 1224. Submit it with fewer max_tokens, or after midnight, UTC.",
            18_000,
        ),
    ),
    "places_taken": _of(
        "You have as many streams and sockets open as you may.",
        RateLimited(
            "You have 10 streams and sockets open, and may not have more at once. Close one, or "
            "poll instead.",
            2,
        ),
    ),
    "no_upgrade": Fault(
        "The request is no WebSocket handshake.",
        "INVALID_REQUEST",
        "This address and this kind of connection don't go together: /api/v1/ws takes WebSocket "
        "connections, every other address plain HTTP.",
        status=426,
        headers=("Upgrade",),
    ),
    "old_version": Fault(
        "The handshake is for another version than 13.",
        "INVALID_REQUEST",
        "Only version 13 of the WebSocket protocol is spoken here.",
        status=426,
        headers=("Upgrade", "Sec-WebSocket-Version"),
    ),
    "failed": Fault(
        "The request failed; `details.cause` says why.",
        "PROCESSING_FAILED",
        FAILED_JOB.error or "",
        _ID | {"cause": FAILED_JOB.error_code, "stage": FAILED_JOB.error_stage},
        STATUS["PROCESSING_FAILED"],
    ),
    "internal": _of("A fault of the server.", InternalError()),
    "queue_full": _of(
        "The queue or the memory is full.",
        PipelineUnavailable("10000 requests are waiting already. Try again later."),
    ),
    "restarting": _of("The server is about to stop.", Restarting()),
    "no_worker": _of(
        "Requests are run by workers, and there is none.",
        PipelineUnavailable(
            "No worker has been seen for 30 seconds, so nothing would answer. Start a worker "
            "(`orchestrator worker`) with the same REDIS_URL and ORCHESTRATOR_QUEUE_REDIS_URL, "
            "then try again."
        ),
    ),
    "redis_away": _of(
        "Requests are kept in Redis, and it is away.",
        PipelineUnavailable(
            "Redis can't be reached, so nothing can be looked up or taken now. Try again in a "
            "moment.",
            retry_after=2,
        ),
    ),
    "tickets_full": _of(
        "Too many stream tokens of all callers wait to be used.",
        PipelineUnavailable(
            "Too many stream tokens wait to be used. Try again in a while, or send the "
            "credentials with the stream."
        ),
    ),
    "streams_full": _of(
        "There is no room for one more stream.",
        PipelineUnavailable(
            "3072 streams are open already. Poll instead, or try again later.", retry_after=2
        ),
    ),
}
