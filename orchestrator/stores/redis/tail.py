"""The newest tokens of a log, as they are published: most readers need nothing else."""

from collections import deque
from dataclasses import dataclass
from time import monotonic

from orchestrator.events import Event
from orchestrator.job import Job
from orchestrator.stores.base import LogPage
from orchestrator.stores.redis.codec import load_tokens
from orchestrator.stores.redis.hub import Topic

TAIL_BYTES = 64 * 1024
"""How much is kept; who is further behind reads the log itself."""
RECHECK_S = 5.0
"""How long what the messages told is taken for all there is."""


@dataclass(slots=True)
class _Entry:
    """Tokens that were written at once; ``begin`` is the seq before chunk 0."""

    first: int
    count: int
    begin: int
    payload: bytes
    events: list[tuple[int, Event]] | None = None

    def load(self) -> list[tuple[int, Event]]:
        """Return the tokens with their seq."""
        if self.events is None:
            self.events = load_tokens(self.first, self.begin, self.payload)
        return self.events


@dataclass(frozen=True, slots=True)
class Glance:
    """What a tail knows as of ``version``: a page, empty at the end of the log, or nothing."""

    version: int
    page: LogPage | None = None


class LogTail(Topic):
    """The end of one log without gaps, and the job as it was read with it.

    Whatever changes the job makes all of it void: the first token, and events other than tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._end: int | None = None
        self._job: Job | None = None
        self._checked_at = 0.0

    def look(self, after: int, limit: int) -> Glance:
        """Return what a reader at a cursor need not ask Redis for."""
        with self.changed:
            is_known = self.is_live and monotonic() - self._checked_at < RECHECK_S
            if not is_known or self._job is None or self._end is None:
                return Glance(self.version)
            if after >= self._end:
                return Glance(self.version, LogPage((), self._job, False))
            if not self._entries or after + 1 < self._entries[0].first:
                return Glance(self.version)
            events = [
                event
                for entry in self._entries
                if entry.first + entry.count - 1 > after
                for event in entry.load()
                if event[0] > after
            ]
            return Glance(self.version, LogPage(events[:limit], self._job, False))

    def note(self, job: Job, end: int, version: int) -> None:
        """Take what was read of the log since ``version``; ``end`` is the seq of its last event."""
        with self.changed:
            # What has ended is read to its end, and its last page says that nothing follows.
            if version != self.version or job.status.is_terminal:
                return
            if end != self._end:
                self._clear()
                self._end = end
            self._job = job
            self._checked_at = monotonic()

    def _take(self, data: bytes) -> None:
        if data == b"!":
            self._forget()
            return
        head = data.split(b" ", 3)
        entry = _Entry(int(head[0]), int(head[1]), int(head[2]), head[3])
        if entry.first == entry.begin + 1:
            self._forget()
            return
        if self._end is not None and entry.first <= self._end:
            return
        if self._end is None or entry.first != self._end + 1:
            self._clear()
        self._entries.append(entry)
        self._size += len(entry.payload)
        self._end = entry.first + entry.count - 1
        self._checked_at = monotonic()
        while self._size > TAIL_BYTES and len(self._entries) > 1:
            self._size -= len(self._entries.popleft().payload)

    def _forget(self) -> None:
        self._clear()
        self._end = None
        self._job = None

    def _clear(self) -> None:
        self._entries.clear()
        self._size = 0
