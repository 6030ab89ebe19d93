"""The WebSocket door, frame by frame."""

import json
import socket as sockets
import time
import uuid
from collections.abc import Iterator

import pytest
import websocket

from orchestrator.web.connections import LOOK_S
from tests.e2e.client import (
    LONG,
    Json,
    close,
    connected,
    ended,
    get,
    holds,
    occupied,
    peer_of,
    started,
    status,
    submit,
    until,
)
from tests.served import BUSY, Served, free_port, serve


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """Twenty words a second."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05") as served:
        yield served


SMALL_BUFFER = (sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)


def tokens_of(received: list[Json]) -> str:
    """Return the text of the token frames, holding that their chunks count from 0."""
    tokens = [frame for frame in received if frame["type"] == "token"]
    assert [frame["chunk"] for frame in tokens] == list(range(len(tokens)))
    return "".join(frame["data"] for frame in tokens)


# Submit


def test_a_submit_is_acknowledged_and_answered_as_specified(server: Served) -> None:
    with connected(server) as socket:
        socket.send({"prompt": "one two", "session_id": "abc", "metadata": {"priority": "high"}})
        ack = socket.receive()
        request_id = ack["request_id"]
        assert uuid.UUID(request_id).version == 7
        assert ack == {"type": "ack", "request_id": request_id, "status": "processing"}
        assert socket.receive() == {
            "type": "result",
            "request_id": request_id,
            "result": "Echo: one two",
        }
    now = status(server, request_id)
    assert (now["session_id"], now["priority"], now["status"]) == ("abc", "high", "completed")


def test_a_streamed_submit_has_its_tokens_between_ack_and_result(server: Served) -> None:
    with connected(server) as socket:
        request_id = socket.submit("one two", stream=True)
        words = ["Echo: ", "one ", "two"]
        tokens = [
            {
                "type": "token",
                "request_id": request_id,
                "chunk": chunk,
                "data": word,
                "seq": chunk + 1,
            }
            for chunk, word in enumerate(words)
        ]
        result = {"type": "result", "request_id": request_id, "result": "Echo: one two"}
        assert socket.until("result") == [*tokens, result]


def test_submit_may_be_named_as_the_type(server: Served) -> None:
    with connected(server) as socket:
        assert socket.submit("one", type="submit", stream=False)
        assert socket.receive()["result"] == "Echo: one"


def test_a_ref_comes_back_in_the_ack_and_in_errors(server: Served) -> None:
    with connected(server) as socket:
        for ref in ("mine", 7, ""):
            socket.send({"prompt": "one", "ref": ref})
            assert socket.receive()["ref"] == ref
            assert "ref" not in socket.until("result")[-1]
            socket.send({"prompt": "", "ref": ref})
            error = socket.receive()
            assert (error["type"], error["code"], error["ref"]) == ("error", "INVALID_REQUEST", ref)


def test_null_is_as_good_as_absent(server: Served) -> None:
    with connected(server) as socket:
        socket.send({"type": None, "ref": None, "prompt": "one"})
        ack = socket.receive()
        assert (ack["type"], "ref" in ack) == ("ack", False)
        socket.send({"type": "ping", "ref": None})
        assert socket.until("pong")[-1] == {"type": "pong"}


def test_many_requests_share_a_socket(server: Served) -> None:
    with connected(server) as socket:
        prompts = {number: f"prompt {number} 😀" for number in range(32)}
        for number, prompt in prompts.items():
            socket.send({"prompt": prompt, "ref": number, "stream": True})
        refs: dict[str, int] = {}
        received: dict[str, list[Json]] = {}
        while sum(frames[-1]["type"] == "result" for frames in received.values()) < 32:
            frame = socket.receive()
            if frame["type"] == "ack":
                refs[frame["request_id"]] = frame["ref"]
            received.setdefault(frame["request_id"], []).append(frame)
    assert sorted(refs.values()) == sorted(prompts)
    for request_id, frames in received.items():
        text = f"Echo: {prompts[refs[request_id]]}"
        assert [frame["type"] for frame in frames] == ["ack", *["token"] * 4, "result"]
        assert tokens_of(frames) == frames[-1]["result"] == text


def test_requests_on_one_socket_run_at_the_same_time(slow: Served) -> None:
    with connected(slow) as socket:
        long = socket.submit("one two three four five six seven eight", stream=True)
        short = socket.submit("one")
        received: list[Json] = []
        while not received or received[-1]["type"] != "result":
            received.append(socket.receive())
        assert received[-1]["request_id"] == short
        assert all(frame["request_id"] == long for frame in received[:-1])
        tokens = [*received[:-1], *socket.until("result", long)]
        assert tokens_of(tokens) == "Echo: one two three four five six seven eight"


def test_what_a_socket_submits_is_a_request_like_any_other(server: Served) -> None:
    with connected(server) as socket:
        request_id = socket.submit("one two", session_id="everywhere")
        socket.until("result")
    assert get(server, f"/result/{request_id}").json()["result"] == "Echo: one two"
    listed = get(server, "/requests?session_id=everywhere").json()["data"]
    assert [one["request_id"] for one in listed] == [request_id]


def test_a_failed_request_ends_in_an_error() -> None:
    with serve(
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="some-model",
        OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
    ) as broken:
        for stream in (False, True):
            with connected(broken) as socket:
                request_id = socket.submit("one", stream=stream, ref="mine")
                assert socket.receive() == {
                    "type": "error",
                    "request_id": request_id,
                    "code": "UPSTREAM_ERROR",
                    "message": ended(broken, request_id)["error"],
                    "ref": "mine",
                }
                assert socket.lives()


def test_the_thirty_third_request_in_flight_is_refused_and_the_socket_lives_on(
    slow: Served,
) -> None:
    with connected(slow) as socket:
        ids = [socket.submit(LONG, session_id="in-flight", on_busy="parallel") for _ in range(32)]
        socket.send({"prompt": "one too many", "session_id": "in-flight", "ref": "33rd"})
        refusal = socket.receive()
        assert (refusal["type"], refusal["code"]) == ("error", "RATE_LIMITED")
        assert refusal["ref"] == "33rd"
        assert socket.lives()
        socket.send({"type": "cancel", "request_id": ids[0]})
        assert socket.receive()["request_id"] == ids[0]
        assert socket.submit("now there is room")
        for request_id in ids[1:]:
            socket.send({"type": "cancel", "request_id": request_id})
        left = set(ids[1:])
        while left:
            left.discard(socket.receive()["request_id"])
    listed = get(slow, "/requests?session_id=in-flight&limit=100").json()["data"]
    assert len(listed) == 32, "what was refused was not submitted"


# Cancel


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancel_ends_the_request_in_an_error(slow: Served, stream: bool) -> None:
    with connected(slow) as socket:
        request_id = socket.submit(LONG, stream=stream)
        started(slow, request_id)
        socket.send({"type": "cancel", "request_id": request_id})
        asked = time.monotonic()
        last = socket.until("error")[-1]
        assert time.monotonic() - asked < BUSY
        assert (last["code"], last["request_id"]) == ("CANCELLED", request_id)
        assert last["message"]
        assert socket.lives()
    now = status(slow, request_id)
    assert now["status"] == "cancelled"
    assert now["result"].startswith("Echo: ")


def test_what_another_client_submitted_can_be_cancelled(slow: Served) -> None:
    with occupied(slow) as (request_id,), connected(slow) as socket:
        socket.send({"type": "cancel", "request_id": request_id})
        assert socket.receive()["code"] == "CANCELLED"


def test_a_socket_with_all_its_requests_in_flight_may_cancel_one_of_another_client() -> None:
    with (
        serve(ORCHESTRATOR_ECHO_DELAY_S="60", ORCHESTRATOR_CONCURRENCY="64") as silent,
        connected(silent) as socket,
    ):
        own = {socket.submit(on_busy="parallel", session_id="own") for _ in range(32)}
        foreign = {submit(silent) for _ in range(8)}
        for request_id in foreign:
            until(lambda: status(silent, request_id)["started_at"])  # noqa: B023
            socket.send({"type": "cancel", "request_id": request_id, "ref": request_id})
        ends = [socket.receive() for _ in foreign]
        assert {frame["code"] for frame in ends} == {"CANCELLED"}
        assert {frame["request_id"] for frame in ends} == foreign
        assert all(frame["ref"] == frame["request_id"] for frame in ends)
        assert {status(silent, request_id)["status"] for request_id in own} == {"processing"}
        socket.send({"prompt": "one too many"})
        assert socket.receive()["code"] == "RATE_LIMITED"


def test_what_there_is_no_room_to_follow_is_not_cancelled_either() -> None:
    with serve(ORCHESTRATOR_ECHO_DELAY_S="60") as silent, connected(silent) as socket:
        followed, foreign = socket.submit(), submit(silent)
        for _ in range(70):
            socket.send({"type": "subscribe", "request_id": followed})
        socket.send({"type": "cancel", "request_id": foreign, "ref": "no room"})
        socket.send({"type": "ping"})
        *refusals, _ = socket.until("pong")
        assert (refusals[-1]["code"], refusals[-1]["ref"]) == ("RATE_LIMITED", "no room")
        assert status(silent, foreign)["cancel_requested_at"] is None


def test_cancelling_what_has_ended_answers_with_its_end(server: Served) -> None:
    request_id = submit(server, "one")
    ended(server, request_id)
    with connected(server) as socket:
        socket.send({"type": "cancel", "request_id": request_id})
        result = {"type": "result", "request_id": request_id, "result": "Echo: one"}
        assert socket.receive() == result


def test_cancelling_what_never_was_is_an_error(server: Served) -> None:
    with connected(server) as socket:
        missing = str(uuid.uuid4())
        socket.send({"type": "cancel", "request_id": missing, "ref": "gone"})
        error = socket.receive()
        assert (error["code"], error["request_id"], error["ref"]) == ("NOT_FOUND", missing, "gone")
        assert socket.lives()


# Subscribe


def test_a_subscriber_gets_what_was_and_what_comes(slow: Served) -> None:
    request_id = submit(slow, "one two three four five")
    started(slow, request_id)
    with connected(slow) as socket:
        socket.send({"type": "subscribe", "request_id": request_id})
        received = socket.until("result")
    assert tokens_of(received) == received[-1]["result"] == "Echo: one two three four five"


def test_a_subscriber_resumes_after_any_event(server: Served) -> None:
    request_id = submit(server, "one two three")
    ended(server, request_id)
    with connected(server) as socket:
        socket.send({"type": "subscribe", "request_id": request_id, "after": None})
        whole = socket.until("result")
        for after in (-1, 0, 1, 2, 3, 4, 5, 6, 10**18):
            socket.send({"type": "subscribe", "request_id": request_id, "after": after})
            left = [frame for frame in whole[:-1] if frame["seq"] > after]
            assert socket.until("result") == [*left, whole[-1]]


def test_a_cursor_ahead_of_a_live_request_means_from_the_start(slow: Served) -> None:
    request_id = submit(slow, "one two three")
    with connected(slow) as socket:
        socket.send({"type": "subscribe", "request_id": request_id, "after": 500})
        assert tokens_of(socket.until("result")) == "Echo: one two three"


def test_the_cursor_of_one_door_is_good_at_the_others(server: Served) -> None:
    request_id = submit(server, "one two three")
    ended(server, request_id)
    events = get(server, f"/events/{request_id}?limit=3").json()
    with connected(server) as socket:
        socket.send({"type": "subscribe", "request_id": request_id, "after": events["next"]})
        received = socket.until("result")
    assert [frame["data"] for frame in received[:-1]] == ["two ", "three"]


def test_an_unsubscribed_request_is_silent_and_runs_on(slow: Served) -> None:
    with connected(slow) as socket:
        request_id = socket.submit("one two three four five six seven eight", stream=True)
        socket.until("token")
        socket.send({"type": "unsubscribe", "request_id": request_id})
        assert socket.lives()
        assert ended(slow, request_id)["status"] == "completed"
        socket.send({"type": "ping"})
        assert socket.receive() == {"type": "pong"}


def test_subscribing_anew_goes_on_once(slow: Served) -> None:
    with connected(slow) as socket:
        request_id = socket.submit("one two three four five six", stream=True)
        first = socket.until("token")[-1]
        for _ in range(3):
            socket.send({"type": "subscribe", "request_id": request_id, "after": first["seq"]})
        assert socket.lives()
        socket.send({"type": "subscribe", "request_id": request_id, "after": -1})
        received: list[Json] = []
        while not received or received[-1]["type"] != "result":
            frame = socket.receive()
            received = [frame] if frame.get("seq") == 1 else [*received, frame]
        assert tokens_of(received) == received[-1]["result"]
        assert socket.lives()


def test_subscribing_again_and_again_piles_nothing_up() -> None:
    with serve(ORCHESTRATOR_ECHO_DELAY_S="60") as silent, connected(silent) as socket:
        request_id = socket.submit()
        for _ in range(300):
            socket.send({"type": "subscribe", "request_id": request_id})
        socket.send({"type": "ping"})
        *refusals, _ = socket.until("pong")
        assert {frame["code"] for frame in refusals} == {"RATE_LIMITED"}
        assert len(refusals) > 100

        def refused() -> bool:
            socket.send({"type": "subscribe", "request_id": request_id})
            socket.send({"type": "ping"})
            return len(socket.until("pong")) > 1

        until(lambda: not refused(), timeout=LOOK_S * BUSY)


# Pings and ends


def test_a_ping_is_answered(server: Served) -> None:
    with connected(server) as socket:
        socket.send({"type": "ping"})
        assert socket.receive() == {"type": "pong"}
        socket.send({"type": "ping", "ref": "r"})
        assert socket.receive() == {"type": "pong", "ref": "r"}
        socket.inner.ping(b"payload")
        frame = socket.inner.recv_frame()
        assert (frame.opcode, frame.data) == (0xA, b"payload")


def test_closing_a_socket_cancels_nothing(slow: Served) -> None:
    with connected(slow) as socket:
        ids = [socket.submit("one two three four", stream=stream) for stream in (True, False)]
        socket.inner.close()
    for request_id in ids:
        assert ended(slow, request_id)["result"] == "Echo: one two three four"


@pytest.mark.parametrize("reset", [False, True], ids=["closing", "resetting"])
@pytest.mark.parametrize("stage", ["idle", "submitted", "acknowledged", "streaming"])
def test_a_client_that_vanishes_is_noticed_and_its_request_runs_on(
    slow: Served, stage: str, reset: bool
) -> None:
    session_id = f"vanish-{uuid.uuid4()}"
    with connected(slow) as socket:
        peer = peer_of(slow, socket.inner.sock)
        assert holds(slow, peer)
        if stage != "idle":
            prompt = {"prompt": "one two three four five six", "session_id": session_id}
            socket.send(prompt | {"stream": True})
        if stage == "acknowledged":
            assert socket.receive()["type"] == "ack"
        if stage == "streaming":
            socket.until("token")
        if stage == "submitted" and reset:
            # A reset throws away what the server has not read, so it has to have.
            until(lambda: get(slow, f"/requests?session_id={session_id}").json()["data"])
        close(socket.inner.sock, reset=reset)
        until(lambda: not holds(slow, peer), timeout=5)
    if stage != "idle":
        (listed,) = until(lambda: get(slow, f"/requests?session_id={session_id}").json()["data"])
        assert ended(slow, listed["request_id"])["status"] == "completed"


def test_a_client_that_takes_nothing_is_let_go_and_slows_nobody(server: Served) -> None:
    words = " ".join(["x" * 60] * 15_000)
    request_id = submit(server, words)
    ended(server, request_id)
    with connected(server, sockopt=[SMALL_BUFFER]) as socket:
        peer = peer_of(server, socket.inner.sock)
        socket.send({"type": "subscribe", "request_id": request_id})
        with connected(server) as other:
            other.send({"type": "subscribe", "request_id": request_id})
            assert other.until("result")[-1]["result"] == f"Echo: {words}"
        until(lambda: not holds(server, peer), timeout=10)


def test_text_that_needs_care_arrives_whole(server: Served) -> None:
    prompt = '👩‍👩‍👧‍👦 one\ntwo "three" \\four \u2028\u0000 語学 مرحبا end'
    with connected(server) as socket:
        socket.submit(prompt, stream=True)
        received = socket.until("result")
    assert tokens_of(received) == received[-1]["result"] == f"Echo: {prompt}"


def test_a_frame_in_pieces_is_one_frame(server: Served) -> None:
    with connected(server) as socket:
        data = json.dumps({"prompt": "naïve 😀 text"}, ensure_ascii=False).encode()
        cuts = [0, 3, data.index("😀".encode()) + 1, data.index("😀".encode()) + 2, len(data)]
        pieces = [data[begin:end] for begin, end in zip(cuts, cuts[1:], strict=False)]
        for number, piece in enumerate(pieces):
            fin, opcode = int(number == len(pieces) - 1), 1 if number == 0 else 0
            socket.inner.send_frame(websocket.ABNF(fin, 0, 0, 0, opcode, 1, piece))
            if number == 1:
                socket.inner.ping(b"between")
                assert socket.inner.recv_frame().opcode == websocket.ABNF.OPCODE_PONG
        assert socket.receive()["type"] == "ack"
        assert socket.receive()["result"] == "Echo: naïve 😀 text"
