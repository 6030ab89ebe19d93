"""The service as it is deployed: gunicorn, with its own configuration, on a free port."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import children

ROOT = Path(__file__).resolve().parent.parent
START_S = 30.0
BUSY = 4
"""How many times slower than promised a busy machine may be. What hangs, hangs for longer."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Served:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    certificate: str | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client trusts; None where the server speaks plain HTTP."""
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None

    @property
    def api(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/ws"

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def worker_pid(self) -> int:
        """The process that serves, a child of gunicorn's master."""
        return children(self.process.pid)[0]

    def stop(self, timeout: float = 60.0) -> int:
        """Ask it to stop as a platform does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def environment(**environ: str) -> dict[str, str]:
    """Return this process's environment without settings of the service, plus ``environ``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORCHESTRATOR_", "OPENAI_", "ANTHROPIC_"))
        and name not in ("PORT", "WEB_CONCURRENCY", "REDIS_URL", "GUNICORN_CMD_ARGS", "HF_ENDPOINT")
    }
    return kept | {"PYTHONPATH": str(ROOT)} | environ


@contextmanager
def serve(*arguments: str, **environ: str) -> Iterator[Served]:
    """Run gunicorn with settings from ``environ`` while inside."""
    port = int(environ.setdefault("PORT", str(free_port())))
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *arguments],
                cwd=ROOT,
                env=environment(**environ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        served = Served(port, process, log_path, environ.get("ORCHESTRATOR_TLS_CERT"))
        try:
            _await(served)
            yield served
        finally:
            if process.poll() is None:
                # SIGQUIT: at once, without the drain that only some tests are about.
                process.send_signal(signal.SIGQUIT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(served: Served) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if served.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{served.url}/health/live", timeout=5, context=served.tls):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{served.log}")
