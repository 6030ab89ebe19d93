"""What the operations of the API share in its documentation: parameters and headers."""

from orchestrator.ids import FORM
from orchestrator.job import Status
from orchestrator.schemas import MAX_WAIT_S, SESSION_ID_PATTERN
from orchestrator.strict_json import Json
from orchestrator.web.openapi.samples import REQUEST_ID, SESSION_ID, STREAM_TOKEN


def _query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _path(name: str, description: str, schema: Json) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
    }


PARAMETERS: dict[str, Json] = {
    "RequestId": _path(
        "request_id",
        "The `request_id` that a submit gave.",
        {"type": "string", "format": "uuid", "examples": [REQUEST_ID]},
    ),
    "StreamToken": _query(
        "token",
        "What `POST /stream-token` gave, for a client that can send no headers.",
        {"type": "string", "examples": [STREAM_TOKEN["token"]]},
    ),
    "SessionIdInPath": _path(
        "session_id",
        "The session.",
        {"type": "string", "pattern": SESSION_ID_PATTERN, "examples": [SESSION_ID]},
    ),
    "Wait": _query(
        "wait",
        "How many seconds the answer may be held back until there is news. `Prefer` wins over it.",
        {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0, "examples": [30]},
    ),
    "Prefer": _header(
        "Prefer",
        "`wait=N` (RFC 7240): the same as the parameter `wait`, in whole seconds; more than 60 "
        "counts as 60. Other preferences are ignored.",
        {"type": "string", "examples": ["wait=30"]},
    ),
    "PreferAsync": _header(
        "Prefer",
        "`wait=N` (RFC 7240): hold the answer back for up to N seconds, 60 at most, until the "
        "request has ended. `respond-async`: answer 202 at once.",
        {"type": "string", "examples": ["wait=30", "respond-async"]},
    ),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        "A name of your own for this submit, kept for 24 hours: sent again with the same body, it "
        "gives the same request instead of a second one, be that deleted or expired by now.",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": "^[\\x21-\\x7e]+$",
        },
    ),
    "CacheControl": _header(
        "Cache-Control",
        "For models that give kept answers again. `no-cache` or `max-age=0`: ask the model, and "
        "keep what it says. `no-store`: neither give a kept answer nor keep this one. With any of "
        "them the request shares no call with others. All else is ignored.",
        {"type": "string", "examples": ["no-cache", "no-store"]},
    ),
    "LastEventId": _header(
        "Last-Event-ID",
        "The `id` of the last event that you have: the stream goes on after it. An EventSource "
        "sends it by itself. It wins over `after`; what is no number means from the start.",
        {"type": "string", "examples": ["4"]},
    ),
    "After": _query(
        "after",
        "The same as `Last-Event-ID`, for a first connection, which can't send headers.",
        {"type": "string", "examples": ["4"]},
    ),
    "AfterSeq": _query(
        "after",
        "The `next` of the page before; -1 is the start.",
        {"type": "integer", "minimum": -1, "maximum": 10**12, "default": -1},
    ),
    "EventLimit": _query(
        "limit",
        "How many events a page may have.",
        {"type": "integer", "minimum": 1, "maximum": 1000, "default": 256},
    ),
    "Limit": _query(
        "limit",
        "How many entries a page may have.",
        {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
    ),
    "RequestCursor": _query(
        "cursor",
        "The `next_cursor` of the page before.",
        {"type": "string", "pattern": f"^{FORM.pattern}$", "examples": [REQUEST_ID]},
    ),
    "SessionCursor": _query(
        "cursor",
        "The `next_cursor` of the page before: digits, with no meaning of their own.",
        {"type": "string", "pattern": r"^\d{1,19}$", "examples": ["8"]},
    ),
    "Status": _query(
        "status", "Only requests that stand there.", {"type": "string", "enum": list(Status)}
    ),
    "SessionId": _query(
        "session_id",
        "Only requests of this session.",
        {"type": "string", "pattern": SESSION_ID_PATTERN, "examples": [SESSION_ID]},
    ),
    "IfNoneMatch": _header(
        "If-None-Match",
        "The `ETag` of the copy that you have.",
        {"type": "string", "examples": ['"2f1c9a"']},
    ),
}
"""By the name under which operations refer to them."""


def _returned(description: str, schema: Json) -> Json:
    return {"description": description, "schema": schema}


_TEXT: Json = {"type": "string"}

HEADERS: dict[str, Json] = {
    "Location": _returned("Where the status of the request is.", _TEXT),
    "Content-Location": _returned("Where the same stream is, to resume it.", _TEXT),
    "Preference-Applied": _returned(
        "What of `Prefer` was followed.", {"type": "string", "examples": ["wait=30"]}
    ),
    "Idempotent-Replayed": _returned(
        "The Idempotency-Key came before: this is the request that it gave then.",
        {"type": "string", "enum": ["true"]},
    ),
    "X-Cache": _returned(
        "Whether an earlier request's answer is given again; only where the model keeps answers.",
        {"type": "string", "enum": ["hit", "miss"]},
    ),
    "Retry-After": _returned(
        "In how many seconds to ask again.", {"type": "integer", "minimum": 0}
    ),
    "X-RateLimit-Limit": _returned(
        "How many calls you may make in a while; only where calls are limited. Of several rates "
        "it is the one that leaves the least.",
        {"type": "integer", "minimum": 1, "examples": [600]},
    ),
    "X-RateLimit-Remaining": _returned(
        "How many of them are left; only where calls are limited.",
        {"type": "integer", "minimum": 0, "examples": [599]},
    ),
    "X-RateLimit-Reset": _returned(
        "When more of them are left than now, in seconds since the epoch; only where calls are "
        "limited.",
        {"type": "integer", "minimum": 0, "examples": [1767225660]},
    ),
    "Cache-Control": _returned("Whether the answer may be kept.", _TEXT),
    "X-Accel-Buffering": _returned(
        "Tells proxies to pass events on at once.", {"type": "string", "enum": ["no"]}
    ),
    "ETag": _returned("Names this version of the answer.", _TEXT),
    "Upgrade": _returned("What to upgrade to.", {"type": "string", "enum": ["websocket"]}),
    "Sec-WebSocket-Version": _returned(
        "The version that is spoken.", {"type": "string", "enum": ["13"]}
    ),
}
"""By their own names."""
