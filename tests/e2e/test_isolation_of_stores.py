"""Fifty tenants and twenty thousand requests at the service; also over a Redis that loses answers.

The doors are tried the same way, with fewer requests, in test_isolation.py. Over Redis there are
fewer as well, but in ``make isolation``: each takes twenty times as long there.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.backends.echo import EchoBackend
from orchestrator.dispatch.pool import Pool
from orchestrator.errors import NotFound, OrchestratorError, PipelineUnavailable
from orchestrator.runner import Runner
from orchestrator.service import Model, Service
from orchestrator.stores.base import Idempotency, Store
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.link import ANSWER_S
from orchestrator.stores.redis.store import RedisStore
from tests.fakes.asking import a_request
from tests.fakes.redis_proxy import LosingProxy
from tests.redis_server import RedisServer

TENANTS = [f"tenant-{number}" for number in range(50)]
REQUESTS = 20_000
OVER_REDIS = int(os.environ.get("ISOLATION_REQUESTS", "5000"))
LOSSES = 0.001
LATE = 0.003
LATE_S = ANSWER_S + 0.3
"""Past the time that Redis has, so that an answer comes to whoever has its connection by then."""
AT_ONCE = 16
PATIENCE_S = 60.0
MARKER = re.compile(r"tenant-\d+")


class Crowd:
    """Tenants of one service, each with the same names for its sessions and keys."""

    def __init__(self, service: Service, requests: int) -> None:
        self.service = service
        self.requests = requests
        self.ids: dict[str, list[str]] = {name: [] for name in TENANTS}
        self.foreign: list[str] = []
        self.own = 0

    def ask(self, number: int) -> None:
        """Do one request in one of many ways, and look at what comes of it."""
        chance = random.Random(number)
        name = TENANTS[number % len(TENANTS)]
        request_id = self.submit(name, chance)
        self.ids[name].append(request_id)
        if chance.random() < 0.2:
            self.see(name, lambda: self.service.cancel(request_id, name))
        for look in chance.sample(LOOKS, 2):
            self.see(name, lambda look=look: look(self.service, request_id, name))
        self.pry(name, chance)

    def submit(self, name: str, chance: random.Random) -> str:
        request = a_request(
            f"I am {name}.",
            session_id=chance.choice(("chat", "mail")),
            metadata={"who": name},
            on_busy=chance.choice(("enqueue", "parallel")),
            queue_timeout_s=chance.choice((0.05, 60.0, 60.0)),
        )
        key = Idempotency(f"key {chance.randrange(10_000)}", b"f" * 32)
        given = key if chance.random() < 0.3 else None
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.service.submit(request, given, tenant=name).request_id
            except PipelineUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def see(self, name: str, act: Callable[[], Any]) -> Any:
        """Do it, and note each marker that is not this tenant's; None where Redis was away."""
        try:
            seen = act()
        except PipelineUnavailable:
            return None
        except OrchestratorError as error:
            seen = f"{error.message} {error.details}"
            self.look(name, seen)
            return None
        self.look(name, seen)
        return seen

    def look(self, name: str, seen: Any) -> None:
        markers = set(MARKER.findall(str(seen)))
        self.own += name in markers
        if others := markers - {name}:
            self.foreign.append(f"{name} is shown {others}")

    def pry(self, name: str, chance: random.Random) -> None:
        """Ask for what is another's."""
        other = chance.choice(TENANTS)
        theirs = self.ids[other][-1:]
        if other == name or not theirs:
            return
        try:
            chance.choice(LOOKS_AT_ONE)(self.service, theirs[0], name)
            self.foreign.append(f"{name} is given {other}'s {theirs[0]}")
        except (NotFound, PipelineUnavailable):
            pass


def said(service: Service, request_id: str, tenant: str) -> list[Any]:
    """Return what a reader of one request's result is told."""
    job = service.wait(request_id, 0.5, tenant)
    return [job.result, job.error, dict(job.request.metadata), job.request.prompt]


def told(service: Service, request_id: str, tenant: str) -> list[Any]:
    """Return what a reader of one request's events is told."""
    page = service.read(request_id, -1, 100, 0.1, tenant=tenant)
    return [getattr(event, "text", "") for _, event in page.events]


def listed(service: Service, _: str, tenant: str) -> list[Any]:
    jobs = service.jobs(None, None, 20, None, tenant=tenant).items
    return [(job.request.prompt, job.result, dict(job.request.metadata)) for job in jobs]


def remembered(service: Service, _: str, tenant: str) -> list[Any]:
    return [turn.content for turn in service.session("chat", tenant).history.messages]


LOOKS_AT_ONE = [said, told]
LOOKS = [said, told, listed, remembered]


@pytest.fixture(params=["memory", "lost", "late"])
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    def serving(store: Store, requests: int = REQUESTS) -> Crowd:
        echo = EchoBackend()
        pool = Pool(Runner(store, lambda _: echo), AT_ONCE)
        service = Service(store, pool, [Model("default", "echo")])
        service.start()
        return Crowd(service, requests)

    if request.param == "memory":
        yield serving(MemoryStore(queue_limit=1_000, retention_s=3600.0, memory_limit=1 << 30))
        return
    redis: RedisServer = request.getfixturevalue("redis")
    make: Callable[..., RedisStore] = request.getfixturevalue("redis_store")
    is_late = request.param == "late"
    with LosingProxy(redis.port, *((LATE, LATE_S) if is_late else (LOSSES,))) as proxy:
        # Each late answer is waited for.
        found = serving(make(proxy.url), OVER_REDIS // 2 if is_late else OVER_REDIS)
        proxy.lose()
        yield found
        assert proxy.lost > 10


def test_of_thousands_of_requests_none_is_shown_to_another_tenant(crowd: Crowd) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(crowd.ask, range(crowd.requests)):
            pass
    assert not crowd.foreign
    assert crowd.own > crowd.requests
