"""Readers that leave at random and come back by any door have the answer to the byte."""

import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import load_client
from tests.e2e.load_client import ask, connected, request, sse_events, submit, websocket
from tests.served import Served

REQUESTS = 40
READERS = 5
WORDS = 60
DELAY_S = 0.05
ALPHABET = "aé漢😀\u2028\u0301'\"\\\x7f{}:"


@dataclass
class Reader:
    """One reader of one request: what it has so far, and where it is."""

    port: int
    request_id: str
    random: random.Random
    after: int = -1
    pieces: list[str] = field(default_factory=list)
    visits: int = 0
    status: str | None = None

    async def read(self) -> None:
        """Come back until the end was seen."""
        while self.status is None:
            self.visits += 1
            door = self.random.choice([self._stream, self._socket, self._page])
            await door(self.random.randint(0, WORDS // 4))

    def take(self, seq: int, name: str, data: dict[str, Any]) -> None:
        """Take the next event, which must be the next one."""
        assert seq == self.after + 1
        self.after = seq
        if name == "token":
            assert data["chunk"] == len(self.pieces)
            self.pieces.append(data["data"])
        elif name == "complete":
            self.status = data["status"]

    async def _stream(self, events: int) -> None:
        """Read some events, with the cursor in the header or in the address, and vanish."""
        path = f"/api/v1/stream/{self.request_id}"
        headers = {"Last_Event_ID": str(self.after)} if self.after >= 0 else {}
        if headers and self.random.random() < 0.3:
            path, headers = f"{path}?after={self.after}", {}
        async with connected(self.port) as connection:
            answer = await ask(connection, "GET", path, **headers)
            assert answer.status == 200
            async with aclosing(sse_events(answer)) as stream:
                async for event in stream:
                    self.take(event.seq, event.name, event.data)
                    events -= 1
                    if events < 0 or self.status:
                        break
            connection.abort()

    async def _socket(self, events: int) -> None:
        async with websocket(self.port) as socket:
            cursor = {"after": self.after} if self.after >= 0 else {}
            socket.send({"type": "subscribe", "request_id": self.request_id, **cursor})
            # The start has no frame of its own.
            self.after = max(self.after, 0)
            for _ in range(events + 1):
                frame = await socket.receive()
                if frame["type"] == "result":
                    assert frame["result"] == "".join(self.pieces)
                    self.status = "done"
                    return
                self.take(frame["seq"], frame["type"], frame)
            socket.connection.abort()

    async def _page(self, events: int) -> None:
        path = f"/api/v1/events/{self.request_id}?after={self.after}&limit={events + 1}&wait=1"
        page = (await request(self.port, "GET", path)).json
        for event in page["events"]:
            self.take(event["seq"], event["event"], event["data"])
        assert page["next"] == self.after
        assert page["done"] == (self.status is not None)


def a_prompt(chance: random.Random) -> str:
    words = ["".join(chance.choices(ALPHABET, k=chance.randint(1, 12))) for _ in range(WORDS)]
    return chance.choice([" ", "\n", "\r\n", "\n\n"]).join(words)


def test_two_hundred_readers_that_come_and_go_have_every_byte(
    serving: Callable[..., Served],
) -> None:
    server = serving(ORCHESTRATOR_ECHO_DELAY_S=str(DELAY_S))

    async def main() -> None:
        visits = await load_client.gather(
            follow(server.port, random.Random(number)) for number in range(REQUESTS)
        )
        assert sum(visits) > 4 * REQUESTS * READERS

    load_client.run(main())
    assert "Traceback" not in server.log


async def follow(port: int, chance: random.Random) -> int:
    """Read one request with several readers; return how often they came."""
    prompt = a_prompt(chance)
    request_id = await submit(port, prompt)
    readers = [Reader(port, request_id, random.Random(chance.random())) for _ in range(READERS)]
    await load_client.gather(reader.read() for reader in readers)
    result = (await request(port, "GET", f"/api/v1/result/{request_id}")).json["result"]
    assert result == f"Echo: {prompt}"
    for reader in readers:
        assert "".join(reader.pieces) == result
        assert reader.status == "done"
    log = (await request(port, "GET", f"/api/v1/events/{request_id}?limit=1000")).json
    assert log["done"]
    path = f"/api/v1/stream/{request_id}"
    last = await request(port, "GET", path, Last_Event_ID=str(log["next"] - 1))
    assert last.body.count(b"event: complete") == last.body.count(b"event:") == 1
    assert (await request(port, "GET", path, Last_Event_ID=str(log["next"]))).status == 204
    return sum(reader.visits for reader in readers)
