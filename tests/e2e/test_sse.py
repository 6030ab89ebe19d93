"""The stream of a request as server-sent events: what it says, and how it is resumed."""

import contextlib
import random
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.e2e.client import (
    LONG,
    Frame,
    answer_of,
    call,
    close,
    dialled,
    ended,
    frames,
    get,
    holds,
    lines,
    occupied,
    open_stream,
    peer_of,
    post,
    refused,
    request_head,
    status,
    stream,
    submit,
    until,
)
from tests.served import BUSY, Served, free_port, serve


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """Twenty words a second."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05") as served:
        yield served


@pytest.fixture(scope="module")
def single() -> Iterator[Served]:
    """One request at a time, twenty words a second."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05", ORCHESTRATOR_CONCURRENCY="1") as served:
        yield served


@pytest.fixture(scope="module")
def silent() -> Iterator[Served]:
    """A server whose model says nothing for a minute."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="60") as served:
        yield served


def test_a_stream_has_exactly_the_events_of_the_specification(server: Served) -> None:
    request_id = submit(server, "one two")
    assert stream(server, f"/stream/{request_id}") == [
        Frame(0, "start", {"request_id": request_id}),
        Frame(1, "token", {"chunk": 0, "data": "Echo: "}),
        Frame(2, "token", {"chunk": 1, "data": "one "}),
        Frame(3, "token", {"chunk": 2, "data": "two"}),
        Frame(
            4,
            "complete",
            {
                "status": "done",
                "finish_reason": "stop",
                "usage": {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5},
            },
        ),
    ]


def test_a_stream_is_these_very_bytes(server: Served) -> None:
    request_id = submit(server, "one")
    ended(server, request_id)
    assert get(server, f"/stream/{request_id}").text == (
        "retry: 2000\n\n"
        f'id: 0\nevent: start\ndata: {{"request_id":"{request_id}"}}\n\n'
        'id: 1\nevent: token\ndata: {"chunk":0,"data":"Echo: "}\n\n'
        'id: 2\nevent: token\ndata: {"chunk":1,"data":"one"}\n\n'
        'id: 3\nevent: complete\ndata: {"status":"done","finish_reason":"stop",'
        '"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}\n\n'
    )


def test_a_stream_has_the_headers_that_keep_proxies_off_it(server: Served) -> None:
    request_id = submit(server)
    with open_stream(
        server, f"/stream/{request_id}", headers={"Accept-Encoding": "gzip, br"}
    ) as answer:
        assert answer.headers["Content-Type"].partition(";")[0] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache, no-transform"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in answer.headers
        assert "Content-Length" not in answer.headers


def test_tokens_come_while_the_request_runs(slow: Served) -> None:
    request_id = submit(slow, "one two three four five")
    with open_stream(slow, f"/stream/{request_id}") as answer:
        events = frames(answer)
        while next(events).event != "token":
            pass
        assert status(slow, request_id)["status"] == "processing"
        *_, last = events
    assert last.event == "complete"
    assert status(slow, request_id)["status"] == "completed"


def test_every_reader_sees_the_same(slow: Served) -> None:
    request_id = submit(slow, "one two three four five six")
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(stream, slow, f"/stream/{request_id}") for _ in range(8)]
        seen = [reader.result() for reader in readers]
    assert all(events == seen[0] for events in seen)
    assert answer_of(seen[0]) == "Echo: one two three four five six"


def test_a_stream_of_what_waits_begins_when_it_runs(single: Served) -> None:
    with occupied(single) as (running,), ThreadPoolExecutor(1) as pool:
        request_id = submit(single, "one")
        reader = pool.submit(stream, single, f"/stream/{request_id}")
        assert status(single, request_id)["status"] == "pending"
        post(single, f"/cancel/{running}")
        assert answer_of(reader.result()) == "Echo: one"


def test_a_failed_request_ends_its_stream_with_the_error() -> None:
    with serve(
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="some-model",
        OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1",
    ) as broken:
        request_id = submit(broken)
        *_, last = stream(broken, f"/stream/{request_id}")
        now = ended(broken, request_id)
    assert last.event == "complete"
    assert last.data == {
        "status": "failed",
        "error": {"code": "UPSTREAM_ERROR", "message": now["error"]},
    }


def test_text_that_needs_care_arrives_whole(server: Served) -> None:
    prompt = (
        '👩‍👩‍👧‍👦 one\ntwo\r\nthree\rfour "five" \\six data: seven\n\nevent: x é\u2028\u0000 end'
    )
    assert answer_of(stream(server, f"/stream/{submit(server, prompt)}")) == f"Echo: {prompt}"


def test_a_long_answer_arrives_whole(server: Served) -> None:
    words = [f"{number}😀" for number in range(20_000)]
    events = stream(server, f"/stream/{submit(server, ' '.join(words))}")
    assert [frame.id for frame in events] == list(range(len(words) + 3))
    assert answer_of(events) == f"Echo: {' '.join(words)}"


# Resuming


def test_a_stream_is_resumed_after_any_event(server: Served) -> None:
    request_id = submit(server, "one two three")
    whole = stream(server, f"/stream/{request_id}")
    for frame in whole[:-1]:
        by_header = stream(
            server, f"/stream/{request_id}", headers={"Last-Event-ID": str(frame.id)}
        )
        by_query = stream(server, f"/stream/{request_id}?after={frame.id}")
        assert by_header == by_query == whole[frame.id + 1 :]


def test_the_header_wins_over_the_query(server: Served) -> None:
    request_id = submit(server, "one two three")
    whole = stream(server, f"/stream/{request_id}")
    resumed = stream(server, f"/stream/{request_id}?after=0", headers={"Last-Event-ID": "2"})
    assert resumed == whole[3:]


@pytest.mark.parametrize(
    "cursor", ["nonsense", "-1", "-5", "1.5", "1e3", "0x1", "1 2", "²", "१", "9" * 400, "1;2"]
)
def test_a_cursor_that_makes_no_sense_means_from_the_start(server: Served, cursor: str) -> None:
    request_id = submit(server)
    whole = stream(server, f"/stream/{request_id}")
    headers = {"Last-Event-ID": cursor.encode()}
    assert stream(server, f"/stream/{request_id}", headers=headers) == whole
    assert stream(server, f"/stream/{request_id}", params={"after": cursor}) == whole


@pytest.mark.parametrize("beyond", [0, 1, 1_000_000])
def test_past_the_end_there_is_no_content(server: Served, beyond: int) -> None:
    request_id = submit(server)
    last = stream(server, f"/stream/{request_id}")[-1].id
    answer = get(server, f"/stream/{request_id}", headers={"Last-Event-ID": str(last + beyond)})
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers


def test_a_cursor_ahead_of_a_live_stream_means_from_the_start(slow: Served) -> None:
    request_id = submit(slow, "one two three")
    assert answer_of(stream(slow, f"/stream/{request_id}?after=500")) == "Echo: one two three"


def test_readers_that_leave_and_come_back_miss_nothing(slow: Served) -> None:
    request_id = submit(slow, " ".join("abcdefghijklmnopqrstuvwxyz"))
    chance = random.Random(7)

    def read(patience: int) -> list[Frame]:
        seen: list[Frame] = []
        while not seen or seen[-1].event != "complete":
            headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
            with open_stream(slow, f"/stream/{request_id}", headers=headers) as answer:
                for frame in frames(answer):
                    seen.append(frame)
                    if len(seen) % patience == 0:
                        break
        return seen

    with ThreadPoolExecutor(6) as pool:
        patience = [chance.randint(1, 9) for _ in range(6)]
        seen = list(pool.map(read, patience))
    whole = stream(slow, f"/stream/{request_id}")
    assert all(events == whole for events in seen)


# Liveness


def test_a_silent_stream_sends_a_ping_every_five_seconds(silent: Served) -> None:
    request_id = submit(silent)
    with open_stream(silent, f"/stream/{request_id}") as answer:
        began = time.monotonic()
        for line in lines(answer):
            if line == ": ping":
                break
        assert 4 < time.monotonic() - began < 5 * BUSY
        assert status(silent, request_id)["status"] == "processing"


def test_a_reader_that_leaves_is_noticed_within_five_seconds(silent: Served) -> None:
    request_id = submit(silent)
    with dialled(silent) as closing, dialled(silent) as resetting:
        for sock in (closing, resetting):
            sock.sendall(request_head("GET", f"/api/v1/stream/{request_id}"))
            received = b""
            while b"event: start" not in received:
                received += sock.recv(4096)
        peers = [peer_of(silent, closing), peer_of(silent, resetting)]
        assert all(holds(silent, peer) for peer in peers)
        close(closing, reset=False)
        close(resetting, reset=True)
    until(lambda: not any(holds(silent, peer) for peer in peers), timeout=5)
    assert status(silent, request_id)["status"] == "processing"


def test_a_reader_that_does_not_read_slows_nobody(server: Served) -> None:
    words = " ".join(["x" * 60] * 15_000)
    request_id = submit(server, words)
    with dialled(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(request_head("GET", f"/api/v1/stream/{request_id}"))
        assert ended(server, request_id)["status"] == "completed"
        began = time.monotonic()
        assert answer_of(stream(server, f"/stream/{request_id}")) == f"Echo: {words}"
        assert time.monotonic() - began < 5 * BUSY


def test_a_reader_that_leaves_cancels_nothing(slow: Served) -> None:
    request_id = submit(slow, "one two three four five six")
    with open_stream(slow, f"/stream/{request_id}") as answer:
        next(frames(answer))
    assert ended(slow, request_id)["result"] == "Echo: one two three four five six"


def test_leaving_the_stream_that_answers_a_submit_cancels_nothing(slow: Served) -> None:
    with requests.post(
        f"{slow.api}/infer",
        json={"prompt": "one two three four"},
        headers={"Accept": "text/event-stream"},
        stream=True,
        timeout=10,
    ) as answer:
        request_id = next(frames(answer)).data["request_id"]
    assert ended(slow, request_id)["result"] == "Echo: one two three four"


# Refusals come before any stream


def test_an_unknown_request_has_no_stream(server: Served) -> None:
    answer = get(server, f"/stream/{uuid.uuid4()}", headers={"Accept": "text/event-stream"})
    refused(answer, 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "*/*", "text/*", "text/event-stream, */*;q=0.1", ""]
)
def test_a_stream_is_for_all_who_accept_it(server: Served, accept: str) -> None:
    request_id = submit(server)
    assert stream(server, f"/stream/{request_id}", headers={"Accept": accept})


def test_who_does_not_accept_a_stream_gets_none(server: Served) -> None:
    answer = get(server, f"/stream/{submit(server)}", headers={"Accept": "application/json"})
    refused(answer, 406, "NOT_ACCEPTABLE")


def test_streams_past_the_limit_are_refused_and_everything_else_goes_on() -> None:
    with serve(ORCHESTRATOR_MAX_CONNECTIONS="16", ORCHESTRATOR_ECHO_DELAY_S="60") as small:
        request_id = submit(small)
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                stack.enter_context(open_stream(small, f"/stream/{request_id}"))
            refusal = get(small, f"/stream/{request_id}")
            refused(refusal, 503, "PIPELINE_UNAVAILABLE")
            assert int(refusal.headers["Retry-After"]) >= 1
            inline = post(
                small,
                "/infer",
                {"prompt": "x", "session_id": "refused"},
                headers={"Accept": "text/event-stream"},
            )
            refused(inline, 503, "PIPELINE_UNAVAILABLE")
            assert get(small, "/requests?session_id=refused").json()["data"] == []
            began = time.monotonic()
            waited = get(small, f"/result/{request_id}?wait=30")
            assert waited.status_code == 202, "without room for a long poll it is a short one"
            assert time.monotonic() - began < 5
        until(lambda: call(small, "HEAD", f"/stream/{request_id}").status_code == 200)


def test_a_cancelled_stream_ends_with_what_there_was(slow: Served) -> None:
    request_id = submit(slow, LONG)
    with open_stream(slow, f"/stream/{request_id}") as answer:
        seen = []
        for frame in frames(answer):
            seen.append(frame)
            if len(seen) == 3:
                post(slow, f"/cancel/{request_id}")
    assert (seen[-1].event, seen[-1].data) == ("complete", {"status": "cancelled"})
    assert answer_of(seen) == ended(slow, request_id)["result"]
