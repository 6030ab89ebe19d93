"""``orchestrator run-scaled``: a Redis, two web processes and two workers, to try it out."""

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.settings import Settings

WEB_PROCESSES = 2
WORKERS = 2
LOOK_S = 0.2
READY_S = 60.0
"""How long the start may take."""
SETTLED_S = 5.0
"""A worker that ends sooner than this after its start is no accident, but wrong."""
HURRY_S = 1.5
"""After this long a worker is told once more to end, and gives back what it runs."""
END_S = 20.0
"""After this long whatever is left is killed."""


@dataclass(slots=True)
class _Part:
    """One process of the service, started again while it is to be there."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    started_at: float


class Scaled:
    """The processes of the service. ``environ`` is theirs, with REDIS_URL in it."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._parts: list[_Part] = []
        self._is_asked = False

    def run(self, web: Sequence[str], worker: Sequence[str], greeting: str) -> int:
        """Run both commands until SIGINT or SIGTERM; return the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        try:
            self._start("web", web)
            for count in range(WORKERS):
                self._start(f"worker {count + 1}", worker)
            return self._keep(greeting)
        finally:
            self._end()

    def _ask(self, number: int, frame: object) -> None:
        self._is_asked = True

    def _start(self, name: str, command: Sequence[str]) -> None:
        # In sessions of their own: Ctrl-C is for this process to pass on, in order.
        process = subprocess.Popen(command, env=self._environ, start_new_session=True)
        self._parts.append(_Part(name, command, process, time.monotonic()))

    def _keep(self, greeting: str) -> int:
        ready_by: float | None = time.monotonic() + READY_S
        while not self._is_asked:
            time.sleep(LOOK_S)
            for part in [part for part in self._parts if part.process.poll() is not None]:
                if not self._replace(part):
                    return 1
            if ready_by and self._is_ready():
                ready_by = None
                _say(greeting)
            elif ready_by and time.monotonic() > ready_by:
                _say(f"The service was not ready in {READY_S:.0f} seconds: see above.\n")
                return 1
        return 0

    def _replace(self, part: _Part) -> bool:
        """Start another process in the place of one that ended; False where that won't help."""
        lived = time.monotonic() - part.started_at
        _say(f"orchestrator: {part.name} ended with code {part.process.returncode}.\n")
        if lived < SETTLED_S or not part.name.startswith("worker"):
            return False
        self._parts.remove(part)
        self._start(part.name, part.command)
        return True

    def _is_ready(self) -> bool:
        # Of this machine, past any proxy, and by TLS with whatever certificate.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),
        )
        try:
            with opener.open(f"{self._settings.address}/health/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _end(self) -> None:
        """Have all end now; requests that run are cut."""
        began = time.monotonic()
        for part in self._parts:
            is_web = part.name == "web"
            part.process.send_signal(signal.SIGINT if is_web else signal.SIGTERM)
        is_hurried = False
        while any(part.process.poll() is None for part in self._parts):
            time.sleep(LOOK_S)
            took = time.monotonic() - began
            if took > END_S:
                for part in self._parts:
                    part.process.kill()
            elif took > HURRY_S and not is_hurried:
                is_hurried = True
                for part in self._parts:
                    part.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Run a Redis while inside, whose data go with it; gives its address. Raises ConfigError."""
    command = shutil.which("redis-server")
    if not command:
        raise ConfigError(
            "redis-server is not installed. Install it (Debian, Ubuntu: apt-get install "
            "redis-server; macOS: brew install redis), or set REDIS_URL to one that runs."
        )
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        options = {
            "--bind": "127.0.0.1",
            "--port": str(port),
            "--dir": folder,
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--maxmemory-policy": "noeviction",
        }
        process = subprocess.Popen(
            [command, *(part for pair in options.items() for part in pair)],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
