"""The default store: one dict of requests in this process's memory, behind one lock."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.allowance import Allowance
from orchestrator.errors import NotFound, PipelineUnavailable, ResultExpired
from orchestrator.events import Cancelled, Completed, Event, Started, Terminal
from orchestrator.ids import created_at
from orchestrator.job import Job, OnBusy, Status
from orchestrator.session import Session, SessionHead
from orchestrator.stores import lists, refusals
from orchestrator.stores.allowances import Allowances
from orchestrator.stores.base import Change, Claim, Idempotency, Listing, LogPage, Place, Submission
from orchestrator.stores.deadlines import Deadlines
from orchestrator.stores.idempotency import Keys, key_bytes
from orchestrator.stores.log import EventLog
from orchestrator.stores.order import OrderedIds
from orchestrator.stores.sessions import SESSION_BYTES, TENANT_BYTES, Sessions
from orchestrator.stores.sizes import request_bytes

SESSIONS_SHARE = 0.5
KEYS_SHARE = 0.25
"""What of the memory idle sessions, and keys, may fill up before results have to go for them."""


@dataclass(slots=True)
class _Entry:
    job: Job
    size: int
    log: EventLog = field(default_factory=EventLog)
    grown: threading.Condition | None = None
    ended: threading.Condition | None = None

    def is_past(self, after: int) -> bool:
        """Whether a reader at a cursor has nothing to wait for."""
        return after < len(self.log) - 1 or self.job.status.is_terminal


class MemoryStore:
    """See stores.base.Store. No transition takes longer the more requests are held, but where it
    ends many: an interrupt those that wait in its session, a sweep those that waited too long.

    ``queue_limit`` counts pending requests; ``retention_s`` runs from a request's end and from
    a session's last use; past ``memory_limit`` bytes ended requests are forgotten first, then
    idle sessions, then idempotency keys, oldest first each, but for sessions and keys beyond
    their share of it. ``clock`` gives seconds since the epoch.
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
        self._orders: dict[str, OrderedIds[str]] = {}
        self._pending: dict[str, _Entry] = {}
        self._deadlines = Deadlines(self._pending)
        self._running: dict[str, _Entry] = {}
        self._ended: deque[str] = deque()
        self._evicted_until = 0.0
        self._sessions = Sessions(retention_s, clock)
        self._keys = Keys(clock)
        self._allowances = Allowances(clock)
        self._size = 0

    @property
    def size(self) -> int:
        """What is held, in bytes, as far as it can be told."""
        return self._size + self._sessions.size + self._keys.size

    # Transitions

    def submit(
        self,
        job: Job,
        idempotency: Idempotency | None = None,
        allowance: Allowance | None = None,
    ) -> Submission:
        request = job.request
        with self._lock:
            if idempotency and (replayed := self._replay(idempotency)):
                return replayed
            if request.on_busy is OnBusy.REJECT:
                self._check_idle(request.session)
            freed = self._waiting(request.session) if request.on_busy is OnBusy.INTERRUPT else ()
            self._check_queue(len(freed))
            history_bytes = 0
            if allowance:
                history_bytes = self._sessions.history(request.session).size
                self._allowances.check(allowance, history_bytes, freed)
            self._sessions.touch(request.session)
            self._admit(job, idempotency)
            if allowance:
                self._allowances.take(job.id, allowance, history_bytes)
            if idempotency:
                self._keys.add(idempotency, job.id, request.session)
            interrupted: tuple[str, ...] = ()
            if request.on_busy is OnBusy.INTERRUPT:
                interrupted = self._interrupt(request.session)
            ready = (job,) if self._sessions.enter(job) else ()
            return Submission(job.id, request.session, ready, interrupted)

    def replay(self, idempotency: Idempotency) -> Submission | None:
        with self._lock:
            return self._replay(idempotency)

    def claim(self, job_id: str, backend: str) -> Claim | None:
        with self._lock:
            entry = self._pending.pop(job_id, None)
            if entry is None:
                return None
            self._running[job_id] = entry
            started = Started(backend)
            entry.job = entry.job.apply(started, self._clock())
            self._log(entry, started)
            return Claim(entry.job, self._sessions.history(entry.job.request.session))

    def append(self, job_id: str, event: Event, run: int = 1) -> bool:
        with self._lock:
            entry = self._going_on(job_id, run)
            if entry is None:
                return False
            entry.job = entry.job.apply(event, self._clock())
            self._log(entry, event)
            self._make_room(0)
            return True

    def attempt(self, job_id: str, number: int, backend: str, run: int = 1) -> bool:
        with self._lock:
            entry = self._going_on(job_id, run)
            if entry is None:
                return False
            entry.job = entry.job.attempt(number, backend)
            return True

    def finish(self, job_id: str, event: Terminal, run: int = 1) -> Change:
        with self._lock:
            entry = self._entry(job_id)
            return self._finish(entry, event) if entry.job.run == run else Change(entry.job, False)

    def cancel(self, job_id: str) -> Change:
        with self._lock:
            return self._cancel(self._entry(job_id))

    def sweep(self) -> Sequence[Change]:
        now = self._clock()
        with self._lock:
            self._forget_expired()
            late = [self._pending[job_id] for job_id in self._deadlines.due(now)]
            return [
                self._finish(entry, refusals.waited_too_long(entry.job.request)) for entry in late
            ]

    def delete(self, job_id: str) -> None:
        with self._lock:
            entry = self._entry(job_id)
            if not entry.job.status.is_terminal:
                raise refusals.live(job_id, entry.job.status)
            self._drop(job_id)

    def delete_session(self, session: str) -> None:
        with self._lock:
            self._sessions.delete(session)

    # Views

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

    def _replay(self, idempotency: Idempotency) -> Submission | None:
        earlier = self._keys.find(idempotency)
        return Submission(earlier.request_id, earlier.session, replayed=True) if earlier else None

    def _entry(self, job_id: str) -> _Entry:
        entry = self._entries.get(job_id)
        if entry and not self._is_expired(entry):
            return entry
        raise refusals.expired(job_id, self._retention_s) if entry else self.absent(job_id)

    def _going_on(self, job_id: str, run: int) -> _Entry | None:
        entry = self._running.get(job_id)
        if entry is None or entry.job.run != run or entry.job.cancel_requested_at is not None:
            return None
        return entry

    def _is_expired(self, entry: _Entry) -> bool:
        return entry.job.expires_at is not None and entry.job.expires_at <= self._clock()

    def _check_idle(self, session: str) -> None:
        active = self._sessions.active(session)
        if active:
            raise refusals.busy(session, active[0])

    def _waiting(self, session: str) -> Sequence[str]:
        """Return those of a session that an interrupt ends at once: their places are free."""
        return [job_id for job_id in self._sessions.active(session) if job_id in self._pending]

    def _check_queue(self, freed: int) -> None:
        if len(self._pending) - freed >= self._queue_limit:
            raise refusals.full(self._queue_limit)

    def _admit(self, job: Job, idempotency: Idempotency | None) -> None:
        size = request_bytes(job.request)
        key_size = key_bytes(idempotency.key) if idempotency else 0
        self._make_room(size + key_size + SESSION_BYTES + TENANT_BYTES)
        self._entries[job.id] = self._pending[job.id] = _Entry(job, size)
        self._size += size
        self._deadlines.add(job.created_at + job.request.queue_timeout_s, job.id)
        self._orders.setdefault(job.request.tenant, OrderedIds()).add(job.id)

    def _interrupt(self, session: str) -> tuple[str, ...]:
        interrupted = self._sessions.active(session)
        # From behind, so that none is given the turn of one before it, only to be ended too.
        for job_id in reversed(interrupted):
            self._cancel(self._entries[job_id])
        return interrupted

    def _cancel(self, entry: _Entry) -> Change:
        if entry.job.status.is_terminal or entry.job.cancel_requested_at is not None:
            return Change(entry.job, False)
        entry.job = entry.job._replace(cancel_requested_at=self._clock())
        if entry.job.status is Status.PENDING:
            return self._finish(entry, Cancelled())
        return Change(entry.job, True)

    def _finish(self, entry: _Entry, event: Terminal) -> Change:
        job_id = entry.job.id
        if entry.job.status.is_terminal:
            return Change(entry.job, False)
        usage = event.usage if isinstance(event, Completed) else None
        if entry.job.cancel_requested_at is not None:
            event = Cancelled(event.failed_usage)
        text = entry.log.text()
        job = entry.job.end(event, text, self._clock(), self._retention_s)
        following = self._sessions.leave(job)
        entry.job = job
        self._allowances.settle(job, text, usage)
        self._pending.pop(job_id, None)
        self._running.pop(job_id, None)
        self._ended.append(job_id)
        self._log(entry, event)
        self._charge(entry, sum(map(sys.getsizeof, filter(None, (job.result, job.error)))))
        if entry.ended:
            entry.ended.notify_all()
        entry.grown = entry.ended = None
        return Change(job, True, (self._entries[following].job,) if following else ())

    def _log(self, entry: _Entry, event: Event) -> None:
        self._charge(entry, entry.log.append(event))
        if entry.grown:
            entry.grown.notify_all()

    def _charge(self, entry: _Entry, size: int) -> None:
        entry.size += size
        self._size += size

    # Forgetting

    def _forget_expired(self) -> None:
        while self._ended:
            entry = self._entries.get(self._ended[0])
            if entry and not self._is_expired(entry):
                break
            self._drop(self._ended.popleft())
        self._keys.drop_expired()
        self._sessions.drop_expired()

    def _make_room(self, size: int) -> None:
        while self.size + size > self._memory_limit:
            if not self._drop_something():
                raise PipelineUnavailable(
                    "Memory is full of requests that still run. Try again later, or raise "
                    "ORCHESTRATOR_MEMORY_LIMIT_MB.",
                    retry_after=5,
                )

    def _drop_something(self) -> bool:
        """Forget one thing; False where only live requests are left."""
        if self._sessions.size > SESSIONS_SHARE * self._memory_limit and (
            self._sessions.drop_oldest()
        ):
            return True
        if self._keys.size > KEYS_SHARE * self._memory_limit:
            return self._keys.drop_oldest()
        if self._ended:
            job_id = self._ended.popleft()
            self._evicted_until = max(self._evicted_until, created_at(job_id) or 0.0)
            self._drop(job_id)
            return True
        return self._sessions.drop_oldest() or self._keys.drop_oldest()

    def _drop(self, job_id: str) -> None:
        entry = self._entries.pop(job_id, None)
        if entry:
            tenant = entry.job.request.tenant
            self._orders[tenant].remove(job_id)
            if not self._orders[tenant]:
                del self._orders[tenant]
            self._size -= entry.size
        if len(self._ended) > 2 * len(self._entries) + 1000:
            self._ended = deque(kept for kept in self._ended if kept in self._entries)
