"""A Redis of our own: started, killed, paused and started again."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.fakes.asking import eventually
from tests.needs import needs

START_S = 20.0


class RedisServer:
    """One redis-server on a free port of the loopback, its data in ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._command = [
            needs("redis-server"),
            *("--port", str(_free_port()), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--maxmemory-policy", "noeviction", *options),
        ]
        self.port = int(self._command[2])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        # A client beside those under test, for what an operator does.
        self.client = Redis(host="127.0.0.1", port=self.port, protocol=2)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        eventually(self._has_started, START_S)

    def kill(self) -> None:
        """End it as a crash does."""
        self._signal(signal.SIGKILL)
        assert self._process
        self._process.wait()

    def stop(self) -> None:
        """End it as an operator does."""
        self._signal(signal.SIGTERM)
        assert self._process
        self._process.wait()

    def freeze(self) -> None:
        """Have it answer nothing, its connections open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def _has_started(self) -> bool:
        # Its port may be another's for a moment, so it is started until it stays.
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        try:
            return bool(self.client.ping())
        except RedisError:
            return False


@contextmanager
def running(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis of its own while the block lasts."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
