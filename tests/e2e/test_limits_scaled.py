"""Over Redis one limit holds for all processes; without it, each has its share."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from orchestrator.stores.redis.limits import LEASE_S
from orchestrator.stores.redis.names import PROCESSES
from tests import redis_server
from tests.e2e.callers import Caller, Register, keyed, left, limited, somebody
from tests.e2e.client import (
    END,
    LONG,
    connected,
    get,
    open_stream,
    post,
    until,
)
from tests.redis_server import RedisServer
from tests.scaled import DELAY_S, is_ready, working
from tests.served import Served, serve

MOST, STREAMS, REQUESTS, TOKENS = 20, 2, 3, 20_000


@dataclass(frozen=True)
class Cluster:
    """Two web processes, each at a port of its own, a worker, and the Redis between them."""

    a: Served
    b: Served
    redis: RedisServer

    @property
    def both(self) -> tuple[Served, Served]:
        return self.a, self.b


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    return Register(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def generous(register: Register) -> str:
    """A key whose own rate no test comes near."""
    return register.key("100000/hour")


@pytest.fixture(scope="module")
def cluster(
    register: Register, generous: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server.running(folder))
        environ = {
            **register.environ,
            "REDIS_URL": redis.url,
            "ORCHESTRATOR_ECHO_DELAY_S": str(DELAY_S),
            "ORCHESTRATOR_RATE_LIMIT": f"{MOST}/hour",
            "ORCHESTRATOR_STREAMS_PER_CALLER": str(STREAMS),
            "ORCHESTRATOR_REQUESTS_PER_CALLER": str(REQUESTS),
            "ORCHESTRATOR_TOKENS_A_DAY": str(TOKENS),
        }
        stack.enter_context(working(folder / "worker", **environ))
        a, b = (stack.enter_context(serve(**environ)) for _ in range(2))
        until(lambda: is_ready(a) and is_ready(b))
        yield Cluster(a, b, redis)


def taken(servers: tuple[Served, ...], caller: Caller, count: int = 4 * MOST) -> int:
    """Call from many sides at once; return how many calls were taken, the rest being refused."""

    def one(place: int) -> bool:
        answer = get(servers[place % len(servers)], "/models", headers=caller)
        if answer.status_code != 200:
            limited(answer)
        return answer.status_code == 200

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(one, range(count)))


def ask(server: Served, caller: Caller, prompt: str = LONG, **fields: Any) -> requests.Response:
    return post(server, "/infer", {"prompt": prompt, "max_tokens": 10, **fields}, headers=caller)


def free(server: Served, caller: Caller, request_id: str) -> bool:
    """Whether there is a place for one more stream."""
    with get(server, f"/stream/{request_id}", headers=caller, stream=True) as answer:
        assert answer.status_code in (200, 429), answer.text
        return answer.status_code == 200


@contextlib.contextmanager
def running(server: Served, caller: Caller) -> Iterator[str]:
    """A request that goes on while inside."""
    request_id = str(ask(server, caller).json()["request_id"])
    try:
        yield request_id
    finally:
        post(server, f"/cancel/{request_id}", headers=caller)
        path = f"/status/{request_id}"
        until(lambda: get(server, path, headers=caller).json()["status"] in END)


def test_two_processes_have_one_rate_to_the_call(cluster: Cluster) -> None:
    caller = somebody()
    assert taken(cluster.both, caller) == MOST
    for server in cluster.both:
        answer = get(server, "/models", headers=caller)
        limited(answer)
        assert left(answer)[:2] == (MOST, 0)
    other = somebody()
    remaining = [
        left(get(cluster.both[place % 2], "/models", headers=other))[1] for place in (0, 1)
    ]
    assert remaining == [MOST - 1, MOST - 2]


def test_streams_at_once_are_those_of_all_processes(cluster: Cluster) -> None:
    caller = somebody()
    with running(cluster.a, caller) as request_id, connected(cluster.b, header=caller):
        with open_stream(cluster.a, f"/stream/{request_id}", headers=caller):
            for server in cluster.both:
                limited(get(server, f"/stream/{request_id}", headers=caller))
        until(lambda: free(cluster.b, caller, request_id), 10)


def test_requests_and_tokens_are_those_of_all_processes(cluster: Cluster) -> None:
    caller = somebody()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda place: ask(cluster.both[place % 2], caller), range(8)))
    ids = [answer.json()["request_id"] for answer in answers if answer.status_code == 200]
    assert len(ids) == REQUESTS
    for answer in answers:
        if answer.status_code != 200:
            assert "requests that wait or run" in limited(answer)[0]
    for request_id in ids:
        post(cluster.b, f"/cancel/{request_id}", headers=caller)
    other = somebody()
    half = {"prompt": "one two", "max_tokens": TOKENS // 2 - 20}
    first = ask(cluster.a, other, **half).json()["request_id"]
    assert ask(cluster.b, other, **half).status_code == 200
    refusal = ask(cluster.a, other, **half)
    assert f"You may use {TOKENS} tokens a day" in limited(refusal)[0]
    get(cluster.b, f"/status/{first}?wait=15", headers=other)
    until(lambda: ask(cluster.b, other, **half).status_code == 200, 10)


def test_while_redis_is_away_each_process_lets_its_share_through(
    cluster: Cluster, generous: str
) -> None:
    caller, rich, refused_here = somebody(), keyed(generous), []
    know_each_other(cluster.redis)
    assert taken(cluster.both, caller, MOST // 2) == MOST // 2
    with running(cluster.a, rich) as request_id:
        cluster.redis.freeze()
        try:
            for server in cluster.both:
                began = time.monotonic()
                fresh = somebody()
                refused_here.append(fresh)
                answers = [get(server, "/models", headers=fresh) for _ in range(MOST)]
                codes = [answer.status_code for answer in answers]
                assert codes == [200] * (MOST // 2) + [429] * (MOST // 2)
                assert left(answers[0])[:2] == (MOST // 2, MOST // 2 - 1)
                for path in (f"/status/{request_id}", f"/result/{request_id}"):
                    answer = get(server, path, headers=rich)
                    assert answer.status_code == 503, answer.text
                    assert int(answer.headers["Retry-After"]) >= 1
                answer = get(server, f"/stream/{request_id}", headers=rich)
                assert answer.status_code == 503, answer.text
                assert ask(server, rich).status_code == 503
                for _ in range(STREAMS):
                    # One that is refused for want of Redis leaves no place taken here.
                    answer = get(server, f"/stream/{request_id}", headers=rich)
                    assert answer.status_code == 503, answer.text
                assert get(server, "/models", headers={"X-API-Key": "x"}).status_code == 401
                assert time.monotonic() - began < 20
        finally:
            cluster.redis.thaw()
        until(lambda: is_ready(cluster.a) and is_ready(cluster.b))
        until(lambda: limit_of(cluster.a) == limit_of(cluster.b) == MOST, 10)
        # What was counted before is counted still.
        assert taken(cluster.both, caller) == MOST // 2
        assert taken(cluster.both, somebody()) == MOST
        # Who had used up a share there has what is left of the whole. Redis has counted some calls
        # since, which had reached it and were given up.
        for server, fresh in zip(cluster.both, refused_here, strict=True):
            assert taken((server,), fresh) > MOST // 2


def limit_of(server: Served) -> int:
    return left(get(server, "/models", headers=somebody()))[0]


def know_each_other(redis: RedisServer) -> None:
    """Wait until both web processes have looked how many there are since both are there."""

    def seen() -> dict[bytes, float]:
        return dict(redis.client.zrange(PROCESSES, 0, -1, withscores=True))

    first = until(lambda: len(found := seen()) == 2 and found)
    until(lambda: all(seen().get(name, 0) > score for name, score in first.items()))


def test_the_streams_of_a_process_that_died_are_free_after_a_while(
    cluster: Cluster, generous: str
) -> None:
    caller = keyed(generous)
    with running(cluster.b, caller) as request_id, contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            stack.enter_context(open_stream(cluster.a, f"/stream/{request_id}", headers=caller))
        assert not free(cluster.b, caller, request_id)
        os.kill(cluster.a.worker_pid, signal.SIGKILL)
        began = time.monotonic()
        until(lambda: free(cluster.b, caller, request_id), LEASE_S + 10)
        assert time.monotonic() - began > LEASE_S / 2
    until(lambda: is_ready(cluster.a))
