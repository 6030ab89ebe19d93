"""What callers may have at once: streams, sockets, requests."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websocket

from tests.e2e.callers import (
    LONG,
    SHORT,
    Caller,
    Register,
    accepted,
    address,
    ask,
    behind,
    cancel,
    end_of,
    keyed,
    limited,
    refused_submit,
    somebody,
)
from tests.e2e.client import (
    Json,
    call,
    close,
    connected,
    dialled,
    enveloped,
    frames,
    get,
    open_stream,
    post,
    request_head,
    until,
)
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import Served, serve

STREAMS, REQUESTS, TOKENS = 2, 3, 4000


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    return Register(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def four_an_hour(register: Register) -> Iterator[str]:
    """Keys that may make four calls an hour, as many as tests take."""
    return iter([register.key("4/hour") for _ in range(5)])


@pytest.fixture(scope="module")
def server(register: Register, four_an_hour: Iterator[str], upstream: Upstream) -> Iterator[Served]:
    with serve(
        **register.environ,
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="any",
        OPENAI_BASE_URL=upstream.url,
        ORCHESTRATOR_STREAMS_PER_CALLER=str(STREAMS),
        ORCHESTRATOR_REQUESTS_PER_CALLER=str(REQUESTS),
        ORCHESTRATOR_TOKENS_A_DAY=str(TOKENS),
        ORCHESTRATOR_TRUSTED_PROXIES="127.0.0.1",
    ) as running:
        yield running


@contextlib.contextmanager
def running(server: Served, caller: Caller) -> Iterator[str]:
    """A request that goes on saying something while inside."""
    request_id = accepted(server, caller, LONG)
    try:
        yield request_id
    finally:
        cancel(server, caller, request_id)


def handshake(server: Served, caller: Caller, **options: Any) -> tuple[int, Json]:
    """Return how a WebSocket is refused; 101 where it isn't."""
    try:
        websocket.create_connection(server.ws, header=caller, timeout=20, **options).shutdown()
    except websocket.WebSocketBadStatusException as refusal:
        assert int(refusal.resp_headers["retry-after"]) >= 1
        return refusal.status_code, enveloped(json.loads(refusal.resp_body), "RATE_LIMITED")
    return 101, {}


def free(server: Served, caller: Caller, request_id: str) -> bool:
    """Whether there is a place for one more stream."""
    with get(server, f"/stream/{request_id}", headers=caller, stream=True) as answer:
        return answer.status_code == 200


# Streams


def test_streams_and_sockets_together_are_limited(server: Served) -> None:
    caller = somebody()
    with (
        running(server, caller) as request_id,
        open_stream(server, f"/stream/{request_id}", headers=caller) as stream,
        connected(server, header=caller) as socket,
    ):
        message, _ = limited(get(server, f"/stream/{request_id}", headers=caller))
        assert message == (
            f"You have {STREAMS} streams and sockets open, and may not have more at once. Close "
            "one, or poll instead."
        )
        status, error = handshake(server, caller)
        assert (status, error.get("message")) == (429, message)
        # What needs no place goes on, and so does everybody else.
        assert call(server, "HEAD", f"/stream/{request_id}", headers=caller).status_code == 200
        assert get(server, f"/events/{request_id}", headers=caller).status_code == 200
        assert get(server, f"/status/{request_id}", headers=caller).status_code == 200
        assert handshake(server, somebody())[0] == 101
        assert next(frames(stream)).event == "start"
        assert socket.lives()


@pytest.mark.parametrize("reset", [True, False])
def test_the_place_of_a_reader_that_left_is_free_again_soon(server: Served, reset: bool) -> None:
    caller = somebody()
    with running(server, caller) as request_id, connected(server, header=caller):
        with dialled(server) as sock:
            lines = [f"{name}: {value}" for name, value in caller.items()]
            sock.sendall(request_head("GET", f"/api/v1/stream/{request_id}", *lines))
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            assert not free(server, caller, request_id)
            close(sock, reset=reset)
        until(lambda: free(server, caller, request_id), 10)


def test_the_place_of_a_socket_that_left_is_free_again_soon(server: Served) -> None:
    caller = somebody()
    with connected(server, header=caller):
        with connected(server, header=caller) as socket:
            assert socket.lives()
            assert handshake(server, caller)[0] == 429
        until(lambda: handshake(server, caller)[0] == 101, 10)


def test_streams_that_end_leave_no_place_taken(server: Served) -> None:
    caller = somebody()
    nowhere = "01980000-0000-7000-8000-000000000000"
    for _ in range(STREAMS + 1):
        request_id = accepted(server, caller)
        with open_stream(server, f"/stream/{request_id}", headers=caller) as answer:
            *_, last = frames(answer)
        assert last.event == "complete"
        at_end = get(server, f"/stream/{request_id}?after={last.id}", headers=caller)
        assert at_end.status_code == 204
        assert get(server, f"/stream/{nowhere}", headers=caller).status_code == 404
        assert call(server, "HEAD", f"/stream/{request_id}", headers=caller).status_code == 200
        assert handshake(server, caller)[0] == 101
        until(lambda: free(server, caller, request_id), 10)  # noqa: B023


def test_a_submit_that_finds_no_place_for_its_stream_submits_nothing(server: Served) -> None:
    caller = somebody()
    inline = caller | {"Accept": "text/event-stream"}
    with connected(server, header=caller), connected(server, header=caller):
        limited(ask(server, inline))
        assert get(server, "/requests", headers=caller).json()["data"] == []
        assert ask(server, caller).status_code == 200
    until(lambda: ask(server, inline).status_code == 200, 10)


def test_a_submit_that_is_refused_leaves_no_place_taken(server: Served) -> None:
    caller = somebody()
    inline = caller | {"Accept": "text/event-stream"}
    for _ in range(STREAMS + 1):
        assert ask(server, inline, "").status_code == 400
        message, _ = limited(ask(server, inline, max_tokens=TOKENS + 1))
        assert "tokens" in message
    for _ in range(STREAMS + 1):
        answer = ask(server, inline)
        assert answer.status_code == 200, answer.text
        assert "event: complete" in answer.text


def test_a_long_poll_without_a_place_answers_at_once(server: Served) -> None:
    caller = somebody()
    with (
        running(server, caller) as request_id,
        connected(server, header=caller),
        connected(server, header=caller),
    ):
        began = time.monotonic()
        for path in ("status", "result"):
            answer = get(server, f"/{path}/{request_id}?wait=30", headers=caller)
            assert answer.status_code in (200, 202)
            assert answer.json()["status"] == "processing"
        answer = get(server, f"/events/{request_id}?wait=30&after=1000000", headers=caller)
        assert answer.status_code == 200
        answer = ask(server, caller | {"Prefer": "wait=30"}, LONG)
        assert answer.status_code == 202
        other = answer.json()["request_id"]
        answer = post(server, f"/cancel/{other}?wait=30", headers=caller)
        assert answer.status_code in (200, 202)
        assert time.monotonic() - began < 10


def test_long_polls_take_places_and_give_them_back(server: Served) -> None:
    caller = somebody()
    with running(server, caller) as request_id, connected(server, header=caller):
        for _ in range(STREAMS):
            answer = get(server, f"/status/{request_id}?wait=0.2", headers=caller)
            assert answer.json()["status"] == "processing"
        assert free(server, caller, request_id)
        with dialled(server) as sock:
            lines = [f"{name}: {value}" for name, value in caller.items()]
            sock.sendall(request_head("GET", f"/api/v1/status/{request_id}?wait=50", *lines))
            until(lambda: not free(server, caller, request_id), 10)
        # Who polled has left.
        until(lambda: free(server, caller, request_id), 10)


def test_a_page_has_a_place_of_its_address_until_it_says_who_it_is(
    server: Served, register: Register
) -> None:
    where, caller = behind(address()), somebody()
    token = caller["Authorization"].removeprefix("Bearer ")
    with contextlib.ExitStack() as stack:
        pages = [
            stack.enter_context(connected(server, header=where, origin=server.url))
            for _ in range(STREAMS)
        ]
        assert handshake(server, where, origin=server.url)[0] == 429
        for page in pages:
            page.send({"type": "auth", "token": token})
            assert page.receive() == {"type": "welcome"}
        assert handshake(server, caller)[0] == 429
        late = stack.enter_context(connected(server, header=where, origin=server.url))
        late.send({"type": "auth", "token": token})
        assert late.receive()["code"] == "RATE_LIMITED"
        opcode, reason = late.inner.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        assert reason[2:].startswith(b"You have")


# Sockets


def test_what_a_socket_asks_of_the_store_counts_and_past_the_rate_it_stays_open(
    server: Served, four_an_hour: Iterator[str]
) -> None:
    caller = keyed(next(four_an_hour))
    with connected(server, header=caller) as socket:
        request_id = socket.submit(SHORT, max_tokens=5)
        socket.until("result")
        socket.send({"type": "subscribe", "request_id": request_id})
        socket.until("result")
        for _ in range(10):
            assert socket.lives()
            socket.send({"type": "unsubscribe", "request_id": request_id})
        socket.send({"type": "cancel", "request_id": request_id})
        socket.until("result")
        for frame in (
            {"prompt": SHORT, "ref": 7},
            {"type": "submit", "prompt": SHORT, "ref": 7},
            {"type": "subscribe", "request_id": request_id, "ref": 7},
            {"type": "cancel", "request_id": request_id, "ref": 7},
        ):
            socket.send(frame)
            error = socket.receive()
            assert (error["type"], error["code"], error["ref"]) == ("error", "RATE_LIMITED", 7)
            assert error["retry_after"] >= 1
            assert error["message"].startswith("You have used up your 4/hour calls. Call again in")
        assert socket.lives()
    limited(get(server, f"/status/{request_id}", headers=caller))
    assert handshake(server, caller)[0] == 429


def test_frames_that_cannot_be_read_count(server: Served, four_an_hour: Iterator[str]) -> None:
    with connected(server, header=keyed(next(four_an_hour))) as socket:
        for frame in ("{", '{"type": "dance"}', '{"type": "submit"}'):
            socket.send(frame)
            assert socket.receive()["code"] == "INVALID_REQUEST"
        socket.send("{")
        assert socket.receive()["code"] == "RATE_LIMITED"
        assert socket.lives()


# Requests at once


def test_requests_at_once_are_limited_and_free_again_however_they_end(server: Served) -> None:
    caller = somebody()
    session = {"session_id": "one-at-a-time"}
    ids = [accepted(server, caller, LONG, **session) for _ in range(REQUESTS)]
    message, wait_s = limited(ask(server, caller))
    assert message == (
        f"You have {REQUESTS} requests that wait or run, and may not have more at once. Submit "
        "again when one has ended, or cancel one."
    )
    assert wait_s == 1
    with connected(server, header=caller) as socket:
        assert refused_submit(socket)["retry_after"] == 1
        cancel(server, caller, ids.pop())
        # One that ends by itself, one that fails, one that is too late.
        for fields in (
            {"prompt": SHORT},
            {"prompt": "fault:status 400"},
            {"prompt": "fault:silent", "timeout_s": 0.3},
        ):
            request_id = accepted(server, caller, **fields)
            assert end_of(server, caller, request_id)["status"] in ("completed", "failed")
        ids.append(accepted(server, caller, LONG))
        refused_submit(socket)
    assert ask(server, somebody()).status_code == 200
    for request_id in reversed(ids):
        cancel(server, caller, request_id)
    ids = [accepted(server, caller) for _ in range(REQUESTS)]
    for request_id in ids:
        end_of(server, caller, request_id)


def test_a_replay_is_no_new_request(server: Served) -> None:
    caller = somebody()
    keyed_once = caller | {"Idempotency-Key": "once"}
    first = accepted(server, keyed_once, LONG)
    others = [accepted(server, caller, LONG) for _ in range(REQUESTS - 1)]
    limited(ask(server, caller))
    again = ask(server, keyed_once, LONG)
    assert again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["request_id"] == first
    limited(ask(server, caller | {"Idempotency-Key": "twice"}))
    for request_id in (first, *others):
        cancel(server, caller, request_id)
    # What was refused was not kept.
    assert ask(server, caller | {"Idempotency-Key": "twice"}).status_code == 200
