"""Clients that take their time: they harm nobody, and are left before long."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import self_signed
from tests.e2e import load_client
from tests.e2e.load_client import (
    Answer,
    Beside,
    Connection,
    ask,
    connected,
    request,
    sse_events,
    submit,
    watching_health,
    websocket,
)
from tests.served import BUSY, Served, serve

SLOWEST_HEALTH_S = 1.0
"""As promised, and no multiple of it: what a busy machine takes is measured and left out. On two
cores with nothing else to do it takes a fortieth of that, beside a whole other suite once 1.2 s."""
SLACK = 10
"""Other connections that are open at a time."""
ARRIVAL_S = 8.0
"""They come one after the other, so that their number counts, and not a moment's rush."""
SMALL_BUFFER = 4096
GONE = (OSError, asyncio.IncompleteReadError)

# For the model in tests/fakes/large.py: how many pieces, of how many bytes.
LARGE = "256 4096"
HONEST_BYTES = 4 * 1024 * 1024
HONEST_BYTES_A_SECOND = 250_000


@dataclass
class Slow:
    """Clients of one kind: what they do, and how soon the server leaves them."""

    behave: Callable[[Connection], Awaitable[None]]
    left_within_s: float
    clients: int = 500

    async def client(self, port: int, number: int) -> None:
        """Be slow until the server ends it."""
        await asyncio.sleep(ARRIVAL_S * number / self.clients)
        with contextlib.suppress(*GONE):
            async with connected(port, limit=SMALL_BUFFER) as connection:
                try:
                    await self.behave(connection)
                finally:
                    connection.abort()


async def drip(connection: Connection, data: bytes) -> None:
    """Send a byte a second."""
    for number in range(len(data)):
        connection.writer.write(data[number : number + 1])
        await connection.writer.drain()
        await asyncio.sleep(1)


async def slow_head(connection: Connection) -> None:
    await drip(connection, b"GET /health HTTP/1.1\r\nX-Slow: " + b"a" * 1000)


async def slow_body(connection: Connection) -> None:
    head = b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.writer.write(head + b"Content-Length: 1000\r\n\r\n")
    await drip(connection, b" " * 1000)


async def endless_body(connection: Connection) -> None:
    """Send as fast as it goes what nobody wants: the loop must not be kept from others."""
    connection.writer.write(
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n"
    )
    while True:
        connection.writer.write(b" " * 1_000_000)
        await connection.writer.drain()


async def slow_handshake(connection: Connection) -> None:
    """Send how a TLS record begins, and no more."""
    connection.writer.write(b"\x16\x03\x01\x02\x00\x01")
    await connection.reader.readexactly(1)


def slow_reader(path: str) -> Callable[[Connection], Awaitable[None]]:
    async def read(connection: Connection) -> None:
        """Read a kilobyte a second."""
        connection.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while True:
            await connection.reader.readexactly(1024)
            await asyncio.sleep(1)

    return read


@pytest.fixture
def plain() -> Iterator[Served]:
    with serve("tests.fakes.inside:app", ORCHESTRATOR_BACKEND="tests.fakes.large:pieces") as server:
        yield server


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Served]:
    certificate, key = map(str, self_signed(tmp_path))
    with serve(
        "tests.fakes.inside:app", ORCHESTRATOR_TLS_CERT=certificate, ORCHESTRATOR_TLS_KEY=key
    ) as server:
        yield server


@pytest.fixture
def idle() -> Iterator[Served]:
    with serve() as server:
        yield server


def test_five_hundred_of_each_kind_are_left_and_health_answers_all_along(
    plain: Served, secure: Served, idle: Served
) -> None:
    async def main() -> None:
        request_id = await finished(plain.port, LARGE)
        kinds = [
            Slow(slow_head, left_within_s=10),
            Slow(slow_body, left_within_s=40),
            Slow(endless_body, left_within_s=20, clients=4),
            Slow(slow_reader(f"/api/v1/stream/{request_id}"), left_within_s=20),
            Slow(slow_reader(f"/api/v1/result/{request_id}"), left_within_s=20),
        ]
        async with (
            watching_health(plain.port, beside=Beside(idle.port, plain.worker_pid)) as plain_health,
            watching_health(
                secure.port, secure.tls, Beside(idle.port, secure.worker_pid)
            ) as secure_health,
        ):
            await load_client.gather(
                [
                    crowd(plain, kinds),
                    crowd(secure, [Slow(slow_handshake, left_within_s=10)]),
                    honest_reader(plain.port),
                    stops_in_the_middle(plain.port),
                ]
            )
        assert max(plain_health.own) < SLOWEST_HEALTH_S
        assert max(secure_health.own) < SLOWEST_HEALTH_S

    load_client.run(main())
    assert "Traceback" not in plain.log
    assert "Traceback" not in secure.log


async def finished(port: int, prompt: str) -> str:
    """Have the large model answer, and return the request's id."""
    request_id = await submit(port, prompt)
    answer = await request(port, "GET", f"/api/v1/result/{request_id}?wait=30")
    assert answer.status == 200
    return request_id


async def crowd(server: Served, kinds: list[Slow]) -> None:
    """Have many of each kind at once, and see the server leave them in time."""
    before = (await held_by(server))["files"]
    clients = [
        asyncio.create_task(kind.client(server.port, number))
        for kind in kinds
        for number in range(kind.clients)
    ]
    try:
        began = time.monotonic()
        # The others may have been left before the last of a kind arrives on a busy machine.
        longest = max(kinds, key=lambda kind: kind.left_within_s)
        await until_files(server, at_least=before + longest.clients // 2)
        for limit in sorted({kind.left_within_s for kind in kinds}):
            later = sum(kind.clients for kind in kinds if kind.left_within_s > limit)
            await until_files(server, at_most=before + later + SLACK)
            assert time.monotonic() - began < BUSY * limit
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def held_by(server: Served) -> dict[str, Any]:
    return dict((await request(server.port, "GET", "/held", tls=server.tls)).json)


async def until(server: Served, condition: Callable[[dict[str, Any]], bool]) -> None:
    async with asyncio.timeout(BUSY * 40):
        while not condition(await held_by(server)):
            await asyncio.sleep(0.2)


async def until_files(server: Served, at_least: int = 0, at_most: int = 1_000_000) -> None:
    await until(server, lambda held: at_least <= held["files"] <= at_most)


async def honest_reader(port: int) -> None:
    """Read a large result over a slow link: it arrives."""
    request_id = await finished(port, f"{HONEST_BYTES // 4096} 4096")
    async with connected(port, limit=SMALL_BUFFER) as connection:
        answer = await ask(connection, "GET", f"/api/v1/result/{request_id}")
        left = int(answer.headers["content-length"])
        assert left > HONEST_BYTES
        length, began = left, time.monotonic()
        while left:
            left -= len(await connection.reader.readexactly(min(left, SMALL_BUFFER)))
            # By the clock: where the machine is too busy for its pace, it makes up for it.
            due = began + (length - left) / HONEST_BYTES_A_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def stops_in_the_middle(port: int) -> None:
    """Send half a body and wait: the answer says what is wrong, and that it's over."""
    async with connected(port) as connection:
        head = b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.writer.write(head + b'Content-Length: 1000\r\n\r\n{"prompt": ')
        answer = await (await load_client.head(connection)).read()
        assert answer.status == 400
        assert answer.json["error"]["code"] == "INVALID_REQUEST"
        assert answer.headers["connection"] == "close"
        assert await connection.reader.read() == b""


def test_a_reader_who_is_gone_is_noticed_within_five_seconds(plain: Served) -> None:
    """The model is silent all the while, so that nothing is written to anyone."""

    async def main() -> None:
        request_id = await submit(plain.port, "1 1 30")
        paths = [f"stream/{request_id}", f"result/{request_id}?wait=60"]
        paths += [f"status/{request_id}?wait=60", f"events/{request_id}?after=0&wait=60"]
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connected(plain.port))
                for _ in range(5 * len(paths))
            ]
            for number, connection in enumerate(connections):
                path = paths[number % len(paths)]
                connection.writer.write(f"GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            for _ in range(5):
                socket = await stack.enter_async_context(websocket(plain.port))
                socket.send({"type": "subscribe", "request_id": request_id})
                connections.append(socket.connection)
            await until(plain, lambda held: held["streams"] == len(connections))
            for number, connection in enumerate(connections):
                if number % 2:
                    connection.abort()
                else:
                    connection.writer.close()
            began = time.monotonic()
            await until(plain, lambda held: held["streams"] == 0)
            assert time.monotonic() - began < BUSY * 5

    load_client.run(main())


def test_a_body_too_large_is_answered_also_on_a_connection_that_ends(plain: Served) -> None:
    async def main() -> None:
        for _ in range(5):
            answer = await request(
                plain.port, "POST", "/api/v1/infer", json={"prompt": "x" * 10_000_000}
            )
            assert answer.status == 413

    load_client.run(main())


def test_what_is_no_tls_leaves_no_trace_and_no_harm(secure: Served) -> None:
    async def main() -> None:
        before = (await held_by(secure))["files"]
        for junk in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\xff\xff" + bytes(70_000),
            b"",
        ):
            for vanish in (True, False):
                with contextlib.suppress(*GONE):
                    async with connected(secure.port) as connection:
                        connection.writer.write(junk)
                        await connection.writer.drain()
                        if vanish:
                            connection.abort()
                        elif junk:
                            await connection.reader.read()
        await until_files(secure, at_most=before)

    load_client.run(main())
    assert "Traceback" not in secure.log


def test_a_slow_reader_slows_neither_the_model_nor_another_reader(plain: Served) -> None:
    """The answer has more bytes than the system would hold for those who don't read."""
    count, pause = 400, 0.005

    async def main() -> None:
        request_id = await submit(plain.port, f"{count} 16384 {pause}")
        async with AsyncExitStack() as stack:
            for _ in range(20):
                connection = await stack.enter_async_context(
                    connected(plain.port, limit=SMALL_BUFFER)
                )
                await ask(connection, "GET", f"/api/v1/stream/{request_id}")
                socket = await stack.enter_async_context(websocket(plain.port, limit=SMALL_BUFFER))
                socket.send({"type": "subscribe", "request_id": request_id})
                stack.callback(connection.abort)
                stack.callback(socket.connection.abort)
            began = time.monotonic()
            async with connected(plain.port) as connection:
                answer = await ask(connection, "GET", f"/api/v1/stream/{request_id}")
                tokens = sum([event.name == "token" async for event in sse_events(answer)])
            assert tokens == count
            assert time.monotonic() - began < BUSY * (count * pause + 1)
            job = (await request(plain.port, "GET", f"/api/v1/status/{request_id}")).json
            assert job["metrics"]["run_ms"] < BUSY * 1000 * (count * pause + 1)

    load_client.run(main())


def test_past_the_limit_a_stream_is_refused_and_health_answers(
    serving: Callable[..., Served],
) -> None:
    server = serving(ORCHESTRATOR_MAX_CONNECTIONS="16", ORCHESTRATOR_ECHO_DELAY_S="0.2")
    port = server.port

    async def main() -> None:
        request_id = await submit(port, "word " * 1000)
        path = f"/api/v1/stream/{request_id}"
        async with AsyncExitStack() as stack:
            for _ in range(6):
                connection = await stack.enter_async_context(connected(port))
                assert (await ask(connection, "GET", path)).status == 200
                await stack.enter_async_context(websocket(port))
            refuse(await request(port, "GET", path))
            refuse(
                await request(
                    port,
                    "POST",
                    "/api/v1/infer",
                    json={"prompt": "never runs"},
                    Accept="text/event-stream",
                )
            )
            with pytest.raises(AssertionError, match="PIPELINE_UNAVAILABLE"):
                await stack.enter_async_context(websocket(port))
            waited = time.monotonic()
            await request(port, "GET", f"/api/v1/result/{request_id}?wait=30")
            assert time.monotonic() - waited < 5, "a long poll takes a stream's place"
            assert (await request(port, "GET", "/health")).status == 200
            listed = (await request(port, "GET", "/api/v1/requests")).json["data"]
            assert [job["request_id"] for job in listed] == [request_id]
        async with asyncio.timeout(10):
            while await is_refused(port, path):
                await asyncio.sleep(0.1)

    load_client.run(main())


def refuse(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.json["error"]["code"] == "PIPELINE_UNAVAILABLE"
    assert int(answer.headers["retry-after"]) > 0


async def is_refused(port: int, path: str) -> bool:
    async with connected(port) as connection:
        return (await ask(connection, "GET", path)).status == 503
