"""The default store: one dict of requests in this process's memory, behind one lock."""

import sys
import threading
import time
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import (
    DeadlineExceeded,
    IdempotencyKeyReused,
    InProgress,
    NotFound,
    PipelineUnavailable,
    ResultExpired,
    SessionBusy,
)
from orchestrator.events import Cancelled, Completed, Event, Failed, Started, Terminal
from orchestrator.ids import created_at
from orchestrator.job import Job, OnBusy, Status, evolve
from orchestrator.session import History, Session
from orchestrator.stores.base import Change, Idempotency, Listing, LogPage, Submission
from orchestrator.stores.log import EventLog

IDEMPOTENCY_S = 24 * 3600.0
JOB_BYTES = 2_500
"""What an empty request costs here, in bytes: measured, rounded up (benchmarks/memory.py)."""
SESSION_BYTES = 700
KEY_BYTES = 500
SCAN_LIMIT = 10_000
"""How many requests one page of a list looks at: a filter that matches nothing stays quick."""


@dataclass(slots=True)
class _Entry:
    job: Job
    size: int
    log: EventLog = field(default_factory=EventLog)
    grown: threading.Condition | None = None
    ended: threading.Condition | None = None


@dataclass(slots=True)
class _Session:
    """``current`` may run; ``line`` waits behind it, in order of arrival."""

    created_at: float
    last_used_at: float
    history: History = History()
    size: int = SESSION_BYTES
    current: str | None = None
    line: list[str] = field(default_factory=list)

    @property
    def active(self) -> tuple[str, ...]:
        return (self.current, *self.line) if self.current else ()


@dataclass(frozen=True, slots=True)
class _Key:
    fingerprint: bytes
    request_id: str
    session_id: str
    expires_at: float


class MemoryStore:
    """See stores.base.Store. Every transition is O(1) in the number of requests held.

    ``queue_limit`` counts pending requests; ``retention_s`` runs from a request's end and from
    a session's last use; past ``memory_limit`` bytes ended requests are forgotten first, then
    idle sessions, then idempotency keys, oldest first each. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(
        self,
        *,
        queue_limit: int,
        retention_s: float,
        memory_limit: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue_limit = queue_limit
        self._retention_s = retention_s
        self._memory_limit = memory_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._order: list[str] = []
        self._pending: dict[str, _Entry] = {}
        self._running: dict[str, _Entry] = {}
        self._ended: deque[str] = deque()
        self._evicted_until = 0.0
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._size = 0

    # Transitions

    def submit(self, job: Job, idempotency: Idempotency | None = None) -> Submission:
        request = job.request
        with self._lock:
            if idempotency and (earlier := self._earlier(idempotency)):
                return Submission(earlier.request_id, earlier.session_id, replayed=True)
            session = self._sessions.get(request.session_id)
            if request.on_busy is OnBusy.REJECT and session and session.current:
                raise SessionBusy(
                    f"Session {request.session_id} runs request {session.current}. Wait for it, "
                    'cancel it, or submit with on_busy "enqueue", "interrupt" or "parallel".',
                    request_id=session.current,
                )
            self._admit(job, idempotency)
            session = self._use_session(request.session_id)
            if idempotency:
                expires_at = self._clock() + IDEMPOTENCY_S
                self._keys[idempotency.key] = _Key(
                    idempotency.fingerprint, job.id, request.session_id, expires_at
                )
                self._size += KEY_BYTES
            interrupted = self._interrupt(session) if request.on_busy is OnBusy.INTERRUPT else ()
            ready = (job,) if self._take_turn(job, session) else ()
            return Submission(job.id, request.session_id, ready, interrupted)

    def claim(self, job_id: str, backend: str) -> tuple[Job, History] | None:
        with self._lock:
            entry = self._pending.pop(job_id, None)
            if entry is None:
                return None
            self._running[job_id] = entry
            started = Started(backend)
            entry.job = entry.job.apply(started, self._clock())
            self._log(entry, started)
            session = self._sessions.get(entry.job.request.session_id)
            return entry.job, session.history if session else History()

    def append(self, job_id: str, event: Event) -> bool:
        with self._lock:
            entry = self._running.get(job_id)
            if entry is None:
                return False
            entry.job = entry.job.apply(event, self._clock())
            self._log(entry, event)
            if self._size > self._memory_limit:
                self._make_room(0)
            return True

    def finish(self, job_id: str, event: Terminal) -> Change:
        with self._lock:
            return self._finish(self._entry(job_id), event)

    def cancel(self, job_id: str) -> Change:
        with self._lock:
            entry = self._entry(job_id)
            if entry.job.status is Status.PENDING:
                entry.job = evolve(entry.job, cancel_requested_at=self._clock())
                return self._finish(entry, Cancelled())
            return Change(entry.job, self._ask_to_stop(entry))

    def sweep(self) -> Sequence[Change]:
        now = self._clock()
        with self._lock:
            self._forget_expired(now)
            late = [
                entry
                for entry in self._pending.values()
                if entry.job.created_at + entry.job.request.queue_timeout_s <= now
            ]
            return [self._finish(entry, _waited_too_long(entry.job)) for entry in late]

    def delete(self, job_id: str) -> None:
        with self._lock:
            entry = self._entry(job_id)
            if not entry.job.status.is_terminal:
                raise InProgress(
                    f"Request {job_id} is {entry.job.status}. Cancel it first, or wait for its end."
                )
            self._drop(job_id)

    def delete_session(self, session_id: str) -> None:
        with self._lock:
            session = self._session(session_id)
            if session.active:
                raise InProgress(
                    f"Session {session_id} runs request {session.current}. Cancel it first, or "
                    "wait for its end."
                )
            self._size -= self._sessions.pop(session_id).size

    # Views

    def get(self, job_id: str) -> Job:
        with self._lock:
            return self._entry(job_id).job

    def read(self, job_id: str, after: int, limit: int, timeout: float = 0.0) -> LogPage:
        with self._lock:
            entry = self._entry(job_id)
            if timeout > 0 and not entry.job.status.is_terminal and after >= len(entry.log) - 1:
                entry.grown = entry.grown or threading.Condition(self._lock)
                entry.grown.wait(timeout)
            events = entry.log.read(after, limit)
            last = events[-1][0] if events else after
            complete = entry.job.status.is_terminal and last >= len(entry.log) - 1
            return LogPage(events, entry.job, complete)

    def wait(self, job_id: str, timeout: float) -> Job:
        with self._lock:
            entry = self._entry(job_id)
            if timeout > 0 and not entry.job.status.is_terminal:
                entry.ended = entry.ended or threading.Condition(self._lock)
                entry.ended.wait(timeout)
            return entry.job

    def line_position(self, job_id: str) -> int:
        with self._lock:
            session = self._sessions.get(self._entry(job_id).job.request.session_id)
            active = session.active if session else ()
            return active.index(job_id) if job_id in active else 0

    def jobs(
        self, status: Status | None, session_id: str | None, limit: int, cursor: str | None
    ) -> Listing[Job]:
        found: list[Job] = []
        with self._lock:
            end = bisect_left(self._order, cursor) if cursor else len(self._order)
            seen = ""
            for seen in reversed(self._order[max(0, end - SCAN_LIMIT) : end]):
                entry = self._entries.get(seen)
                if entry is None or self._is_expired(entry):
                    continue
                if status and entry.job.status is not status:
                    continue
                if session_id and entry.job.request.session_id != session_id:
                    continue
                found.append(entry.job)
                if len(found) == limit:
                    break
            more = bool(seen) and seen != self._order[0]
        return Listing(found, seen if more else None)

    def session(self, session_id: str) -> Session:
        with self._lock:
            return _view(session_id, self._session(session_id))

    def sessions(self, limit: int, cursor: str | None) -> Listing[Session]:
        with self._lock:
            names = list(reversed(self._sessions))
            begin = names.index(cursor) + 1 if cursor and cursor in self._sessions else 0
            page = names[begin : begin + limit]
            items = [_view(name, self._sessions[name]) for name in page]
        return Listing(items, page[-1] if begin + limit < len(names) else None)

    def live(self) -> Sequence[Job]:
        with self._lock:
            return [entry.job for part in (self._running, self._pending) for entry in part.values()]

    # Inside the lock

    def _entry(self, job_id: str) -> _Entry:
        entry = self._entries.get(job_id)
        if entry and not self._is_expired(entry):
            return entry
        made_at = created_at(job_id)
        old = max(self._clock() - self._retention_s, self._evicted_until)
        if entry or (made_at is not None and made_at <= old):
            raise ResultExpired(
                f"Request {job_id} is no longer kept: results are kept for {self._retention_s:g} "
                "seconds after their end, less when memory is short. Submit the prompt again."
            )
        raise NotFound(f"There is no request {job_id!r}. Use the request_id that a submit gave.")

    def _is_expired(self, entry: _Entry) -> bool:
        return entry.job.expires_at is not None and entry.job.expires_at <= self._clock()

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound(
                f"There is no session {session_id!r}. Sessions are kept for "
                f"{self._retention_s:g} seconds after their last use."
            )
        return session

    def _earlier(self, idempotency: Idempotency) -> _Key | None:
        earlier = self._keys.get(idempotency.key)
        if earlier is None or earlier.expires_at <= self._clock():
            return None
        if earlier.fingerprint != idempotency.fingerprint:
            raise IdempotencyKeyReused(
                "This Idempotency-Key came before with another body. Use a new key for a new "
                "request.",
                request_id=earlier.request_id,
            )
        return earlier

    def _admit(self, job: Job, idempotency: Idempotency | None) -> None:
        if len(self._pending) >= self._queue_limit:
            raise PipelineUnavailable(
                f"{self._queue_limit} requests are waiting already. Try again later.",
                retry_after=5,
            )
        request = job.request
        size = JOB_BYTES + sys.getsizeof(request.prompt) + sys.getsizeof(request.system or "")
        size += sum(100 + sys.getsizeof(value) for value in request.metadata.values())
        self._make_room(size + SESSION_BYTES + (KEY_BYTES if idempotency else 0))
        self._entries[job.id] = self._pending[job.id] = _Entry(job, size)
        self._size += size
        insort(self._order, job.id, lo=max(0, len(self._order) - 1000))

    def _use_session(self, session_id: str) -> _Session:
        now = self._clock()
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = _Session(now, now)
            self._size += session.size
        session.last_used_at = now
        self._sessions.move_to_end(session_id)
        return session

    def _take_turn(self, job: Job, session: _Session) -> bool:
        if job.request.on_busy is OnBusy.PARALLEL:
            return True
        if session.current:
            session.line.append(job.id)
            return False
        session.current = job.id
        return True

    def _interrupt(self, session: _Session) -> tuple[str, ...]:
        interrupted, session.line = session.active, []
        for job_id in interrupted:
            entry = self._entries[job_id]
            if entry.job.status is Status.PENDING:
                self._finish(entry, Cancelled())
            else:
                self._ask_to_stop(entry)
        return interrupted

    def _ask_to_stop(self, entry: _Entry) -> bool:
        if entry.job.status.is_terminal or entry.job.cancel_requested_at:
            return False
        entry.job = evolve(entry.job, cancel_requested_at=self._clock())
        return True

    def _finish(self, entry: _Entry, event: Terminal) -> Change:
        job_id = entry.job.id
        if entry.job.status.is_terminal:
            return Change(entry.job, False)
        text = entry.log.text()
        entry.job = entry.job.end(event, text, self._clock(), self._retention_s)
        self._pending.pop(job_id, None)
        self._running.pop(job_id, None)
        self._ended.append(job_id)
        self._log(entry, event)
        if entry.ended:
            entry.ended.notify_all()
        return Change(entry.job, True, self._leave_session(entry.job, isinstance(event, Completed)))

    def _leave_session(self, job: Job, well: bool) -> tuple[Job, ...]:
        session = self._use_session(job.request.session_id)
        if well:
            session.history = session.history.with_turn(job.request, job.result or "")
            texts = sum(sys.getsizeof(message.content) for message in session.history.messages)
            self._size += SESSION_BYTES + texts - session.size
            session.size = SESSION_BYTES + texts
        if job.id in session.line:
            session.line.remove(job.id)
        if session.current != job.id:
            return ()
        session.current = session.line.pop(0) if session.line else None
        return (self._entries[session.current].job,) if session.current else ()

    def _log(self, entry: _Entry, event: Event) -> None:
        cost = entry.log.append(event)
        entry.size += cost
        self._size += cost
        if entry.grown:
            entry.grown.notify_all()

    # Forgetting

    def _forget_expired(self, now: float) -> None:
        while self._ended:
            entry = self._entries.get(self._ended[0])
            if entry and not self._is_expired(entry):
                break
            self._drop(self._ended.popleft())
        while self._keys and next(iter(self._keys.values())).expires_at <= now:
            self._keys.popitem(last=False)
            self._size -= KEY_BYTES
        for _ in range(len(self._sessions)):
            if next(iter(self._sessions.values())).last_used_at + self._retention_s > now:
                break
            self._drop_oldest_session()

    def _make_room(self, size: int) -> None:
        while self._size + size > self._memory_limit:
            if self._ended:
                job_id = self._ended.popleft()
                self._evicted_until = max(self._evicted_until, created_at(job_id) or 0.0)
                self._drop(job_id)
            elif not self._drop_oldest_session():
                if not self._keys:
                    raise PipelineUnavailable(
                        "Memory is full of requests that still run. Try again later, or raise "
                        "ORCHESTRATOR_MEMORY_LIMIT_MB.",
                        retry_after=5,
                    )
                self._keys.popitem(last=False)
                self._size -= KEY_BYTES

    def _drop_oldest_session(self) -> bool:
        """Drop the session idle for longest; busy ones count as just used. False: none idle."""
        for _ in range(len(self._sessions)):
            session_id, session = next(iter(self._sessions.items()))
            if not session.active:
                self._size -= self._sessions.pop(session_id).size
                return True
            session.last_used_at = self._clock()
            self._sessions.move_to_end(session_id)
        return False

    def _drop(self, job_id: str) -> None:
        entry = self._entries.pop(job_id, None)
        if entry:
            self._size -= entry.size
        if len(self._order) > 2 * len(self._entries) + 1000:
            self._order = [kept for kept in self._order if kept in self._entries]


def _waited_too_long(job: Job) -> Failed:
    error = DeadlineExceeded(
        f"The request waited {job.request.queue_timeout_s:g} seconds and no slot came free. Try "
        "again later, or allow more with queue_timeout_s.",
    )
    return Failed(error.code, error.message, stage="queue")


def _view(session_id: str, session: _Session) -> Session:
    return Session(
        session_id, session.created_at, session.last_used_at, session.history, session.active
    )
