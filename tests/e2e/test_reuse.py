"""Answers given again and calls that are shared, as deployed and through every door."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from tests import redis_server
from tests.described import Described
from tests.e2e.client import (
    Json,
    answer_of,
    connected,
    ended,
    frames,
    get,
    post,
    status,
    stream,
    submit,
    until,
)
from tests.fakes.upstream import Upstream, start_upstream
from tests.scaled import is_ready, working
from tests.served import Served, serve

SSE = {"Accept": "text/event-stream"}
WAIT = {"Prefer": "wait=15"}
WORDS = [f"w{number} " for number in range(60)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


def written(folder: Path, upstream: Upstream) -> str:
    path = folder / "routes.toml"
    models = {
        "default": "cache_ttl_s = 600",
        "shared": "coalesce = true",
        "both": "cache_ttl_s = 600\ncoalesce = true",
        "plain": "",
    }
    path.write_text(
        f'[backends.a]\nkind = "openai"\nbase_url = "{upstream.url}"\n'
        + "".join(
            f'[models.{name}]\ntargets = ["a/big"]\n{more}\n' for name, more in models.items()
        )
    )
    return str(path)


@pytest.fixture(scope="module", params=["one process", "web and worker"])
def served(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("reuse")
    environ = {
        "ORCHESTRATOR_CONFIG": written(folder, upstream),
        "ORCHESTRATOR_CONCURRENCY": "16",
    }
    with contextlib.ExitStack() as stack:
        if request.param == "web and worker":
            redis = stack.enter_context(redis_server.running(folder))
            environ["REDIS_URL"] = redis.url
            stack.enter_context(working(folder / "worker", **environ))
        running = stack.enter_context(serve(**environ))
        until(lambda: is_ready(running))
        yield running


def ask(server: Served, prompt: str, model: str = "default", **headers: str) -> requests.Response:
    """Submit and wait for the answer."""
    answer = post(server, "/infer", {"prompt": prompt, "model": model}, headers=WAIT | headers)
    assert answer.json()["status"] == "completed", answer.text
    return answer


def caching(directives: str) -> dict[str, str]:
    return {"Cache-Control": directives}


def told(answer: requests.Response) -> str | None:
    return answer.headers.get("X-Cache")


def test_every_answer_about_a_request_says_whether_it_is_a_kept_one(served: Served) -> None:
    prompt = f"say it again {uuid4()}"
    for expected, attempts in (("miss", 1), ("hit", 0)):
        answer = ask(served, prompt)
        assert told(answer) == expected
        request_id = answer.json()["request_id"]
        assert told(get(served, f"/result/{request_id}")) == expected
        assert told(get(served, f"/status/{request_id}")) == expected
        known = status(served, request_id)
        assert (known["cached"], known["attempts"]) == (expected == "hit", attempts)
        assert (known["backend"], known["result"]) == ("a/big", prompt)
        assert known["usage"]["output_tokens"] == len(prompt.split())


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}, WAIT, SSE], ids=str)
def test_a_hit_is_told_in_whatever_form_the_submit_is_answered(
    served: Served, headers: dict[str, str]
) -> None:
    prompt = f"in every form {uuid4()}"
    ask(served, prompt)
    answer = post(served, "/infer", {"prompt": prompt}, headers=headers)
    assert told(answer) == "hit"
    known = status(served, answer.headers["Location"].rpartition("/")[2])
    assert (known["status"], known["result"]) == ("completed", prompt)
    assert known["metrics"]["queue_ms"] < 1000


def test_a_model_that_keeps_nothing_says_nothing_of_it(served: Served) -> None:
    for model in ("plain", "shared"):
        prompt = f"not kept {uuid4()}"
        for _ in range(2):
            answer = ask(served, prompt, model)
            assert told(answer) is None
            assert told(get(served, f"/status/{answer.json()['request_id']}")) is None


def test_a_hit_streams_what_was_streamed(served: Served, upstream: Upstream) -> None:
    prompt = f"fault:ok 20 {uuid4()}"
    streams = []
    for expected in ("miss", "hit"):
        answer = post(served, "/infer", {"prompt": prompt}, headers=SSE, stream=True)
        assert told(answer) == expected
        events = list(frames(answer))
        assert answer_of(events) == "".join(WORDS[:20])
        streams.append([(event.id, event.event, event.data) for event in events[1:]])
        again = stream(served, f"/stream/{events[0].data['request_id']}?after=3")
        assert [(event.id, event.event, event.data) for event in again] == streams[-1][3:]
    assert streams[0] == streams[1]
    assert upstream.seen(prompt)["calls"] == 1


def test_a_hit_is_given_over_a_socket_too(served: Served, upstream: Upstream) -> None:
    prompt = f"over a socket {uuid4()}"
    # As a browser's handshake has it, whatever the page wants: it says nothing of the submits.
    with connected(served, header=["Cache-Control: no-cache"]) as socket:
        for cached in (False, True):
            request_id = socket.submit(prompt, stream=True)
            received = socket.until("result", request_id)
            assert "".join(frame["data"] for frame in received[:-1]) == prompt
            assert received[-1]["result"] == prompt
            assert status(served, request_id)["cached"] is cached
    assert upstream.seen(prompt)["calls"] == 1


@pytest.mark.parametrize("directives", ["no-cache", "max-age=0", "No-Cache, foo", "foo,max-age=0"])
def test_a_client_may_have_the_model_asked_again(
    served: Served, upstream: Upstream, directives: str
) -> None:
    prompt = f"fresh {uuid4()}"
    ask(served, prompt)
    assert told(ask(served, prompt, **caching(directives))) == "miss"
    assert upstream.seen(prompt)["calls"] == 2
    unasked = f"fresh and kept {uuid4()}"
    assert told(ask(served, unasked, **caching(directives))) == "miss"
    assert told(ask(served, unasked)) == "hit"


@pytest.mark.parametrize("directives", ["no-store", "no-cache, no-store"])
def test_a_client_may_have_nothing_kept(
    served: Served, upstream: Upstream, directives: str
) -> None:
    prompt = f"secret {uuid4()}"
    assert told(ask(served, prompt, **caching(directives))) == "miss"
    assert told(ask(served, prompt)) == "miss"
    assert told(ask(served, prompt, **caching(directives))) == "miss"
    assert upstream.seen(prompt)["calls"] == 3


@pytest.mark.parametrize("directives", ["", "max-age=60", "private", "no-cached", ",,=", "\xff"])
def test_other_directives_count_for_nothing(served: Served, directives: str) -> None:
    prompt = f"as ever {uuid4()}"
    ask(served, prompt)
    assert told(ask(served, prompt, **caching(directives))) == "hit"


def test_a_turn_from_the_cache_is_a_turn(served: Served) -> None:
    prompt = f"remember me {uuid4()}"
    ask(served, prompt)
    session_id = str(uuid4())
    answer = post(served, "/infer", {"prompt": prompt, "session_id": session_id}, headers=WAIT)
    assert told(answer) == "hit"
    said = get(served, f"/sessions/{session_id}").json()["messages"]
    assert [(turn["role"], turn["content"]) for turn in said] == [
        ("user", prompt),
        ("assistant", prompt),
    ]


def test_an_idempotent_replay_of_a_hit_says_so(served: Served) -> None:
    prompt = f"twice {uuid4()}"
    ask(served, prompt)
    key = {"Idempotency-Key": str(uuid4())}
    answers = [post(served, "/infer", {"prompt": prompt}, headers=key) for _ in range(2)]
    assert [told(answer) for answer in answers] == ["hit", "hit"]
    assert answers[0].json()["request_id"] == answers[1].json()["request_id"]
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_a_hit_waits_for_nothing_while_every_slot_is_taken(
    served: Served, upstream: Upstream
) -> None:
    prompt = f"at once {uuid4()}"
    ask(served, prompt)
    slow = f"fault:silent {uuid4()}"
    ids = [submit(served, slow, model="plain") for _ in range(20)]
    until(lambda: upstream.seen(slow)["open"] == 16)
    began = time.monotonic()
    for _ in range(20):
        answer = post(served, "/infer", {"prompt": prompt})
        assert told(answer) == "hit"
        assert status(served, answer.json()["request_id"])["status"] == "completed"
    assert time.monotonic() - began < 5
    for request_id in ids:
        post(served, f"/cancel/{request_id}")
    until(lambda: upstream.seen(slow)["open"] == 0)


def test_what_is_said_of_hits_is_described(served: Served) -> None:
    described = Described(get(served, "/openapi.json").json())
    prompt = f"as described {uuid4()}"
    for headers in (WAIT, {}, {"Prefer": "respond-async"}, SSE):
        answer = post(served, "/infer", {"prompt": prompt}, headers=headers)
        described.check("submit", answer)
        request_id = answer.headers["Location"].rpartition("/")[2]
        for name, path in (("getStatus", "status"), ("getResult", "result")):
            described.check(name, get(served, f"/{path}/{request_id}"))
    under_way = submit(served, f"fault:silent {uuid4()}")
    described.check("getResult", get(served, f"/result/{under_way}"))
    post(served, f"/cancel/{under_way}?wait=10")
    described.check("getResult", get(served, f"/result/{under_way}"))


# Calls that are shared


def by_sse(server: Served, prompt: str) -> str:
    body = {"prompt": prompt, "model": "shared"}
    return answer_of(list(frames(post(server, "/infer", body, headers=SSE, stream=True))))


def by_polling(server: Served, prompt: str) -> str:
    return str(ended(server, submit(server, prompt, model="shared"))["result"])


def by_socket(server: Served, prompt: str) -> str:
    with connected(server) as socket:
        received = socket.until("result", socket.submit(prompt, model="shared", stream=True))
    assert [frame["chunk"] for frame in received[:-1]] == list(range(len(received) - 1))
    return "".join(frame["data"] for frame in received[:-1])


def test_readers_of_every_kind_share_one_call(served: Served, upstream: Upstream) -> None:
    prompt = f"fault:ok 20 0.1 {uuid4()}"
    heard: list[str] = []
    readers = [
        threading.Thread(target=lambda read=read: heard.append(read(served, prompt)))
        for read in (by_sse, by_polling, by_socket) * 3
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert heard == ["".join(WORDS[:20])] * 9
    assert upstream.seen(prompt)["calls"] == 1


def running(server: Served, upstream: Upstream, prompt: str, count: int) -> list[str]:
    """Submit the same prompt, and wait until all of them have heard something."""
    ids = [submit(server, prompt, model="shared") for _ in range(count)]
    for request_id in ids:
        until(lambda request_id=request_id: status(server, request_id)["first_token_at"])
    assert upstream.seen(prompt)["calls"] == upstream.seen(prompt)["open"] == 1
    return ids


def cancelled(server: Served, request_id: str) -> Json:
    answer = post(server, f"/cancel/{request_id}?wait=10")
    assert answer.json()["status"] == "cancelled"
    return dict(answer.json())


@pytest.mark.parametrize("stays", [0, 2])
def test_whoever_is_cancelled_leaves_alone(served: Served, upstream: Upstream, stays: int) -> None:
    prompt = f"fault:ok 20 0.1 {uuid4()}"
    ids = running(served, upstream, prompt, 3)
    kept = ids.pop(stays)
    for request_id in ids:
        assert cancelled(served, request_id)["result"]
    assert ended(served, kept)["result"] == "".join(WORDS[:20])
    seen = upstream.seen(prompt)
    assert (seen["calls"], seen["client_closed"]) == (1, 0)


def test_the_last_one_to_be_cancelled_closes_the_call(served: Served, upstream: Upstream) -> None:
    prompt = f"fault:ok 60 0.1 {uuid4()}"
    ids = running(served, upstream, prompt, 3)
    for request_id in ids[:-1]:
        cancelled(served, request_id)
    assert upstream.seen(prompt)["open"] == 1
    began = time.monotonic()
    cancelled(served, ids[-1])
    until(lambda: upstream.seen(prompt)["client_closed"] == 1)
    assert time.monotonic() - began < 1.0
    assert upstream.seen(prompt)["calls"] == 1


def test_a_reader_that_goes_away_changes_nothing(served: Served, upstream: Upstream) -> None:
    prompt = f"fault:ok 20 0.1 {uuid4()}"
    body = {"prompt": prompt, "model": "shared"}
    with post(served, "/infer", body, headers=SSE, stream=True) as first:
        next(frames(first))
        request_id = first.headers["Location"].rpartition("/")[2]
        second = submit(served, prompt, model="shared")
    for each in (request_id, second):
        assert ended(served, each)["result"] == "".join(WORDS[:20])
    assert upstream.seen(prompt)["calls"] == 1


def test_an_answer_that_was_shared_is_kept(served: Served, upstream: Upstream) -> None:
    prompt = f"fault:ok 10 0.05 {uuid4()}"
    ids = [submit(served, prompt, model="both") for _ in range(5)]
    assert len({ended(served, request_id)["result"] for request_id in ids}) == 1
    assert told(ask(served, prompt, "both")) == "hit"
    assert upstream.seen(prompt)["calls"] == 1


def test_a_stop_of_the_server_ends_shared_calls_in_time(upstream: Upstream, tmp_path: Path) -> None:
    prompt = f"fault:ok 600 0.1 {uuid4()}"
    path = written(tmp_path, upstream)
    with serve(ORCHESTRATOR_CONFIG=path, ORCHESTRATOR_GRACEFUL_TIMEOUT_S="6") as server:
        ids = running(server, upstream, prompt, 3)
        with connected(server) as socket:
            for request_id in ids:
                socket.send({"type": "subscribe", "request_id": request_id, "ref": request_id})
            stopping = threading.Thread(target=server.stop)
            began = time.monotonic()
            stopping.start()
            told_of = {socket.until("error")[-1]["code"] for _ in ids}
            stopping.join()
    assert told_of == {"SHUTDOWN"}
    assert time.monotonic() - began < 6 + 2
    until(lambda: upstream.seen(prompt)["client_closed"] == 1)
