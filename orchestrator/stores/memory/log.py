"""The event log of one request in memory."""

import sys
from bisect import bisect_left

from orchestrator.events import Event, Token

ENTRY_BYTES = 16
"""What a token costs beside its text: its place in a list that grows ahead, and rounding up."""


class EventLog:
    """Events by seq, from 0 and without gaps.

    Tokens are kept as bare strings: the garbage collector visits none of them, and a million
    retained tokens cost it nothing. Their chunk numbers follow from where the answer began.
    """

    __slots__ = ("_begins", "_entries")

    def __init__(self) -> None:
        self._entries: list[str | Event] = []
        self._begins: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, event: Event) -> int:
        """Append and return what it costs, in bytes."""
        if isinstance(event, Token):
            self._entries.append(event.text)
            return sys.getsizeof(event.text) + ENTRY_BYTES
        self._begins.append(len(self._entries))
        self._entries.append(event)
        return 80

    def text(self) -> str:
        """Return the answer so far: the tokens since the start or the last restart."""
        begin = self._begins[-1] + 1 if self._begins else 0
        return "".join([entry for entry in self._entries[begin:] if isinstance(entry, str)])

    def read(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Return up to ``limit`` events with a seq greater than ``after``."""
        first = max(after, -1) + 1
        events: list[tuple[int, Event]] = []
        begins = bisect_left(self._begins, first)
        begin = self._begins[begins - 1] if begins else -1
        for seq, entry in enumerate(self._entries[first : first + limit], first):
            if isinstance(entry, str):
                events.append((seq, Token(seq - begin - 1, entry)))
            else:
                begin = seq
                events.append((seq, entry))
        return events
