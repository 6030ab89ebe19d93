"""The processes of a chaos run: each can be harmed, and is there again after that."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.processes import children, family
from tests.redis_server import RedisServer
from tests.scaled import working
from tests.served import serve

STOP_S = 30.0
"""How long a stop that was asked for may take."""
LOOK_S = 0.05


class Running(Protocol):
    """What a web process and a worker have in common."""

    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str: ...


class Member:
    """One process of the service, or Redis. ``lock`` is held while it is being harmed."""

    actions: Sequence[str] = ("kill", "restart", "pause")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()

    @property
    def log(self) -> str:
        """What it has said, all generations of it."""
        return ""

    def harm(self, action: str, seconds: float) -> None:
        """Do what an action says, and return when the member is there again.

        ``seconds`` is how long it is stopped, or not there.
        """
        getattr(self, action)(seconds)


class Process(Member):
    """A web process or a worker: a master and the process that does the work.

    ``run`` starts one and gives it, ``logs`` is the file for what all of them say.
    """

    actions = ("kill", "kill_child", "restart", "pause")

    def __init__(
        self, name: str, run: Callable[[], contextlib.AbstractContextManager[Running]], logs: Path
    ) -> None:
        super().__init__(name)
        self._run = run
        self._logs = logs
        self._stack = contextlib.ExitStack()
        self._running: Running | None = None

    @property
    def log(self) -> str:
        earlier = self._logs.read_text() if self._logs.exists() else ""
        return earlier + (self._running.log if self._running else "")

    def start(self) -> None:
        """Be there."""
        self._running = self._stack.enter_context(self._run())

    def end(self) -> None:
        """Be gone, its log kept."""
        if self._running:
            with self._logs.open("a") as logs:
                logs.write(self._running.log)
        self._running = None
        self._stack.close()

    def kill(self, seconds: float) -> None:
        """End both processes as a machine that fails does."""
        self._signal(signal.SIGKILL, self._pids())
        self._replace(seconds)

    def kill_child(self, seconds: float) -> None:
        """End the one that does the work: some masters replace it, some end."""
        assert self._running
        process = self._running.process
        workers = children(process.pid)
        self._signal(signal.SIGKILL, workers)
        deadline = time.monotonic() + STOP_S
        while process.poll() is None and time.monotonic() < deadline:
            if set(children(process.pid)) - set(workers):
                return
            time.sleep(LOOK_S)
        self._replace(0)

    def restart(self, seconds: float) -> None:
        """Ask it to stop, as a platform does."""
        assert self._running
        self._running.process.send_signal(signal.SIGTERM)
        self._running.process.wait(STOP_S)
        self._replace(0)

    def pause(self, seconds: float) -> None:
        """Have both stand still."""
        pids = self._pids()
        self._signal(signal.SIGSTOP, pids)
        time.sleep(seconds)
        self._signal(signal.SIGCONT, pids)

    def _replace(self, seconds: float) -> None:
        time.sleep(seconds)
        self.end()
        self.start()

    def _pids(self) -> list[int]:
        assert self._running
        pid = self._running.process.pid
        return [pid, *family(pid)]

    def _signal(self, number: signal.Signals, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Redis(Member):
    """The Redis; what it has answered for is in its file."""

    actions = ("kill", "kill_rewriting", "restart", "pause")

    def __init__(self, server: RedisServer) -> None:
        super().__init__("redis")
        self._server = server

    def kill(self, seconds: float) -> None:
        """End it as a crash does, and start it again."""
        self._server.kill()
        time.sleep(seconds)
        self._server.start()

    def kill_rewriting(self, seconds: float) -> None:
        """End it while it writes its file anew, in a process that outlives it."""
        self._server.client.bgrewriteaof()
        self.kill(seconds)

    def restart(self, seconds: float) -> None:
        """Ask it to stop, and start it again."""
        self._server.stop()
        self._server.start()

    def pause(self, seconds: float) -> None:
        """Have it stand still, its connections open."""
        self._server.freeze()
        time.sleep(seconds)
        self._server.thaw()


def web(name: str, logs: Path, **environ: str) -> Process:
    """Return a web process; ``environ`` has its port."""
    return Process(name, lambda: serve(**environ), logs)


def worker(name: str, logs: Path, **environ: str) -> Process:
    """Return a worker."""
    return Process(name, lambda: _hired(logs.with_suffix(".now"), environ), logs)


@contextlib.contextmanager
def _hired(log: Path, environ: dict[str, str]) -> Iterator[Running]:
    with working(log, **environ) as hired:
        yield hired
