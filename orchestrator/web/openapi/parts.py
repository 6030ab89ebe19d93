"""What the operations of the OpenAPI document are made of."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from marshmallow import Schema

from orchestrator.answers import ErrorSchema
from orchestrator.strict_json import Json
from orchestrator.web.openapi.faults import FAULTS, Fault

Replies = dict[str, Json]

_LEFT = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")

# Without a type: some tools read a stream as one text, others as an object for each event.
_EVENT_STREAM: Json = {
    "description": "Server-sent events, as the WHATWG's HTML standard has them, each with these.",
    "properties": {
        "id": {"type": "string", "pattern": r"^\d+$", "description": "The event's `seq`."},
        "event": {"type": "string", "enum": ["start", "token", "restart", "complete"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    {"$ref": f"#/components/schemas/{name}Data"}
                    for name in ("Start", "Token", "Restart", "Complete")
                ]
            },
        },
    },
    "required": ["id", "event", "data"],
}


def operation(
    tag: str,
    name: str,
    summary: str,
    description: str,
    *replies: Replies,
    parameters: Sequence[str] = (),
    more: Mapping[str, object] | None = None,
) -> Json:
    """Return an operation; ``more`` are further members of it, as OpenAPI has them."""
    responses: Replies = {}
    for found in replies:
        responses |= found
    operation: Json = {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "description": description,
    }
    if parameters:
        operation["parameters"] = list(parameters)
    if "401" in responses:
        # None of them, where the service asks for no credentials.
        operation["security"] = [{"key": []}, {"token": []}, {}]
    if "429" in responses:
        responses = {status: _telling(status, found) for status, found in responses.items()}
    return operation | dict(more or {}) | {"responses": responses}


def about(schema: type[Schema]) -> str:
    """Return what a schema says of itself."""
    return " ".join((schema.__doc__ or "").split())


def table(heads: tuple[str, str], rows: Mapping[str, str]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {heads[0]} | {heads[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows.items())])


def reply(
    status: int,
    description: str,
    schema: type[Schema] | Json | None = None,
    examples: Mapping[str, object] | None = None,
    headers: tuple[str, ...] = (),
) -> Replies:
    """Return one success; the keys of ``examples`` are sentences about them."""
    found: Json = {"description": description}
    if headers:
        found["headers"] = {name: name for name in headers}
    if schema:
        found["content"] = {
            "application/json": {"schema": schema, "examples": named(examples or {})}
        }
    return {str(status): found}


def with_stream(replies: Replies, status: int, example: str, headers: tuple[str, ...]) -> Replies:
    """Return ``replies`` with an event stream as another form of the one with ``status``."""
    known = replies.get(str(status), {"description": "The stream.", "headers": {}, "content": {}})
    content = known["content"] | {
        "text/event-stream": {
            "schema": _EVENT_STREAM,
            "examples": named({"A whole stream": example}),
        }
    }
    merged = {name: name for name in (*known["headers"], *headers)}
    return replies | {str(status): known | {"headers": merged, "content": content}}


def faults(*names: str, is_open: bool = False) -> Replies:
    """Return the errors of an operation, those of one status together. Names are FAULTS' keys.

    One that ``is_open`` never asks for credentials, and is not limited.
    """
    always = ["internal"] if is_open else ["internal", "no_credentials", "no_scope", "calls_used"]
    chosen = sorted((*names, *always), key=_status_of)
    return {
        str(status): _fault_reply({name: FAULTS[name] for name in group})
        for status, group in groupby(chosen, key=_status_of)
    }


def _telling(status: str, found: Json) -> Json:
    """Return an answer that says what is left to its caller; 101 has no room for it."""
    left = {} if status == "101" else {name: name for name in _LEFT}
    return found | {"headers": found.get("headers", {}) | left}


def _status_of(name: str) -> int:
    return FAULTS[name].status


def named(examples: Mapping[str, object]) -> Json:
    """Return examples as OpenAPI has them, from sentences about them to their values."""
    return {
        re.sub(r"\W+", "_", about.lower()).strip("_"): {"summary": about, "value": value}
        for about, value in examples.items()
    }


def _fault_reply(group: Mapping[str, Fault]) -> Json:
    found: Json = {
        "description": " ".join(f"`{fault.code}`: {fault.reason}" for fault in group.values()),
        "content": {
            "application/json": {
                "schema": ErrorSchema,
                "examples": {
                    name: {"summary": fault.reason, "value": fault.envelope()}
                    for name, fault in group.items()
                },
            }
        },
    }
    headers = {name: name for fault in group.values() for name in fault.headers}
    return found | ({"headers": headers} if headers else {})
