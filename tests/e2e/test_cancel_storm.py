"""Cancels at any moment, over any door: the end comes at once, and nothing is left behind."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.e2e import load_client
from tests.e2e.load_client import ask, connected, request, sse_events, submit, websocket
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import BUSY, Served, serve

REQUESTS = 1000
AT_ONCE = 200
SLOTS = 100
LONGEST_S = 0.8
ENDS_WITHIN_S = 1.0 * BUSY

Json = dict[str, Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(upstream: Upstream) -> Iterator[Served]:
    with serve(
        "tests.fakes.inside:app",
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="fake",
        OPENAI_BASE_URL=upstream.url,
        ORCHESTRATOR_CONCURRENCY=str(SLOTS),
    ) as server:
        yield server


async def status_of(port: int, request_id: str, wait: float = 0) -> Json:
    answer = await request(port, "GET", f"/api/v1/status/{request_id}?wait={wait}")
    assert answer.status == 200, answer.body
    return dict(answer.json)


async def cancel(port: int, request_id: str) -> None:
    answer = await request(port, "POST", f"/api/v1/cancel/{request_id}?wait=10")
    assert answer.status == 200
    assert answer.json["status"] == "cancelled"


async def check_end(port: int, request_id: str, seen: str | None = None) -> None:
    """Check that the end came soon, and that what was generated is kept, as a reader saw it."""
    job = await status_of(port, request_id)
    assert (job["status"], job["finish_reason"]) == ("cancelled", "cancelled")
    asked, ended = (
        datetime.fromisoformat(job[name]) for name in ("cancel_requested_at", "completed_at")
    )
    assert (ended - asked).total_seconds() <= ENDS_WITHIN_S
    kept = job["result"] or ""
    assert kept == "".join(f"w{number} " for number in range(kept.count("w")))
    if seen is not None:
        assert seen == kept


class Storm:
    """Requests that are cancelled at random moments, each over a random door."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._room = asyncio.Semaphore(AT_ONCE)
        self.partial = 0

    async def one(self, number: int) -> None:
        """Submit one request and cancel it after a while."""
        async with self._room:
            kind = self._random.choice(["fault:silent", "fault:ok 2000 0.02"])
            door = self._random.choice([self._poll, self._stream, self._socket, self._vanish])
            await door(f"{kind} number {number}", self._random.uniform(0, LONGEST_S))

    async def _poll(self, prompt: str, pause: float) -> None:
        request_id = await submit(self._port, prompt)
        poll = asyncio.create_task(status_of(self._port, request_id, wait=30))
        await asyncio.sleep(pause)
        await cancel(self._port, request_id)
        assert (await poll)["status"] == "cancelled"
        await check_end(self._port, request_id)

    async def _stream(self, prompt: str, pause: float) -> None:
        async with connected(self._port) as connection:
            answer = await ask(
                connection,
                "POST",
                "/api/v1/infer",
                json={"prompt": prompt},
                Accept="text/event-stream",
            )
            request_id = answer.headers["location"].rpartition("/")[2]
            cancelling = asyncio.create_task(self._cancel_later(request_id, pause))
            text = ""
            async for event in sse_events(answer):
                text += event.data["data"] if event.name == "token" else ""
            assert event.data == {"status": "cancelled"}
            await cancelling
        await check_end(self._port, request_id, text)
        self.partial += bool(text)

    async def _socket(self, prompt: str, pause: float) -> None:
        async with websocket(self._port) as socket:
            socket.send({"prompt": prompt, "stream": True})
            request_id = (await socket.receive())["request_id"]
            asyncio.get_running_loop().call_later(
                pause, socket.send, {"type": "cancel", "request_id": request_id}
            )
            text = ""
            while (frame := await socket.receive())["type"] == "token":
                text += frame["data"]
            assert (frame["type"], frame["code"]) == ("error", "CANCELLED")
        await check_end(self._port, request_id, text)
        self.partial += bool(text)

    async def _vanish(self, prompt: str, pause: float) -> None:
        """Watch for a while, leave without a word, and have someone else cancel."""
        request_id = await submit(self._port, prompt)
        async with connected(self._port) as connection, websocket(self._port) as socket:
            await ask(connection, "GET", f"/api/v1/stream/{request_id}")
            socket.send({"type": "subscribe", "request_id": request_id})
            await asyncio.sleep(pause)
            connection.abort()
            socket.connection.abort()
        await cancel(self._port, request_id)
        await check_end(self._port, request_id)

    async def _cancel_later(self, request_id: str, pause: float) -> None:
        await asyncio.sleep(pause)
        await cancel(self._port, request_id)


async def fill_all_slots(port: int) -> None:
    """Have as many requests run at once as there are slots, and cancel them."""
    ids = await load_client.gather(
        submit(port, f"fault:silent slot {number}") for number in range(SLOTS)
    )
    async with asyncio.timeout(10):
        while len(await listed(port, "processing")) < SLOTS:
            await asyncio.sleep(0.05)
    await load_client.gather(cancel(port, request_id) for request_id in ids)


async def listed(port: int, status: str) -> list[Json]:
    answer = await request(port, "GET", f"/api/v1/requests?limit=100&status={status}")
    return list(answer.json["data"])


async def inside(port: int) -> Json:
    return dict((await request(port, "GET", "/inside")).json)


async def looks_inside(port: int) -> AsyncIterator[Json]:
    """Look again and again, for as long as connections may take to be closed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        yield await inside(port)
        await asyncio.sleep(0.2)


async def open_calls(upstream: Upstream) -> int:
    answer = await request(upstream.seen_port, "GET", "/seen")
    return sum(seen["open"] for seen in answer.json.values())


def test_a_thousand_cancels_leave_nothing_behind(server: Served, upstream: Upstream) -> None:
    async def main() -> None:
        await fill_all_slots(server.port)
        before = await at_rest(server.port)
        storm = Storm(server.port, seed=2)
        await load_client.gather(storm.one(number) for number in range(REQUESTS))
        assert storm.partial > 10, "too few were cancelled in the middle of an answer"
        async with asyncio.timeout(ENDS_WITHIN_S):
            while await open_calls(upstream):
                await asyncio.sleep(0.1)
        await no_more_than(before, server.port)
        await fill_all_slots(server.port)
        await no_more_than(before, server.port)

    load_client.run(main())
    assert "Traceback" not in server.log


async def at_rest(port: int) -> Json:
    """Look until no stream is open and twice the same is seen."""
    last: Json = {}
    async for now in looks_inside(port):
        if now == last and not now["streams"]:
            return now
        last = now
    raise AssertionError(f"it never comes to rest: {last}")


async def no_more_than(before: Json, port: int) -> None:
    async for now in looks_inside(port):
        if (
            Counter(now["greenlets"]) <= Counter(before["greenlets"])
            and now["files"] <= before["files"]
            and not now["streams"]
        ):
            return
    raise AssertionError(f"left behind:\n{json.dumps(before)}\n{json.dumps(now)}")


def test_a_silent_upstream_is_left_within_a_second(server: Served, upstream: Upstream) -> None:
    prompt = "fault:silent alone"

    async def main() -> None:
        request_id = await submit(server.port, prompt)
        async with asyncio.timeout(10):
            while not upstream.seen(prompt)["calls"]:
                await asyncio.sleep(0.02)
        answer = await request(server.port, "POST", f"/api/v1/cancel/{request_id}")
        assert answer.status in (200, 202)
        async with asyncio.timeout(ENDS_WITHIN_S):
            while not upstream.seen(prompt)["client_closed"]:
                await asyncio.sleep(0.02)
        assert (await status_of(server.port, request_id))["status"] == "cancelled"

    load_client.run(main())
