"""What a stream through the service costs beside the same model server called directly.

    python benchmarks/overhead.py [--streams 1 32 256] [--rounds 3]

A local model server (streaming_upstream.py), the service and the clients are processes of their
own. The server is asked directly and through the service by turns, so that a noisy machine is
noisy for both; a figure is the median of all rounds. So many streams run at once, each answer
followed by the next:

- paced: a token every 50 ms, as a model gives them, the streams spread over that time. It shows
  the time to the first token, and whether the service keeps up.
- at once: every token as fast as it goes. It shows how many tokens a second the service relays.

"CPU" is what the service spends on a token, and what each process uses of a core while the service
is measured. Where the model server or the clients are at their limit, they are what is measured,
and a line says so; another says where the machine had less than that to give.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from submit_and_poll import cpu_seconds, serving

HERE = Path(__file__).resolve().parent
BUSY = 90


@dataclass(frozen=True)
class Shape:
    """How answers come: tokens in each, milliseconds between two, answers a stream."""

    name: str
    tokens: int
    interval_ms: int
    answers: int

    @property
    def prompt(self) -> str:
        return f"{self.tokens} {self.interval_ms}"


PACED = Shape("paced", tokens=60, interval_ms=50, answers=2)
AT_ONCE = Shape("at once", tokens=200, interval_ms=0, answers=4)


@dataclass(frozen=True)
class Door:
    """Where to ask, and how tokens and the end look in the answer."""

    port: int
    path: str
    token: bytes
    end: bytes

    def request(self, shape: Shape) -> bytes:
        message = {"role": "user", "content": shape.prompt}
        body = {"model": "any", "messages": [message], "stream": True}
        if self.path.endswith("/infer"):
            body = {"prompt": shape.prompt, "stream": True}
        data = json.dumps(body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


@dataclass
class Seen:
    """What the clients saw: seconds to each first token, and of each whole answer."""

    first: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def first_ms(self) -> float:
        return statistics.median(self.first) * 1000

    @property
    def late_ms(self) -> float:
        return statistics.quantiles(self.first, n=20)[-1] * 1000 if self.first[1:] else 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


async def read_answer(door: Door, shape: Shape, seen: Seen) -> None:
    """Ask once, on a connection of its own, and count what comes."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(door.request(shape))
    rest, count = b"", 0
    while door.end not in rest:
        data = await reader.read(65536)
        if not data:
            raise SystemExit(f"{door.path} broke off: {rest!r}")
        rest += data
        if found := rest.count(door.token):
            if not count:
                seen.first.append(time.perf_counter() - began)
            count += found
            rest = rest[rest.rindex(door.token) + len(door.token) :]
    writer.close()
    if count != shape.tokens:
        raise SystemExit(f"{door.path}: {count} tokens came, not {shape.tokens}")
    seen.tokens += count


async def load(door: Door, shape: Shape, streams: int) -> Seen:
    seen = Seen()

    async def stream(number: int) -> None:
        await asyncio.sleep(number / streams * shape.interval_ms * shape.tokens / 1000)
        for _ in range(shape.answers):
            await read_answer(door, shape, seen)

    began = time.perf_counter()
    await asyncio.gather(*(stream(number) for number in range(streams)))
    seen.seconds = time.perf_counter() - began
    return seen


@contextmanager
def model_server() -> Iterator[tuple[int, int]]:
    """Run the model server; yield its port and its pid."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "streaming_upstream.py")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(10)


def compare(
    direct: Door, ours: Door, shape: Shape, streams: int, rounds: int, pids: Sequence[int]
) -> None:
    """Measure both by turns and print a line."""
    floors, costs, busy = [], [], []
    for _ in range(rounds):
        floors.append(asyncio.run(load(direct, shape, streams)))
        before = [cpu_seconds(pid) for pid in pids]
        costs.append(asyncio.run(load(ours, shape, streams)))
        after = [cpu_seconds(pid) for pid in pids]
        spent = [now - then for then, now in zip(before, after, strict=True)]
        busy.append([seconds / costs[-1].seconds * 100 for seconds in spent])

    def both(name: str) -> tuple[float, float]:
        values = [[getattr(seen, name) for seen in group] for group in (floors, costs)]
        return statistics.median(values[0]), statistics.median(values[1])

    (first, our_first), (late, our_late), (rate, our_rate) = map(
        both, ("first_ms", "late_ms", "rate")
    )
    server, worker, clients = (statistics.median(part) for part in zip(*busy, strict=True))
    each = worker / 100 / our_rate * 1e6
    print(
        f"{shape.name:8}{streams:4} streams   first token {first:6.1f} -> {our_first:6.1f} ms "
        f"({our_first / first:4.1f} x), 95 % {late:6.1f} -> {our_late:6.1f} ms   "
        f"tokens/s {rate:7.0f} -> {our_rate:7.0f} ({our_rate / rate:.2f} x)   "
        f"CPU {each:3.0f} us a token; model {server:.0f}, service {worker:.0f}, "
        f"clients {clients:.0f} %",
        flush=True,
    )
    if max(server, clients) > BUSY:
        print("        The model server or the clients are at their limit: that is measured here.")
    elif our_rate < 0.95 * rate and worker < BUSY:
        print("        Nobody is at a limit: other processes took the machine's time.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with model_server() as (port, server_pid):
        os.environ |= {
            "ORCHESTRATOR_BACKEND": "openai",
            "ORCHESTRATOR_MODEL": "any",
            "ORCHESTRATOR_CONCURRENCY": str(max(options.streams)),
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        }
        direct = Door(port, "/v1/chat/completions", b'"content"', b"[DONE]")
        with serving("app:app") as (ours_port, worker_pid):
            ours = Door(ours_port, "/api/v1/infer", b"event: token", b"event: complete")
            pids = [server_pid, worker_pid, os.getpid()]
            for door in (direct, ours):
                asyncio.run(load(door, AT_ONCE, 4))
            for shape in (PACED, AT_ONCE):
                for streams in options.streams:
                    compare(direct, ours, shape, streams, options.rounds, pids)


if __name__ == "__main__":
    main()
