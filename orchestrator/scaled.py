"""``orchestrator run-scaled``: a Redis, two web processes and two workers, to try it out."""

import contextlib
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from orchestrator import probe
from orchestrator.errors import ConfigError
from orchestrator.parts import LOOK_S, Parts, say
from orchestrator.settings import Settings

WEB_PROCESSES = 2
WORKERS = 2
READY_S = 60.0
"""How long the start may take."""
HURRY_S = 1.5
"""After this long a worker is told once more to end, and gives back what it runs."""
END_S = 20.0
"""After this long whatever is left is killed."""


class Scaled:
    """The processes of the service. ``environ`` is theirs, with REDIS_URL in it.

    ``redis`` is the command of a Redis to run with them.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], redis: Sequence[str] = ()
    ) -> None:
        self._settings = settings
        self._redis = redis
        # It ends last: those who end have something to write in it.
        self._store = Parts(environ)
        self._service = Parts(environ)

    def run(self, web: Sequence[str], worker: Sequence[str], greeting: str) -> int:
        """Run both commands until a signal comes or the terminal closes; return the exit code."""
        self._service.listen()
        try:
            if self._redis:
                self._store.start("redis", self._redis)
            self._service.start("web", web, signal.SIGINT)
            for count in range(WORKERS):
                self._service.start(f"worker {count + 1}", worker)
            return self._keep(greeting)
        finally:
            self._service.end(HURRY_S, END_S)
            self._store.end(END_S, END_S)

    def _keep(self, greeting: str) -> int:
        ready_by: float | None = time.monotonic() + READY_S
        while not self._service.is_asked:
            time.sleep(LOOK_S)
            is_up = ready_by is None
            if not (self._store.tend(is_up) and self._service.tend(is_up)):
                return 1
            if ready_by and probe.answers(self._settings, "/health/ready"):
                ready_by = None
                say(f"{greeting}{self._processes()}\n")
            elif ready_by and time.monotonic() > ready_by:
                say(f"The service was not ready in {READY_S:.0f} seconds: see above.\n")
                return 1
        return 0

    def _processes(self) -> str:
        """Return which processes there are, and how to see one die."""
        pids = {**self._store.pids, **self._service.pids}
        worker = self._service.pids[f"worker {WORKERS}"]
        lines = [
            f"Processes: {', '.join(f'{name} {pid}' for name, pid in pids.items())}",
            "Kill a worker while it answers, and another one goes on:",
            f"  kill -9 -- -{worker}",
        ]
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def redis() -> Iterator[tuple[str, Sequence[str]]]:
    """Give the address and the command of a Redis whose data are gone afterwards.

    Raises ConfigError.
    """
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
            "--logfile": "log",
        }
        flat = [part for pair in options.items() for part in pair]
        yield f"redis://127.0.0.1:{port}/0", [command, *flat]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
