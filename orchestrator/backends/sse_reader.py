"""Reads Server-Sent Events out of bytes as they come, by the WHATWG's rules."""

import re
from dataclasses import dataclass

from orchestrator.errors import UpstreamError

MAX_EVENT_BYTES = 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event; ``name`` is ``message`` where the stream gives none."""

    name: str
    data: str


class SSEReader:
    """Bytes go in as they come off the wire, whole events come out.

    ``lines`` counts the lines that have ended so far. A comment is one too, so a growing count
    says that the sender lives. An event that its blank line never ended is dropped, as the rules
    have it.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.lines = 0
        self._limit = max_event_bytes
        self._partial = bytearray()
        self._after_cr = False
        self._name = ""
        self._data = bytearray()

    def feed(self, data: bytes) -> list[ServerSentEvent]:
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
            if event:
                events.append(event)
        self._partial += rest
        self._check(len(self._partial))
        return events

    def _line(self, line: bytes) -> ServerSentEvent | None:
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
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        name, data = self._name, self._data
        self._name, self._data = "", bytearray()
        if not data:
            return None
        return ServerSentEvent(name or "message", data[:-1].decode("utf-8", "replace"))

    def _check(self, more: int) -> None:
        if len(self._data) + more > self._limit:
            raise UpstreamError(
                f"The provider sent an event over {self._limit:,} bytes; that is no answer of a "
                "model.",
                reason="too_large",
            )
