"""The end of the server: whoever was promised an answer learns how it ended, and in time."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import self_signed
from tests.e2e import load_client
from tests.e2e.client import until
from tests.e2e.load_client import (
    Answer,
    SocketClosed,
    WebSocket,
    ask,
    connected,
    request,
    sse_events,
    submit,
    websocket,
)
from tests.processes import children, family
from tests.served import BUSY, ROOT, START_S, Served, environment, free_port, serve

ROUNDS = 20
AT_ONCE = 5
GRACE_S = 7
DELAY_S = 0.1
CLIENTS = 8
"""Of each kind."""
SOCKET_REQUESTS = 3
GONE = (OSError, asyncio.IncompleteReadError)
LONG = " ".join(["word"] * 10_000)

Json = dict[str, Any]


@dataclass
class Promises:
    """What a server under load promised, and what became of it."""

    accepted: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    going_away: int = 0

    def end(self, request_id: str, status: str, code: str | None) -> None:
        """Note an end: a whole answer, or a failure because of the shutdown."""
        assert status == "done" or code == "SHUTDOWN", (status, code)
        self.ended[request_id] = status


class Load:
    """Clients of every kind, which go on until the server is gone."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self.promises = Promises()

    async def run(self) -> None:
        """Keep the server busy until it's gone."""
        kinds = [self._streams, self._socket, self._polls, self._long_polls]
        await load_client.gather(kind() for kind in kinds for _ in range(CLIENTS))

    def wait_until_begun(self) -> None:
        """Wait for as many requests as all clients together begin with."""
        deadline = time.monotonic() + START_S
        while len(self.promises.accepted) < CLIENTS * (3 + SOCKET_REQUESTS):
            assert time.monotonic() < deadline, "the load does not begin"
            time.sleep(0.01)

    def _prompt(self) -> str:
        """Up to a whole drain and more, in words."""
        return " ".join(["word"] * self._random.randint(1, int(GRACE_S / DELAY_S)))

    async def _until_gone(self, visit: Callable[[], Awaitable[None]]) -> None:
        """Visit again and again. No answer at all means that it's over."""
        with contextlib.suppress(*GONE):
            while True:
                await visit()

    def _is_accepted(self, answer: Answer) -> bool:
        if answer.status == 200:
            return True
        assert answer.status == 503, answer.status
        assert answer.json["error"]["code"] == "PIPELINE_UNAVAILABLE"
        assert int(answer.headers["retry-after"]) > 0
        self.promises.refused += 1
        return False

    async def _submit(self) -> str | None:
        answer = await request(self._port, "POST", "/api/v1/infer", json={"prompt": self._prompt()})
        if not self._is_accepted(answer):
            await asyncio.sleep(0.5)
            return None
        request_id = str(answer.json["request_id"])
        self.promises.accepted.add(request_id)
        return request_id

    async def _streams(self) -> None:
        async def visit() -> None:
            request_id = await self._submit()
            if request_id is None:
                return
            async with connected(self._port) as connection:
                answer = await ask(connection, "GET", f"/api/v1/stream/{request_id}")
                assert answer.status == 200
                end = [event async for event in sse_events(answer)][-1].data
            self.promises.end(request_id, end["status"], end.get("error", {}).get("code"))

        await self._until_gone(visit)

    async def _polls(self) -> None:
        await self._until_gone(lambda: self._poll("", pause=1.0))

    async def _long_polls(self) -> None:
        await self._until_gone(lambda: self._poll("?wait=30", pause=0.0))

    async def _poll(self, query: str, pause: float) -> None:
        request_id = await self._submit()
        if request_id is None:
            return
        while True:
            answer = await request(self._port, "GET", f"/api/v1/result/{request_id}{query}")
            if answer.status != 202:
                break
            await asyncio.sleep(pause)
        code = answer.json["error"]["details"]["cause"] if answer.status == 500 else None
        self.promises.end(request_id, "done" if answer.status == 200 else "failed", code)

    async def _socket(self) -> None:
        """Keep some requests in flight on one socket, until the server closes it."""
        with contextlib.suppress(*GONE):
            async with websocket(self._port) as socket:
                for _ in range(SOCKET_REQUESTS):
                    self._submit_frame(socket)
                await self._answers(socket)

    def _submit_frame(self, socket: WebSocket) -> None:
        socket.send({"prompt": self._prompt(), "stream": self._random.random() < 0.7})

    async def _answers(self, socket: WebSocket) -> None:
        try:
            while True:
                frame = await socket.receive()
                if frame["type"] == "ack":
                    self.promises.accepted.add(frame["request_id"])
                elif frame["type"] != "token":
                    self._take(frame)
                    await asyncio.sleep(0.3)
                    self._submit_frame(socket)
        except SocketClosed as closed:
            assert closed.code == 1001
            self.promises.going_away += 1

    def _take(self, frame: Json) -> None:
        if frame.get("code") == "PIPELINE_UNAVAILABLE":
            self.promises.refused += 1
            return
        status = "done" if frame["type"] == "result" else "failed"
        self.promises.end(frame["request_id"], status, frame.get("code"))


def one_round(seed: int) -> None:
    """Load a server, stop it in the middle, and compare what it promised with what came."""
    with serve(
        ORCHESTRATOR_GRACEFUL_TIMEOUT_S=str(GRACE_S), ORCHESTRATOR_ECHO_DELAY_S=str(DELAY_S)
    ) as server:
        load = Load(server.port, seed)
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load_client.run, load.run())
            load.wait_until_begun()
            time.sleep(random.Random(seed).uniform(0, 1.2))
            assert not loading.done(), loading.exception()
            began = time.monotonic()
            code = server.stop()
            took = time.monotonic() - began
            loading.result(10)
        promises = load.promises
        assert promises.accepted - promises.ended.keys() == set()
        assert code == 0
        assert took < GRACE_S
        assert set(promises.ended.values()) == {"done", "failed"}
        assert promises.refused
        assert promises.going_away == CLIENTS
        assert "Traceback" not in server.log, server.log
        assert "SIGKILL" not in server.log


def test_under_load_no_accepted_request_is_left_without_an_end() -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one_round, range(ROUNDS)))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_idle_server_ends_at_once_whoever_is_connected(scheme: str, tmp_path: Path) -> None:
    environ = tls_settings(tmp_path) if scheme == "https" else {}
    with serve(**environ) as server:

        async def main() -> float:
            async with contextlib.AsyncExitStack() as stack:
                sockets = [
                    await stack.enter_async_context(websocket(server.port, server.tls))
                    for _ in range(20)
                ]
                for number in range(40):
                    connection = await stack.enter_async_context(connected(server.port, server.tls))
                    if number % 2:
                        await (await ask(connection, "GET", "/health")).read()
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                for socket in sockets:
                    with pytest.raises(SocketClosed) as closed:
                        await socket.receive()
                    assert closed.value.code == 1001
                assert await asyncio.to_thread(server.process.wait, 10) == 0
                return time.monotonic() - began

        assert load_client.run(main()) < BUSY * 2
        assert "Traceback" not in server.log


def tls_settings(folder: Path) -> dict[str, str]:
    certificate, key = self_signed(folder)
    return {"ORCHESTRATOR_TLS_CERT": str(certificate), "ORCHESTRATOR_TLS_KEY": str(key)}


def test_while_it_drains_it_answers_polls_and_takes_nothing_new(
    serving: Callable[..., Served],
) -> None:
    server = serving(ORCHESTRATOR_GRACEFUL_TIMEOUT_S="7", ORCHESTRATOR_ECHO_DELAY_S="0.05")

    async def main() -> None:
        short = await submit(server.port, "a few words")
        long = await submit(server.port, LONG)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            while (await request(server.port, "GET", "/health/ready")).status == 200:
                await asyncio.sleep(0.02)
        refused = await request(server.port, "POST", "/api/v1/infer", json={"prompt": "late"})
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        for path in ("/health", "/health/live", f"/api/v1/status/{long}"):
            assert (await request(server.port, "GET", path)).status == 200
        ended = await request(server.port, "GET", f"/api/v1/result/{short}?wait=5")
        assert ended.json["result"] == "Echo: a few words"
        failed = await request(server.port, "GET", f"/api/v1/result/{long}?wait=10")
        assert failed.status == 500
        assert failed.json["error"]["details"]["cause"] == "SHUTDOWN"

    load_client.run(main())
    assert server.process.wait(8) == 0


def test_nobody_who_does_not_read_can_hold_it_up(serving: Callable[..., Served]) -> None:
    server = serving(
        ORCHESTRATOR_GRACEFUL_TIMEOUT_S=str(GRACE_S),
        ORCHESTRATOR_BACKEND="tests.fakes.large:pieces",
    )

    async def main() -> None:
        request_id = await submit(server.port, "1900 4096")
        await request(server.port, "GET", f"/api/v1/result/{request_id}?wait=30")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(10):
                await stack.enter_async_context(stalled_stream(server.port, request_id))
                await stack.enter_async_context(stalled_socket(server.port, request_id))
            began = time.monotonic()
            assert await asyncio.to_thread(server.stop) == 0
            assert time.monotonic() - began < GRACE_S

    load_client.run(main())
    assert "Traceback" not in server.log


@asynccontextmanager
async def stalled_stream(port: int, request_id: str) -> AsyncIterator[None]:
    async with connected(port, limit=1024) as connection:
        await ask(connection, "GET", f"/api/v1/stream/{request_id}")
        yield
        connection.abort()


@asynccontextmanager
async def stalled_socket(port: int, request_id: str) -> AsyncIterator[None]:
    async with websocket(port, limit=1024) as socket:
        socket.send({"type": "subscribe", "request_id": request_id})
        yield
        socket.connection.abort()


def test_a_signal_that_comes_twice_is_one(serving: Callable[..., Served]) -> None:
    """A platform may signal every process, and gunicorn's master passes its own on."""
    server = serving()
    os.kill(server.worker_pid, signal.SIGTERM)
    assert server.stop() == 0
    assert server.log.count("Draining") == 1
    assert "Traceback" not in server.log


def test_a_stop_during_the_start_ends_it(tmp_path: Path) -> None:
    def stop_after(seconds: float) -> tuple[float, str]:
        with started(tmp_path / f"log{seconds}") as process:
            time.sleep(seconds)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            return time.monotonic() - began, (tmp_path / f"log{seconds}").read_text()

    with ThreadPoolExecutor(3) as pool:
        for took, log in pool.map(stop_after, (number / 8 for number in range(1, 9))):
            assert took < 5, log
            assert "Traceback" not in log


@contextlib.contextmanager
def started(log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server with a session of its own, as a terminal would."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"],
            cwd=ROOT,
            env=environment(**{"PORT": str(free_port())} | environ),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_ctrl_c_ends_it_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with started(log, PORT=str(port), ORCHESTRATOR_ECHO_DELAY_S="0.05") as process:

        async def main() -> None:
            await load_client.healthy(port)
            request_id = await submit(port, LONG)
            async with connected(port) as connection, websocket(port) as socket:
                await ask(connection, "GET", f"/api/v1/stream/{request_id}")
                socket.send({"prompt": LONG})
                began = time.monotonic()
                os.killpg(process.pid, signal.SIGINT)
                assert await asyncio.to_thread(process.wait, 10) == 0
                assert time.monotonic() - began < BUSY

        load_client.run(main())
    assert "Traceback" not in log.read_text()


def test_a_stop_while_the_app_is_loaded_ends_at_once_and_greets_nobody(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\n\ntime.sleep(60)\n")
    log = tmp_path / "log"
    environ = environment(
        PORT=str(free_port()),
        ORCHESTRATOR_BACKEND="slow:answer",
        PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}",
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "serve"],
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "Booting worker" in log.read_text(), START_S)
        process.send_signal(signal.SIGTERM)
        # Long before the module would be loaded.
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert "Try:" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_no_signal_puts_a_second_store_beside_the_one_in_memory(
    serving: Callable[..., Served],
) -> None:
    server = serving()
    first = server.worker_pid
    for number, asked in enumerate([signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN], start=1):
        server.process.send_signal(asked)
        until(lambda number=number: server.log.count("ignored") == number)
        assert family(server.process.pid) == [first]
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_a_crash_is_followed_by_a_new_worker(serving: Callable[..., Served]) -> None:
    server = serving()
    first = server.worker_pid
    os.kill(first, signal.SIGKILL)
    another_worker(server, first)
    load_client.run(load_client.healthy(server.port))
    assert len(children(server.process.pid)) == 1
    assert server.stop() == 0
    assert "Traceback" not in server.log


def another_worker(server: Served, earlier: int) -> int:
    """Wait for a worker instead of an earlier one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        now = children(server.process.pid)
        if now and earlier not in now:
            return now[0]
        time.sleep(0.05)
    raise AssertionError(server.log)
