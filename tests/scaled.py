"""The service as it is deployed past one process: a Redis, web processes, workers."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.e2e.client import PATIENCE_S, until
from tests.processes import children
from tests.redis_server import RedisServer
from tests.served import ROOT, START_S, Served, environment

DELAY_S = 0.03
WORDS = " ".join(f"word{number}" for number in range(40))
"""A prompt whose answer takes more than a second."""
LEASE_S = 3.0
"""A fifth of the default, and so is all that is made of it: how soon a lost request runs again."""
WORK = [
    sys.executable,
    "-c",
    "import sys; from orchestrator.cli import main; sys.exit(main())",
    "worker",
]


@dataclass(frozen=True)
class Worker:
    """A running `orchestrator worker`: Dramatiq's master, and the process that runs requests."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def pid(self) -> int:
        """The process that runs requests, a child of the master."""
        return children(self.process.pid)[0]

    def kill(self) -> None:
        """End both as a machine that fails does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def await_start(self) -> None:
        """Wait until it takes requests."""
        until(lambda: "Ready to run" in self.log or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.log


@contextlib.contextmanager
def working(log_path: Path, **environ: str) -> Iterator[Worker]:
    """Run a worker with settings from ``environ`` while inside."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            WORK,
            cwd=ROOT,
            env=environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    worker = Worker(process, log_path)
    try:
        worker.await_start()
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def scaled(redis: RedisServer, **environ: str) -> dict[str, str]:
    """Return the settings that web processes and workers share."""
    usual = {"REDIS_URL": redis.url, "ORCHESTRATOR_LEASE_S": str(LEASE_S)}
    if environ.keys().isdisjoint({"ORCHESTRATOR_CONFIG", "ORCHESTRATOR_BACKEND"}):
        usual["ORCHESTRATOR_ECHO_DELAY_S"] = str(DELAY_S)
    return usual | environ


def is_ready(server: Served) -> bool:
    """Whether a web process says that requests would be answered."""
    return requests.get(f"{server.url}/health/ready", timeout=PATIENCE_S).status_code == 200
