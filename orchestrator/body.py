"""The body of a request as gunicorn reads it, for clients that send slowly, or without end."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import gevent
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException

BODY_TIMEOUT_S = 30.0
"""How long a whole body may take: 1 MiB at 35 KiB/s."""
DRAIN_S = 5.0
"""How long an unwanted body is still read, so that its sender gets to see the answer."""
UNREAD_BYTES = 16 * 1024 * 1024
"""And how much of it."""
STEP = 64 * 1024


class Body:
    """A request's body that must have come by a deadline, however steadily it trickles.

    A body that comes fast pauses now and then, so that it doesn't keep the loop to itself.
    """

    def __init__(self, req: Any) -> None:
        self._req = req
        self.inner = req.body
        self._deadline = time.monotonic() + BODY_TIMEOUT_S
        self._taken = 0

    def read(self, size: int | None = None) -> bytes:
        """Read like gunicorn's body. Raises TimeoutError past the deadline."""
        return self._timed(self.inner.read, size)

    def readline(self, size: int | None = None) -> bytes:
        """Read a line like gunicorn's body. Raises TimeoutError past the deadline."""
        return self._timed(self.inner.readline, size)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """Read all lines."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def drain(self) -> None:
        """Read what the app left. The body fails where that is too much or comes too slowly."""
        if self._left() == 0:
            return
        self._deadline = min(self._deadline, time.monotonic() + DRAIN_S)
        left = UNREAD_BYTES
        with contextlib.suppress(OSError, ParseException):
            while not self.inner.failed and (data := self.read(STEP)):
                left -= len(data)
                if left < 0:
                    self._fail()

    def _left(self) -> int | None:
        """Return how many bytes are still to be read; None where the client has not said."""
        reader = self.inner.reader
        return reader.length if isinstance(reader, LengthReader) else None

    def _is_here(self) -> bool:
        """Whether what is left came along with the head, as most bodies do: no need for a timer."""
        left = self._left()
        return left is not None and left <= self.inner.reader.unreader.buf.getbuffer().nbytes

    def _timed(self, read: Any, size: int | None) -> bytes:
        if self._is_here():
            here: bytes = read(size)
            return here
        if self._taken >= STEP:
            self._taken = 0
            gevent.sleep(0)
        left = self._deadline - time.monotonic()
        try:
            with gevent.Timeout(max(left, 0.001), TimeoutError("the body came too slowly")):
                data: bytes = read(size)
        except BaseException:
            self._fail()
            raise
        self._taken += len(data)
        return data

    def _fail(self) -> None:
        self.inner.failed = True
        self._req.force_close()
