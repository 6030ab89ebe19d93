"""Connections between requests: kept for long, and given up where others need their place."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.server import IO_TIMEOUT_S
from tests.certificates import self_signed
from tests.e2e import load_client
from tests.e2e.load_client import Connection, ask, connected
from tests.served import BUSY, Served, serve

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
KEPT_S = 2


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    environ: dict[str, str] = {}
    if request.param == "https":
        certificate, key = map(str, self_signed(tmp_path))
        environ = {"ORCHESTRATOR_TLS_CERT": certificate, "ORCHESTRATOR_TLS_KEY": key}
    with serve(**environ) as running:
        yield running


async def healthy(connection: Connection) -> None:
    answer = await ask(connection, "GET", "/health")
    await answer.read()
    assert answer.status == 200


def test_a_connection_is_kept_longer_than_a_head_may_take(server: Served) -> None:
    async def main() -> None:
        async with connected(server.port, server.tls) as connection:
            await healthy(connection)
            await asyncio.sleep(IO_TIMEOUT_S + 1)
            await healthy(connection)

    load_client.run(main())


def test_one_that_stays_idle_is_closed_in_the_end(serving: Callable[..., Served]) -> None:
    server = serving(ORCHESTRATOR_KEEPALIVE_S=str(KEPT_S))

    async def main() -> None:
        async with connected(server.port) as connection:
            await healthy(connection)
            began = time.monotonic()
            assert await connection.reader.read() == b""
            assert KEPT_S - 0.1 < time.monotonic() - began < BUSY * (KEPT_S + 1)

    load_client.run(main())


def test_a_second_head_may_take_no_longer_than_the_first(server: Served) -> None:
    async def main() -> None:
        async with connected(server.port, server.tls) as connection:
            await healthy(connection)
            connection.writer.write(HEALTH[:10])
            began = time.monotonic()
            await connection.reader.read()
            assert time.monotonic() - began < BUSY * (IO_TIMEOUT_S + 1)

    load_client.run(main())


def test_requests_that_are_sent_at_once_are_answered_at_once(server: Served) -> None:
    async def main() -> None:
        async with connected(server.port, server.tls) as connection:
            connection.writer.write(HEALTH * 10)
            began = time.monotonic()
            for _ in range(10):
                answer = await load_client.head(connection)
                await answer.read()
                assert answer.status == 200
            assert time.monotonic() - began < BUSY * 2

    load_client.run(main())


def test_idle_connections_make_room_for_new_ones(serving: Callable[..., Served]) -> None:
    most = 16
    server = serving(ORCHESTRATOR_MAX_CONNECTIONS=str(most))

    async def main() -> None:
        async with AsyncExitStack() as stack:
            kept = []
            async with asyncio.timeout(BUSY * IO_TIMEOUT_S):
                for _ in range(3 * most):
                    kept.append(await stack.enter_async_context(connected(server.port)))
                    await healthy(kept[-1])
            # Those that were used last are still there.
            await healthy(kept[-1])
            assert await kept[0].reader.read() == b""

    load_client.run(main())
    assert "Traceback" not in server.log
