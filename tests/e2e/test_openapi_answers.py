"""What a running server answers, held against its own OpenAPI document."""

import contextlib
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import requests

from orchestrator.web.openapi.samples import REQUEST_ID
from tests.described import Described, Json
from tests.e2e.client import LONG, connected, ended, frames, occupied, open_stream, started, submit
from tests.served import Served, serve

PATIENCE_S = 20
RATE = 30
CLIENT_FRAME = {"$ref": "#/components/schemas/ClientFrame"}
SERVER_FRAME = {"$ref": "#/components/schemas/ServerFrame"}
LEFT = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
ROUTES = """
[backends.echo]
kind = "echo"
delay_s = 0.02

[models.default]
targets = ["echo"]

[models."llama3.2"]
targets = ["echo"]
rate_limit = "1/hour"
"""
DATA = {"start": "StartData", "token": "TokenData", "complete": "CompleteData"}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
KEY = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
UNKNOWN = "ef03c56e-35a2-47a3-a123-bc6c704b28e6"


@dataclass(frozen=True)
class Caller:
    """Makes the calls that the document describes."""

    server: Served
    described: Described

    def __call__(self, name: str, wanted: int, **options: Any) -> requests.Response:
        """Call an operation, and hold that it answers with the wanted status, as described."""
        path, method, _ = self.described.operation(name)
        for part in ("request_id", "session_id"):
            path = path.replace(f"{{{part}}}", options.pop(part, ""))
        answer = requests.request(method, f"{self.server.url}{path}", timeout=PATIENCE_S, **options)
        assert answer.status_code == wanted, answer.text
        self.described.check(name, answer)
        return answer


@pytest.fixture(scope="module")
def described(server: Served) -> Described:
    return Described(requests.get(f"{server.api}/openapi.json", timeout=PATIENCE_S).json())


@pytest.fixture(scope="module")
def call(server: Served, described: Described) -> Caller:
    return Caller(server, described)


@pytest.fixture(scope="module")
def slow(described: Described) -> Iterator[Caller]:
    """A server with room for two requests: one that runs, word by word, and one that waits."""
    with serve(
        ORCHESTRATOR_ECHO_DELAY_S="0.02",
        ORCHESTRATOR_CONCURRENCY="1",
        ORCHESTRATOR_QUEUE_LIMIT="1",
    ) as served:
        yield Caller(served, described)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, described: Described) -> Iterator[Caller]:
    """A server that limits all that it can; each address that a test claims is another caller."""
    routes = tmp_path_factory.mktemp("limited") / "routes.toml"
    routes.write_text(ROUTES)
    with serve(
        ORCHESTRATOR_CONFIG=str(routes),
        ORCHESTRATOR_RATE_LIMIT=f"{RATE}/minute",
        ORCHESTRATOR_STREAMS_PER_CALLER="1",
        ORCHESTRATOR_REQUESTS_PER_CALLER="1",
        ORCHESTRATOR_TOKENS_A_DAY="100000",
        ORCHESTRATOR_TRUSTED_PROXIES="127.0.0.1",
    ) as served:
        yield Caller(served, described)


@pytest.fixture(scope="module")
def as_another() -> Callable[[], dict[str, str]]:
    numbers = itertools.count(1)
    return lambda: {"X-Forwarded-For": f"192.0.2.{next(numbers)}"}


def test_a_submit_is_answered_as_described(call: Caller) -> None:
    call("submit", 200, json={"prompt": "x"})
    call("submit", 202, json={"prompt": "x"}, headers={"Prefer": "respond-async"})
    call("submit", 200, json={"prompt": "x"}, headers={"Prefer": "wait=10"})
    call("submit", 200, json={"prompt": "x"}, headers={"Accept": "text/event-stream"})
    key = {"Idempotency-Key": UNKNOWN}
    call("submit", 200, json={"prompt": "x"}, headers=key)
    again = call("submit", 200, json={"prompt": "x"}, headers=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    call("submit", 422, json={"prompt": "y"}, headers=key)


def test_every_example_of_a_body_is_accepted(call: Caller) -> None:
    body = call.described.operation("submit")[2]["requestBody"]
    for example in body["content"]["application/json"]["examples"].values():
        call("submit", 200, json=example["value"])


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (400, {"data": "[]", "headers": {"Content-Type": "application/json"}}),
        (400, {"json": {"prompt": " "}}),
        (400, {"json": {"prompt": "x", "promt": "y"}}),
        (400, {"json": {"prompt": "x"}, "params": {"wait": "61"}}),
        (400, {"json": {"prompt": "x"}, "headers": {"Prefer": "wait=soon"}}),
        (400, {"json": {"prompt": "x"}, "headers": {"Idempotency-Key": "a b"}}),
        (406, {"json": {"prompt": "x"}, "headers": {"Accept": "image/png"}}),
        (413, {"json": {"prompt": "x" * 1024 * 1024}}),
        (415, {"data": "prompt=x", "headers": {"Content-Type": "text/plain"}}),
    ],
)
def test_a_refused_submit_is_answered_as_described(
    call: Caller, status: int, options: Json
) -> None:
    call("submit", status, **options)


def test_a_request_that_ended_well_is_answered_as_described(call: Caller) -> None:
    request_id = submit(call.server, "When should I go?", metadata={"a": 1})
    ended(call.server, request_id)
    for name in ("getStatus", "getResult", "cancel", "streamEvents", "listEvents"):
        call(name, 200, request_id=request_id)
    for name in ("getStatus", "getResult", "cancel", "listEvents"):
        applied = call(name, 200, request_id=request_id, headers={"Prefer": "wait=1"})
        assert applied.headers["Preference-Applied"] == "wait=1"
        call(name, 400, request_id=request_id, params={"wait": "-1"})
        call(name, 400, request_id=request_id, headers={"Prefer": "wait=soon"})
    call("streamEvents", 204, request_id=request_id, params={"after": "99"})
    call("streamEvents", 406, request_id=request_id, headers={"Accept": "application/json"})
    for wrong in ({"after": "-2"}, {"limit": "0"}, {"limit": "1001"}):
        call("listEvents", 400, request_id=request_id, params=wrong)
    call("deleteRequest", 204, request_id=request_id)


@pytest.mark.parametrize("request_id", [UNKNOWN, REQUEST_ID, "nonsense"])
@pytest.mark.parametrize(
    "name", ["getStatus", "getResult", "cancel", "streamEvents", "listEvents", "deleteRequest"]
)
def test_a_request_that_is_not_there_is_answered_as_described(
    call: Caller, name: str, request_id: str
) -> None:
    call(name, 404, request_id=request_id)


def test_lists_and_sessions_are_answered_as_described(call: Caller) -> None:
    session_id = f"described-{uuid.uuid4()}"
    for prompt in ("one", "two"):
        ended(call.server, submit(call.server, prompt, session_id=session_id, system="Be short."))
    page = call("listRequests", 200, params={"session_id": session_id, "limit": "1"}).json()
    following = {"session_id": session_id, "cursor": page["next_cursor"]}
    assert call("listRequests", 200, params=following).json()["data"]
    for broken in ({"status": "x"}, {"session_id": "a b"}, {"limit": "101"}, {"cursor": "?"}):
        call("listRequests", 400, params=broken)
    call("submit", 200, json={"prompt": "x"})
    cursor = call("listSessions", 200, params={"limit": "1"}).json()["next_cursor"]
    rule = call.described.document["components"]["parameters"]["SessionCursor"]["schema"]
    assert not call.described.faults(rule, cursor)
    assert call("listSessions", 200, params={"cursor": cursor}).json()["data"]
    for wrong in ("a b", "one", "-1", "9" * 20):
        call("listSessions", 400, params={"cursor": wrong})
    assert len(call("getSession", 200, session_id=session_id).json()["messages"]) == 5
    call("deleteSession", 204, session_id=session_id)
    call("getSession", 404, session_id=session_id)
    call("deleteSession", 404, session_id=session_id)


def test_the_service_is_answered_as_described(call: Caller) -> None:
    for name in ("listModels", "getHealth", "getHealthAtRoot", "getLiveness", "getReadiness"):
        call(name, 200)
    tag = call("getOpenApi", 200).headers["ETag"]
    call("getOpenApi", 304, headers={"If-None-Match": tag})


def test_limits_are_answered_as_described(
    limited: Caller, as_another: Callable[[], dict[str, str]]
) -> None:
    who = as_another()
    call = partial(limited, headers=who)
    running = call("submit", 200, json={"prompt": LONG}).json()["request_id"]
    one_too_many = call("submit", 429, json={"prompt": "x"})
    assert one_too_many.headers["Retry-After"] == "1"
    assert set(one_too_many.headers) >= LEFT
    with requests.get(
        f"{limited.server.api}/stream/{running}", headers=who, stream=True, timeout=PATIENCE_S
    ):
        call("streamEvents", 429, request_id=running)
        limited("openSocket", 429, headers=UPGRADE | KEY | who)
        streamed = who | {"Accept": "text/event-stream"}
        limited("submit", 429, json={"prompt": "x"}, headers=streamed)
    call("cancel", 202, request_id=running)
    ended(limited.server, running)
    call("submit", 429, json={"prompt": "x", "max_tokens": 99_000})
    call("submit", 200, json={"prompt": "x", "model": "llama3.2"}, params={"wait": "10"})
    call("submit", 429, json={"prompt": "x", "model": "llama3.2"})


def test_whatever_is_asked_past_a_rate_is_answered_as_described(
    limited: Caller, as_another: Callable[[], dict[str, str]]
) -> None:
    who = as_another()
    for _ in range(RATE):
        assert set(limited("listModels", 200, headers=who).headers) >= LEFT
    ids = {"request_id": REQUEST_ID, "session_id": "s"}
    names = [found[2]["operationId"] for found in limited.described.operations()]
    is_limited = {
        name: "429" in limited.described.operation(name)[2]["responses"] for name in names
    }
    for name in names:
        limited(name, 429 if is_limited[name] else 200, headers=who, **ids)
    frames = [{"prompt": "x", "stream": True}] * RATE + [{"prompt": "x", "ref": "last"}]
    [*_, refused] = exchange(
        limited, frames, lambda got: got.get("ref") == "last", header=as_another()
    )
    assert refused["code"] == "RATE_LIMITED"
    assert 1 <= refused["retry_after"] <= 61


def test_requests_under_way_are_answered_as_described(slow: Caller) -> None:
    with occupied(slow.server, session_id="held") as [running]:
        call_all = [("getStatus", 200), ("getResult", 202), ("listEvents", 200)]
        pending = submit(slow.server, LONG)
        for name, status in call_all:
            slow(name, status, request_id=running)
            slow(name, status, request_id=pending)
        slow("listRequests", 200)
        slow("deleteRequest", 409, request_id=running)
        slow("getSession", 200, session_id="held")
        slow("deleteSession", 409, session_id="held")
        slow("submit", 409, json={"prompt": "x", "session_id": "held", "on_busy": "reject"})
        assert "Retry-After" in slow("submit", 503, json={"prompt": "x"}).headers
        assert slow("cancel", 200, request_id=pending).json()["status"] == "cancelled"
        slow("cancel", 202, request_id=running)
        ended(slow.server, running)
        for name, status in (("getStatus", 200), ("getResult", 409), ("listEvents", 200)):
            slow(name, status, request_id=running)


def test_a_request_that_failed_is_answered_as_described(slow: Caller) -> None:
    request_id = submit(slow.server, LONG, timeout_s=0.2)
    assert ended(slow.server, request_id)["error_code"] == "DEADLINE_EXCEEDED"
    for name, status in (("getStatus", 200), ("getResult", 500), ("listEvents", 200)):
        slow(name, status, request_id=request_id)


@pytest.mark.parametrize(
    ("prompt", "fields"), [("one two", {}), (LONG, {"timeout_s": 0.1})], ids=["done", "failed"]
)
def test_the_events_of_a_stream_are_as_described(slow: Caller, prompt: str, fields: Json) -> None:
    request_id = submit(slow.server, prompt, **fields)
    with open_stream(slow.server, f"/stream/{request_id}") as answer:
        events = list(frames(answer))
    schema = slow.described.operation("streamEvents")[2]["responses"]["200"]["content"][
        "text/event-stream"
    ]["schema"]
    assert {"start", "token", "complete"} <= {event.event for event in events}
    for event in events:
        data = {"$ref": f"#/components/schemas/{DATA[event.event]}"}
        assert not slow.described.faults(data, event.data)
        whole = {"id": str(event.id), "event": event.event, "data": json.dumps(event.data)}
        assert not slow.described.faults(schema, whole)


def exchange(
    caller: Caller, sent: list[Json], until: Callable[[Json], bool], **options: Any
) -> list[Json]:
    """Send frames, and return those that come, up to the first that ``until`` wants."""
    received = []
    with connected(caller.server, **options) as sock:
        for frame in sent:
            assert not caller.described.faults(CLIENT_FRAME, frame), frame
            sock.send(frame)
        while not received or not until(received[-1]):
            received.append(sock.receive())
    for frame in received:
        assert not caller.described.faults(SERVER_FRAME, frame), frame
    return received


def test_the_frames_of_a_socket_are_as_described(call: Caller) -> None:
    sent = {"type": "submit", "prompt": "one two", "stream": True, "ref": "a"}
    kinds = [frame["type"] for frame in exchange(call, [sent], lambda got: got["type"] == "result")]
    assert kinds[0] == "ack"
    assert "token" in kinds
    [pong] = exchange(call, [{"type": "ping", "ref": 7}], lambda got: True)
    assert pong == {"type": "pong", "ref": 7}
    [unknown] = exchange(call, [{"type": "cancel", "request_id": UNKNOWN}], lambda got: True)
    assert unknown["code"] == "NOT_FOUND"


def test_a_cancel_over_a_socket_is_as_described(slow: Caller) -> None:
    request_id = submit(slow.server, LONG)
    started(slow.server, request_id)
    follow = [{"type": kind, "request_id": request_id} for kind in ("subscribe", "cancel")]
    last = exchange(slow, follow, lambda got: got["type"] == "error")[-1]
    assert (last["code"], last["request_id"]) == ("CANCELLED", request_id)


def test_a_frame_that_breaks_a_rule_is_answered_as_described(call: Caller) -> None:
    with connected(call.server) as sock:
        sock.send({"prompt": " ", "ref": "a"})
        error = sock.receive()
    assert error["fields"]
    assert not call.described.faults(SERVER_FRAME, error)


def test_a_handshake_that_is_refused_is_answered_as_described(call: Caller) -> None:
    call("openSocket", 426)
    call("openSocket", 426, headers=UPGRADE | KEY | {"Sec-WebSocket-Version": "8"})
    call("openSocket", 400, headers=UPGRADE)
    call("openSocket", 403, headers=UPGRADE | KEY | {"Origin": "https://other.example"})


def test_a_server_full_of_streams_answers_as_described(
    serving: Callable[..., Served], described: Described
) -> None:
    served = serving(ORCHESTRATOR_MAX_CONNECTIONS="16", ORCHESTRATOR_ECHO_DELAY_S="0.02")
    full = Caller(served, described)
    request_id = submit(served, LONG)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(served))
        full("streamEvents", 503, request_id=request_id)
        full("submit", 503, json={"prompt": "x"}, headers={"Accept": "text/event-stream"})
        full("openSocket", 503, headers=UPGRADE | KEY)
