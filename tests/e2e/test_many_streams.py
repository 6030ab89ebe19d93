"""A thousand readers on one worker, each of a request of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tests.e2e import load_client
from tests.e2e.load_client import Answer, ask, connected, sse_events, submit, websocket
from tests.served import Served

T = TypeVar("T")

READERS = 500
WORDS = 8
DELAY_S = 1.5
OPENING = 50
"""Readers that open at once: one that connects and is long in asking is left by the server."""


@dataclass
class Seen:
    """When each reader had its first token and its end, by the loop's clock."""

    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def note(self, times: list[float]) -> None:
        times.append(asyncio.get_running_loop().time())


def prompt_of(reader: str) -> str:
    return " ".join(f"{reader}-{word}" for word in range(WORDS))


def test_five_hundred_websockets_and_five_hundred_streams_lose_nothing(
    serving: Callable[..., Served],
) -> None:
    server = serving(
        ORCHESTRATOR_CONCURRENCY=str(2 * READERS), ORCHESTRATOR_ECHO_DELAY_S=str(DELAY_S)
    )
    seen = Seen()
    opening = asyncio.Semaphore(OPENING)

    async def read_all() -> list[float]:
        async with load_client.watching_health(server.port) as health:
            await load_client.gather(
                job
                for number in range(READERS)
                for job in (
                    read_sse(server.port, seen, opening, f"sse{number}", inline=number % 2 == 0),
                    read_websocket(server.port, seen, opening, f"ws{number}"),
                )
            )
        return health.times

    times = load_client.run(read_all())
    assert len(seen.ended) == 2 * READERS
    assert max(seen.began) < min(seen.ended), "never all open at once: make the answers longer"
    assert len(times) > WORDS
    assert max(times) < 3
    assert "Traceback" not in server.log


@asynccontextmanager
async def stream(port: int, prompt: str, inline: bool) -> AsyncIterator[Answer]:
    """Open a stream in one step, or in two."""
    async with connected(port) as connection:
        if inline:
            body = {"prompt": prompt}
            yield await ask(
                connection, "POST", "/api/v1/infer", json=body, Accept="text/event-stream"
            )
        else:
            request_id = await submit(port, prompt, stream=True)
            yield await ask(connection, "GET", f"/api/v1/stream/{request_id}")


async def opened(
    opening: asyncio.Semaphore, stack: AsyncExitStack, one: AbstractAsyncContextManager[T]
) -> T:
    """Enter ``one`` when it's its turn; the stack leaves it."""
    async with opening:
        return await stack.enter_async_context(one)


async def read_sse(
    port: int, seen: Seen, opening: asyncio.Semaphore, name: str, inline: bool
) -> None:
    prompt = prompt_of(name)
    text = ""
    async with AsyncExitStack() as stack:
        answer = await opened(opening, stack, stream(port, prompt, inline))
        assert answer.status == 200
        seq = -1
        async for event in sse_events(answer):
            seq += 1
            assert event.seq == seq
            if event.name == "token":
                if not text:
                    seen.note(seen.began)
                assert event.data["chunk"] == seq - 1
                text += event.data["data"]
        assert event.data["status"] == "done"
    seen.note(seen.ended)
    assert text == f"Echo: {prompt}"


async def read_websocket(port: int, seen: Seen, opening: asyncio.Semaphore, name: str) -> None:
    prompt = prompt_of(name)
    async with AsyncExitStack() as stack:
        socket = await opened(opening, stack, websocket(port))
        socket.send({"prompt": prompt, "stream": True})
        ack = await socket.receive()
        assert ack["type"] == "ack"
        text, chunk = "", 0
        while (frame := await socket.receive())["type"] == "token":
            if not text:
                seen.note(seen.began)
            assert (frame["chunk"], frame["seq"]) == (chunk, chunk + 1)
            assert frame["request_id"] == ack["request_id"]
            text, chunk = text + frame["data"], chunk + 1
        assert frame["type"] == "result", frame
    seen.note(seen.ended)
    assert text == frame["result"] == f"Echo: {prompt}"
