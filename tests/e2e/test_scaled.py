"""Several web processes and workers over one Redis are one service, whichever is asked."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import redis_server
from tests.e2e.client import (
    LONG,
    Frame,
    answer_of,
    connected,
    ended,
    frames,
    get,
    occupied,
    open_stream,
    post,
    refused,
    started,
    status,
    stream,
    submit,
    until,
)
from tests.processes import children
from tests.redis_server import RedisServer
from tests.scaled import DELAY_S, WORDS, Worker, is_ready, scaled, working
from tests.served import BUSY, Served, serve

Serving = Callable[..., Served]


@dataclass(frozen=True)
class Cluster:
    """Two web processes, each at a port of its own."""

    a: Served
    b: Served


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two web processes and a worker that nobody harms."""
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server.running(folder))
        environ = {"REDIS_URL": redis.url, "ORCHESTRATOR_ECHO_DELAY_S": str(DELAY_S)}
        stack.enter_context(working(folder / "worker", **environ))
        a, b = (stack.enter_context(serve(**environ)) for _ in range(2))
        until(lambda: is_ready(a) and is_ready(b))
        yield Cluster(a, b)


# One service


def test_a_request_is_the_same_at_every_web_process(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    request_id = submit(a, WORDS, metadata={"mine": 1})
    assert started(b, request_id)["metadata"] == {"mine": 1}
    assert answer_of(stream(b, f"/stream/{request_id}")) == f"Echo: {WORDS}"
    assert ended(a, request_id)["result"] == f"Echo: {WORDS}"
    assert get(b, f"/result/{request_id}").json()["result"] == f"Echo: {WORDS}"
    page = get(b, f"/events/{request_id}?after=-1").json()
    assert page["done"]
    assert stream(a, f"/stream/{request_id}") == stream(b, f"/stream/{request_id}")
    listed = get(b, "/requests?limit=1").json()["data"]
    assert [entry["request_id"] for entry in listed] == [request_id]


def test_a_long_poll_at_another_process_answers_the_moment_it_ends(cluster: Cluster) -> None:
    began = time.monotonic()
    request_id = submit(cluster.a, WORDS)
    answer = get(cluster.b, f"/result/{request_id}?wait=30")
    took = time.monotonic() - began
    assert answer.status_code == 200
    metrics = status(cluster.a, request_id)["metrics"]
    assert took - (metrics["queue_ms"] + metrics["run_ms"]) / 1000 < 0.25 * BUSY


def test_a_stream_that_breaks_off_goes_on_at_another_process(cluster: Cluster) -> None:
    request_id = submit(cluster.a, WORDS)
    seen: list[Frame] = []
    servers = [cluster.a, cluster.b]
    while not seen or seen[-1].event != "complete":
        servers.reverse()
        last = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
        with open_stream(servers[0], f"/stream/{request_id}", headers=last) as answer:
            for frame, _ in zip(frames(answer), range(7), strict=False):
                seen.append(frame)
    assert [frame.id for frame in seen] == list(range(len(seen)))
    assert answer_of(seen) == f"Echo: {WORDS}"


def test_a_socket_at_another_process_takes_up_where_the_first_was(cluster: Cluster) -> None:
    with connected(cluster.a) as first:
        request_id = first.submit(WORDS, stream=True)
        until_here = [first.until("token")[-1] for _ in range(5)]
    with connected(cluster.b) as second:
        second.send({"type": "subscribe", "request_id": request_id, "after": until_here[-1]["seq"]})
        *rest, result = second.until("result")
    tokens = until_here + rest
    assert "".join(token["data"] for token in tokens) == result["result"] == f"Echo: {WORDS}"
    assert [token["chunk"] for token in tokens] == list(range(len(tokens)))


def test_a_request_is_cancelled_from_another_process(cluster: Cluster) -> None:
    request_id = submit(cluster.a, LONG)
    started(cluster.a, request_id)
    began = time.monotonic()
    answer = post(cluster.b, f"/cancel/{request_id}?wait=10")
    assert time.monotonic() - began < BUSY
    assert answer.json()["status"] == "cancelled"
    assert stream(cluster.a, f"/stream/{request_id}")[-1].data["status"] == "cancelled"


def test_one_idempotency_key_is_one_request_wherever_it_comes(cluster: Cluster) -> None:
    def once(place: int) -> str:
        server = (cluster.a, cluster.b)[place % 2]
        answer = post(
            server, "/infer", {"prompt": "once"}, headers={"Idempotency-Key": f"once{os.getpid()}"}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(once, range(16)))) == 1


def test_a_session_keeps_its_order_over_processes(cluster: Cluster) -> None:
    session_id = f"order-{os.getpid()}-{time.time_ns()}"
    servers = [cluster.a, cluster.b]
    ids = [submit(servers[place % 2], f"turn {place}", session_id=session_id) for place in range(8)]
    records = [ended(servers[(place + 1) % 2], request_id) for place, request_id in enumerate(ids)]
    for earlier, later in zip(records, records[1:], strict=False):
        assert earlier["completed_at"] <= later["started_at"]
    messages = get(cluster.b, f"/sessions/{session_id}").json()["messages"]
    said = [message["content"] for message in messages]
    assert said[::2] == [f"turn {number}" for number in range(8)]
    assert said[1::2] == [
        f"Echo after {2 * number} messages: turn {number}" if number else "Echo: turn 0"
        for number in range(8)
    ]


def test_an_idle_worker_picks_a_request_up_at_once(cluster: Cluster) -> None:
    waits = []
    for _ in range(9):
        waits.append(ended(cluster.a, submit(cluster.b, "quick"))["metrics"]["queue_ms"])
    # Dramatiq alone looks every half second.
    assert statistics.median(waits) < 25 * BUSY, waits


def test_two_web_processes_serve_behind_one_port(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    hired()
    server = serving(**scaled(redis, WEB_CONCURRENCY="2"))
    until(lambda: is_ready(server))
    assert len(children(server.process.pid)) == 2
    ids = [submit(server, f"number {number}") for number in range(10)]
    for number, request_id in enumerate(ids):
        assert ended(server, request_id)["result"] == f"Echo: number {number}"
    assert server.stop() == 0


def test_the_queue_limit_is_that_of_all_processes(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    few = {"ORCHESTRATOR_CONCURRENCY": "1", "ORCHESTRATOR_QUEUE_LIMIT": "3"}
    hired(**few)
    a, b = (serving(**scaled(redis, **few)) for _ in range(2))
    until(lambda: is_ready(a) and is_ready(b))
    with occupied(a):
        waiting = [submit(server) for server in (a, b, a)]
        for server in (a, b):
            answer = post(server, "/infer", {"prompt": "one too many"})
            error = refused(answer, 503, "PIPELINE_UNAVAILABLE")
            assert error["message"].startswith("3 requests are waiting")
        assert post(b, f"/cancel/{waiting[0]}").json()["status"] == "cancelled"
        submit(b)


def test_what_one_process_keeps_another_gives_again(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker], tmp_path: Path
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[backends.echo]\nkind = "echo"\n[models.default]\ntargets = ["echo"]\ncache_ttl_s = 60\n'
    )
    kept = {"ORCHESTRATOR_CONFIG": str(routes)}
    hired(**kept)
    a, b = (serving(**scaled(redis, **kept)) for _ in range(2))
    until(lambda: is_ready(a) and is_ready(b))
    told = []
    for server in (a, b):
        answer = post(server, "/infer", {"prompt": "again"}, headers={"Prefer": "wait=20"})
        told.append((answer.json()["result"], answer.headers["X-Cache"]))
    assert told == [("Echo: again", "miss"), ("Echo: again", "hit")]


# Order


def test_high_requests_go_before_a_backlog_of_low_ones(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    one = {"ORCHESTRATOR_CONCURRENCY": "1"}
    hired(**one)
    server = serving(**scaled(redis, **one))
    until(lambda: is_ready(server))
    with occupied(server):
        low = [submit(server, "low", priority="low") for _ in range(20)]
        high = submit(server, "high", priority="high")
        assert status(server, high)["queue_position"] == 0
        assert status(server, low[-1])["queue_position"] == 20
    began = ended(server, high)["started_at"]
    assert all(began < ended(server, request_id)["started_at"] for request_id in low)


def test_a_busy_worker_leaves_requests_to_an_idle_one(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    few = {"ORCHESTRATOR_CONCURRENCY": "2"}
    hired(**few)
    server = serving(**scaled(redis, **few))
    until(lambda: is_ready(server))
    busy = [submit(server, LONG) for _ in range(2)]
    for request_id in busy:
        started(server, request_id)
    waiting = [submit(server, "short") for _ in range(4)]
    hired(**few)
    for request_id in waiting:
        assert ended(server, request_id)["result"] == "Echo: short"
    for request_id in busy:
        assert status(server, request_id)["status"] == "processing"
