"""Streams, the events page and the WebSocket, as the OpenAPI document tells it."""

from collections.abc import Sequence

from marshmallow import Schema

from orchestrator import answers
from orchestrator.frames import CLIENT_FRAMES, SERVER_FRAMES
from orchestrator.strict_json import Json
from orchestrator.web.openapi import samples
from orchestrator.web.openapi.parts import about, faults, operation, reply, table, with_stream


def _frames(head: str, schemas: Sequence[type[Schema]]) -> str:
    rows = {
        f"`{schema.__name__.removesuffix('FrameSchema').lower()}`": about(schema)
        for schema in schemas
    }
    return table((head, "What it means"), rows)


_EVENTS = table(
    ("Event", "Its data"),
    {
        "`start`": '`{"request_id"}`: a worker has begun.',
        "`token`": '`{"chunk", "data"}`: a piece of the answer; chunks count from 0.',
        "`restart`": '`{"attempt"}`: the answer so far is void and begins again at chunk 0.',
        "`complete`": '`{"status"}`: the end, always the last event. The status is `done`, '
        "`failed` (with `error`) or `cancelled`; `finish_reason` and `usage` where known.",
    },
)

_stream = operation(
    "Watch",
    "streamEvents",
    "Watch a request as server-sent events",
    f"{_EVENTS}\n\nEach event has its `seq` as `id`, so an EventSource that lost its connection "
    "resumes by itself. When 5 seconds pass with nothing to tell, a comment is sent.",
    with_stream(
        {},
        200,
        samples.event_stream(),
        ("Cache-Control", "X-Accel-Buffering"),
    ),
    reply(204, "The cursor is at the end: nothing follows, and an EventSource stops."),
    faults("no_request", "expired", "not_a_stream", "places_taken", "streams_full", "redis_away"),
    parameters=("RequestId", "LastEventId", "After", "StreamToken"),
)

_events = operation(
    "Watch",
    "listEvents",
    "Read a request's events as JSON",
    "The same events, a page at a time. With `wait` a page that would be empty is held back until "
    "an event comes.",
    reply(
        200,
        "The events after the cursor; none when there is no news.",
        answers.EventPageSchema,
        {
            "A whole log": samples.EVENT_PAGE,
            "A log that still grows": samples.EVENT_PAGE_SO_FAR,
            "A restart, and a failure": samples.EVENT_PAGE_RESTARTED,
        },
        ("Preference-Applied",),
    ),
    faults(
        "bad_after",
        "bad_event_limit",
        "bad_wait",
        "bad_prefer",
        "no_request",
        "expired",
        "redis_away",
    ),
    parameters=("RequestId", "AfterSeq", "EventLimit", "Wait", "Prefer"),
)

_socket = operation(
    "Watch",
    "openSocket",
    "Submit and watch over a WebSocket",
    "A WebSocket handshake (RFC 6455, version 13). Every message is a JSON object as text. Many "
    "requests share a socket: 32 at once. Closing it cancels nothing.\n\n"
    f"{_frames('You send', CLIENT_FRAMES)}\n\n"
    f"{_frames('You get', SERVER_FRAMES)}\n\n"
    "A message without `type` is a submit. One that can't be followed is answered with an `error`, "
    "and the socket lives on. The server closes with 1009 after a message of more than 1 MiB, with "
    "1008 after more than 8 messages that it had no time to read, and with 1001 when it stops.",
    reply(101, "The connection is a WebSocket now.", headers=("Upgrade",)),
    faults(
        "bad_socket_key",
        "foreign_origin",
        "no_upgrade",
        "old_version",
        "places_taken",
        "streams_full",
    ),
    more={
        "x-websocket": {
            "client": {"$ref": "#/components/schemas/ClientFrame"},
            "server": {"$ref": "#/components/schemas/ServerFrame"},
        },
        "x-codeSamples": [
            {
                "lang": "JavaScript",
                "source": 'const socket = new WebSocket("ws://localhost:8080/api/v1/ws");\n'
                'socket.onopen = () => socket.send(\'{"prompt": "Hello", "stream": true}\');\n'
                "socket.onmessage = (message) => console.log(JSON.parse(message.data));",
            }
        ],
    },
)

_stream_token = operation(
    "Watch",
    "createStreamToken",
    "Get a token for an EventSource",
    "A browser's EventSource can send no headers. The token in `?token=` opens the stream of this "
    "one request, once, within a minute. Where no credentials are asked for it is empty.",
    reply(
        200,
        "The token.",
        answers.StreamTokenSchema,
        {"A token": samples.STREAM_TOKEN},
        ("Cache-Control",),
    ),
    faults("no_request", "expired", "tickets_full", "redis_away"),
    parameters=("RequestId",),
)

PATHS: dict[str, Json] = {
    "/api/v1/stream-token/{request_id}": {"post": _stream_token},
    "/api/v1/stream/{request_id}": {"get": _stream},
    "/api/v1/events/{request_id}": {"get": _events},
    "/api/v1/ws": {"get": _socket},
}
