"""Sockets whose waits all share one deadline."""

import io
import socket
import time
from typing import Any


class Clock:
    """What a call waits for now, and until when."""

    def __init__(self, stage: str, seconds: float) -> None:
        self.start(stage, seconds)

    def start(self, stage: str, seconds: float) -> None:
        """Enter ``stage``, or begin it anew."""
        self.stage, self.seconds = stage, seconds
        self._deadline = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self.stage} took more than {self.seconds:g} s")
        return left


class PacedSocket:
    """A socket for http.client whose every wait ends with the clock, not with a time per wait.

    A sender of one byte a second would outlive any time per wait.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self.clock = clock

    def settimeout(self, seconds: float | None) -> None:
        """Ignore it: the clock says."""

    def sendall(self, data: bytes) -> None:
        """Send all of it before the time is over."""
        self._sock.settimeout(self.clock.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader; the socket stays open until it is closed too."""
        return io.BufferedReader(_PacedReader(self._sock, self.clock))

    def close(self) -> None:
        """Close the socket, now or with its last reader."""
        self._sock.close()


class _PacedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._clock = clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())
        count = self._raw.readinto(buffer)
        if count and count == len(buffer) >= io.DEFAULT_BUFFER_SIZE:
            # More comes than is read, so this reader never waits: let others run.
            time.sleep(0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
