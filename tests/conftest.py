"""Fixtures shared by all tests, the service as it is deployed above all; and how tests spread."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer

from orchestrator.stores.redis.store import RedisStore
from tests import redis_server
from tests.redis_server import RedisServer
from tests.scaled import Worker, scaled, working
from tests.served import Served, serve
from tests.spread import Spread, longest_first


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """One gunicorn with default settings, shared by tests that change nothing for others."""
    with serve() as served:
        yield served


@pytest.fixture(scope="session")
def redis_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that do it no harm."""
    with redis_server.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_for_all: RedisServer) -> RedisServer:
    """A Redis with nothing in it."""
    redis_for_all.client.flushall()
    return redis_for_all


@pytest.fixture
def redis_store(redis: RedisServer) -> Iterator[Callable[..., RedisStore]]:
    """What makes stores over one Redis, each as a process of its own would."""
    stores: list[RedisStore] = []

    def make(url: str = redis.url, **limits: Any) -> RedisStore:
        limits = {"queue_limit": 1_000, "retention_s": 3600.0} | limits
        stores.append(RedisStore(url, **limits))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    """A function that starts a gunicorn with the given environment; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **environ: stack.enter_context(serve(**environ))


@pytest.fixture
def hired(redis: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """A function that starts a worker of this test's Redis; it ends with the test."""
    with contextlib.ExitStack() as stack:
        numbers = iter(range(100))

        def hire(**environ: str) -> Worker:
            log = tmp_path / f"worker{next(numbers)}"
            return stack.enter_context(working(log, **scaled(redis, **environ)))

        yield hire


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread:
    return Spread(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        longest_first(items)
