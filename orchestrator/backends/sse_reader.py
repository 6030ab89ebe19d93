"""Reads Server-Sent Events out of bytes as they come, by the WHATWG's rules."""

import re

from orchestrator.errors import UpstreamError

MAX_EVENT_BYTES = 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SSEReader:
    """Bytes go in as they come off the wire, whole events come out: the data of each.

    An event's name is left out: those who send one say the same in the data.

    ``lines`` counts the lines that have ended so far. A comment is one too, so a growing count
    says that the sender lives. An event that its blank line never ended is dropped, as the rules
    have it.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.lines = 0
        self._limit = max_event_bytes
        self._partial = bytearray()
        self._after_cr = False
        self._data = bytearray()

    def feed(self, data: bytes) -> list[str]:
        """Return the events that ``data`` completes.

        Raises UpstreamError for a line or an event over the limit.
        """
        if self._after_cr and data.startswith(b"\n"):
            data, self._after_cr = data[1:], False
        if data:
            self._after_cr = data.endswith(b"\r")
        *ended, rest = _LINE_END.split(data)
        events = []
        for piece in ended:
            self._partial += piece
            event = self._line(bytes(self._partial))
            self._partial.clear()
            if event is not None:
                events.append(event)
        self._partial += rest
        self._check(len(self._partial))
        return events

    def _line(self, line: bytes) -> str | None:
        if not self.lines:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self.lines += 1
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value + b"\n"
            self._check(0)
        return None

    def _dispatch(self) -> str | None:
        data, self._data = self._data, bytearray()
        return data[:-1].decode("utf-8", "replace") if data else None

    def _check(self, more: int) -> None:
        if len(self._data) + more > self._limit:
            raise UpstreamError(
                f"The provider sent an event over {self._limit:,} bytes; that is no answer of a "
                "model.",
                reason="too_large",
            )
