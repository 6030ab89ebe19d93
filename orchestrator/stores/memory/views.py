"""All reads of the store in memory, and the waits for what is new."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import NotFound, ResultExpired
from orchestrator.ids import created_at
from orchestrator.job import Job, Status
from orchestrator.session import Session, SessionHead
from orchestrator.stores import refusals
from orchestrator.stores.base import Listing, LogPage, Place
from orchestrator.stores.memory import lists
from orchestrator.stores.memory.log import EventLog
from orchestrator.stores.memory.order import OrderedIds
from orchestrator.stores.memory.sessions import Sessions


@dataclass(slots=True)
class Entry:
    """A request with its log, its size in bytes, and who waits for it to grow or end."""

    job: Job
    size: int
    log: EventLog = field(default_factory=EventLog)
    grown: threading.Condition | None = None
    ended: threading.Condition | None = None

    def is_past(self, after: int) -> bool:
        """Whether a reader at a cursor has nothing to wait for."""
        return after < len(self.log) - 1 or self.job.status.is_terminal


class Views:
    """The half of the store that changes nothing; see MemoryStore for what it is made with."""

    def __init__(self, retention_s: float, clock: Callable[[], float]) -> None:
        self._retention_s = retention_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._orders: dict[str, OrderedIds[str]] = {}
        self._pending: dict[str, Entry] = {}
        self._running: dict[str, Entry] = {}
        self._evicted_until = 0.0
        self._sessions = Sessions(retention_s, clock)

    def get(self, job_id: str) -> Job:
        # One look, which needs no lock: an entry's job is always whole.
        return self._entry(job_id).job

    def absent(self, job_id: str) -> NotFound | ResultExpired:
        made_at = created_at(job_id)
        old = max(self._clock() - self._retention_s, self._evicted_until)
        if made_at is not None and made_at <= old:
            return refusals.expired(job_id, self._retention_s)
        return refusals.unknown(job_id)

    def read(self, job_id: str, after: int, limit: int, timeout: float = 0.0) -> LogPage:
        with self._lock:
            entry = self._entry(job_id)
            if timeout > 0 and not entry.is_past(after):
                grown = entry.grown = entry.grown or threading.Condition(self._lock)
                grown.wait_for(lambda: entry.is_past(after), timeout)
            events = entry.log.read(after, limit)
            last = events[-1][0] if events else after
            complete = entry.job.status.is_terminal and last >= len(entry.log) - 1
            return LogPage(events, entry.job, complete)

    def wait(self, job_id: str, timeout: float) -> Job:
        with self._lock:
            entry = self._entry(job_id)
            if timeout > 0 and not entry.job.status.is_terminal:
                ended = entry.ended = entry.ended or threading.Condition(self._lock)
                ended.wait_for(lambda: entry.job.status.is_terminal, timeout)
            return entry.job

    def place(self, job_id: str) -> Place:
        with self._lock:
            entry = self._pending.get(job_id)
            if entry is None:
                return Place()
            ahead, first = self._sessions.place(entry.job)
            turn = self._pending.get(first)
            return Place(ahead, (first, turn.job.request.priority) if turn else None)

    def jobs(
        self,
        status: Status | None,
        session: str | None,
        limit: int,
        cursor: str | None,
        *,
        tenant: str,
    ) -> Listing[Job]:
        def find(job_id: str) -> Job | None:
            entry = self._entries[job_id]
            job = entry.job
            is_wanted = (not status or job.status is status) and (
                not session or job.request.session == session
            )
            return job if is_wanted and not self._is_expired(entry) else None

        with self._lock:
            return lists.page(self._orders.get(tenant) or OrderedIds(), cursor, limit, find)

    def session(self, session: str) -> Session:
        with self._lock:
            return self._sessions.view(session)

    def sessions(self, limit: int, cursor: str | None, *, tenant: str) -> Listing[SessionHead]:
        with self._lock:
            return self._sessions.page(limit, cursor, tenant)

    def live(self) -> Sequence[Job]:
        with self._lock:
            return [entry.job for part in (self._running, self._pending) for entry in part.values()]

    # Inside the lock

    def _entry(self, job_id: str) -> Entry:
        entry = self._entries.get(job_id)
        if entry and not self._is_expired(entry):
            return entry
        raise refusals.expired(job_id, self._retention_s) if entry else self.absent(job_id)

    def _is_expired(self, entry: Entry) -> bool:
        return entry.job.expires_at is not None and entry.job.expires_at <= self._clock()
