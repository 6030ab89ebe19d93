"""Start a command as a person or a platform would, until it serves; and run one to its end."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import lacking

SCRIPTS = Path(sys.executable).parent

START_S = 30
STOP_S = 15
INSTALL_S = 300

# What is not part of the source.
NO_SOURCE = shutil.ignore_patterns(
    *(
        ".git",
        ".venv",
        ".venv-dev",
        ".venv-bench",
        ".venv-audit",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    ),
    *("__pycache__", "node_modules", "build", "dist"),
)

installs = pytest.mark.skipif(
    not os.environ.get("CI"), reason="Installs packages, for half a minute: set CI=true for it."
)


def environment(**more: str) -> dict[str, str]:
    """This process's own, without what make and the settings of a developer leave in it."""
    foreign = ("MAKE", "MFLAGS", "GUNICORN_", "FLASK_", "PYTEST_")
    foreign += ("ORCHESTRATOR_", "OPENAI_", "ANTHROPIC_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and name not in ("PORT", "WEB_CONCURRENCY", "REDIS_URL")
    }
    return {**kept, "PATH": f"{SCRIPTS}:{kept['PATH']}", **more}


def script(name: str) -> str:
    """The command ``name`` of the environment that the tests run in."""
    path = SCRIPTS / name
    if not path.exists():
        lacking(f"{name} is not installed beside {sys.executable}.")
    return str(path)


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass
class Running:
    """A server that answers, on ``port``; ``output`` is what it printed so far."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ask for the end as a platform does, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextmanager
def serving(
    command: list[str], cwd: Path, port: int, env: dict[str, str], log: Path, **popen: int
) -> Iterator[Running]:
    """Run ``command`` until it answers on ``port``; inside, it serves; afterwards it is gone."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **popen,
        )
    running = Running(process, port, log)
    try:
        wait_until_healthy(running)
        yield running
    finally:
        if process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                running.stop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_healthy(running: Running) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert running.process.poll() is None, f"The server ended at once:\n{running.output}"
        with suppress(OSError, http.client.HTTPException):
            status, body = get(running.port, "/health")
            assert status == 200, body
            assert json.loads(body)["status"] == "healthy"
            return
        time.sleep(0.05)
    pytest.fail(f"The server did not answer in {START_S} s:\n{running.output}")


def run(command: list[str], cwd: Path, timeout: float = 30, **env: str) -> tuple[int, str]:
    """The exit code of ``command`` and all that it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
