"""Requests and tokens a second with one worker and two, beside the same job on Celery and Flask.

    python benchmarks/scale_out.py [--workers 1 2] [--streams 64] [--rounds 5] [--alone]

Each side has a Redis that syncs its append-only file before it answers, as `make run-scaled` has
one, a web process and workers, all of them processes of their own; one model server
(streaming_upstream.py) answers both. They are asked by turns, so that a noisy machine is noisy for
both; a figure is the median of all rounds. So many streams run at once, each answer followed by the
next:

- requests: answers of 10 tokens. It shows what a request costs.
- tokens: answers of 300 tokens, as fast as they go. It shows what a token costs.

"CPU" is what each part of a side uses of a core while it is measured: where none is at a limit, the
machine is. celery_flask.py has the other side, and says what it leaves out.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from overhead import Door, Seen, Shape, load, model_server
from submit_and_poll import ROOT, cpu_seconds, free_port

from orchestrator.scaled import redis

HERE = Path(__file__).resolve().parent
START_S = 30.0
SHAPES = (
    Shape("requests", tokens=10, interval_ms=0, answers=8),
    Shape("tokens", tokens=300, interval_ms=0, answers=2),
)


@dataclass
class Side:
    """One of the two. ``pids`` are the processes that do the work, by what they are."""

    name: str
    door: Door
    environ: dict[str, str]
    worker: Sequence[str]
    ready: str
    pids: dict[str, list[int]] = field(default_factory=dict)


Maker = Callable[[int, dict[str, str], int], tuple[Side, list[str]]]
"""Makes a side of its web process's port, its settings, and how many streams run at once."""


def ours(port: int, environ: dict[str, str], at_once: int) -> tuple[Side, list[str]]:
    """Return the service, and the command of its web process."""
    command = [sys.executable, "-m", "gunicorn", "--log-level", "warning"]
    door = Door(port, "/api/v1/infer", b"event: token", b"event: complete")
    worker = [sys.executable, "-m", "orchestrator", "worker"]
    environ = environ | {"ORCHESTRATOR_CONCURRENCY": str(at_once)}
    return Side("orchestrator", door, environ, worker, "Ready to run"), command


def theirs(port: int, environ: dict[str, str], at_once: int) -> tuple[Side, list[str]]:
    """Return the service on Celery, and the command of its web process."""
    command = [sys.executable, "-m", "gunicorn", "--config", os.devnull, "--log-level", "warning"]
    command += ["--worker-class", "gevent", "--bind", f"127.0.0.1:{port}", "celery_flask:app"]
    door = Door(port, "/infer", b"event: token", b"event: complete")
    worker = [sys.executable, "-m", "celery", "-A", "celery_flask:celery", "worker", "-P", "gevent"]
    worker += ["-c", str(at_once), "--without-gossip", "--without-mingle", "-l", "WARNING"]
    return Side("Celery, Flask", door, environ, worker, "ready to work"), command


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], ready: str) -> Iterator[int]:
    """Run a command while inside, once its log has ``ready`` in it; gives its pid."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            await_word(process, Path(log.name), ready)
            yield process.pid
        finally:
            process.terminate()
            process.wait(60)


def await_word(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    deadline = time.monotonic() + START_S
    while ready not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} did not start:\n{log.read_text()}")
        time.sleep(0.05)


def await_port(port: int) -> None:
    """Wait until someone answers there."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def hire(stack: ExitStack, side: Side) -> None:
    """Have a side one more worker."""
    pid = stack.enter_context(running(side.worker, side.environ, side.ready))
    # Dramatiq's master has a child that does the work; Celery's worker does it itself.
    side.pids["workers"] += children_of(pid) or [pid]


def spent(side: Side) -> dict[str, float]:
    return {name: sum(map(cpu_seconds, pids)) for name, pids in side.pids.items()}


def measure(side: Side, shape: Shape, streams: int) -> tuple[Seen, dict[str, float]]:
    """Load a side; return what the clients saw, and what each part used of a core, in percent."""
    before = spent(side)
    seen = asyncio.run(load(side.door, shape, streams))
    after = spent(side)
    return seen, {name: (after[name] - before[name]) / seen.seconds * 100 for name in after}


def compare(sides: Sequence[Side], shape: Shape, workers: int, streams: int, rounds: int) -> None:
    """Measure all sides by turns and print a line for each."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    uses: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            seen, use = measure(side, shape, streams)
            done = streams * shape.answers if shape.name == "requests" else seen.tokens
            rates[side.name].append(done / seen.seconds)
            uses[side.name].append(use)
    last = statistics.median(rates[sides[-1].name])
    for side in sides:
        rate = statistics.median(rates[side.name])
        parts = ", ".join(
            f"{part} {statistics.median(each[part] for each in uses[side.name]):.0f} %"
            for part in side.pids
        )
        print(
            f"{workers} {'worker ' if workers == 1 else 'workers'}  {side.name:14} "
            f"{rate:8.0f} {shape.name}/s  {rate / last:6.2f} x   CPU: {parts}",
            flush=True,
        )


def start(stack: ExitStack, make: Maker, upstream: int, at_once: int) -> Side:
    """Start a side's Redis and its web process, which ask the model server at a port."""
    url, store = stack.enter_context(redis())
    stack.enter_context(running(store, os.environ, ""))
    await_port(int(url.rpartition(":")[2].partition("/")[0]))
    port = free_port()
    environ = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
        "REDIS_URL": url,
        "PORT": str(port),
        "ORCHESTRATOR_BACKEND": "openai",
        "ORCHESTRATOR_MODEL": "any",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
    }
    side, command = make(port, environ, at_once)
    pid = stack.enter_context(running(command, side.environ, ""))
    await_port(port)
    while not (web := children_of(pid)):
        time.sleep(0.05)
    side.pids = {"web": web, "workers": []}
    return side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="leave the other side out")
    options = parser.parse_args()
    with ExitStack() as stack:
        upstream, model_pid = stack.enter_context(model_server())
        makers: list[Maker] = [ours] if options.alone else [ours, theirs]
        sides = [start(stack, make, upstream, options.streams) for make in makers]
        for side in sides:
            side.pids["model"] = [model_pid]
        hired = 0
        for count in sorted(options.workers):
            for side in sides:
                for _ in range(count - hired):
                    hire(stack, side)
                asyncio.run(load(side.door, SHAPES[0], 4))
            hired = count
            for shape in SHAPES:
                compare(sides, shape, count, options.streams, options.rounds)


if __name__ == "__main__":
    main()
