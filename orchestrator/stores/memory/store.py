"""The store in memory: every transition, and what is forgotten when memory is full."""

import sys
import time
from collections.abc import Callable, Sequence

from orchestrator.allowance import Allowance
from orchestrator.errors import PipelineUnavailable
from orchestrator.events import Cancelled, Completed, Event, Started, Terminal
from orchestrator.ids import created_at
from orchestrator.job import Job, OnBusy, Status
from orchestrator.stores import refusals
from orchestrator.stores.base import Change, Claim, Idempotency, Submission
from orchestrator.stores.memory.allowances import Allowances
from orchestrator.stores.memory.idempotency import Keys, key_bytes
from orchestrator.stores.memory.order import OrderedIds
from orchestrator.stores.memory.ranking import Ranking
from orchestrator.stores.memory.sessions import SESSION_BYTES, TENANT_BYTES
from orchestrator.stores.memory.shelf import ROW_BYTES, Shelf
from orchestrator.stores.memory.sizes import request_bytes
from orchestrator.stores.memory.views import Entry, Views

SESSIONS_SHARE = 0.5
KEYS_SHARE = 0.25
"""What of the memory idle sessions, and keys, may fill up before results have to go for them."""


class MemoryStore(Views):
    """See stores.base.Store. No transition takes longer the more requests are held, but where it
    ends many: an interrupt those that wait in its session, a sweep those that waited too long.

    ``queue_limit`` counts pending requests; ``retention_s`` runs from a request's end and from
    a session's last use; past ``memory_limit`` bytes ended requests are forgotten first, then
    idle sessions, then idempotency keys, but for sessions and keys beyond their share of it; of
    each kind first what Shelf says. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        queue_limit: int,
        retention_s: float,
        memory_limit: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(retention_s, clock)
        self._queue_limit = queue_limit
        self._memory_limit = memory_limit
        self._deadlines = Ranking()
        self._ended: Shelf[Entry] = Shelf(
            lambda entry: entry.size, lambda entry: entry.job.expires_at or 0.0
        )
        self._keys = Keys(clock)
        self._allowances = Allowances(clock)
        self._size = 0

    @property
    def size(self) -> int:
        """What is held, in bytes, as far as it can be told."""
        return self._size + self._ended.overhead + self._sessions.size + self._keys.size

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
            with self._sessions.keeping(request.session):
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
            self._deadlines.drop(job_id)
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
        changes: list[Change] = []
        with self._lock:
            self._forget_expired()
            while (job_id := self._deadlines.least(now)) is not None:
                entry = self._pending[job_id]
                changes.append(self._finish(entry, refusals.waited_too_long(entry.job.request)))
        return changes

    def delete(self, job_id: str) -> None:
        with self._lock:
            entry = self._entry(job_id)
            if not entry.job.status.is_terminal:
                raise refusals.live(job_id, entry.job.status)
            self._ended.take(entry.job.request.tenant, job_id)
            self._forget(entry)

    def delete_session(self, session: str) -> None:
        with self._lock:
            self._sessions.delete(session)

    # Inside the lock

    def _replay(self, idempotency: Idempotency) -> Submission | None:
        earlier = self._keys.find(idempotency)
        return Submission(earlier.request_id, earlier.session, replayed=True) if earlier else None

    def _going_on(self, job_id: str, run: int) -> Entry | None:
        entry = self._running.get(job_id)
        if entry is None or entry.job.run != run or entry.job.cancel_requested_at is not None:
            return None
        return entry

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
        self._make_room(size + key_size + SESSION_BYTES + TENANT_BYTES + 3 * ROW_BYTES)
        self._entries[job.id] = self._pending[job.id] = Entry(job, size)
        self._size += size
        self._deadlines.set(job.id, job.created_at + job.request.queue_timeout_s)
        self._orders.setdefault(job.request.tenant, OrderedIds()).add(job.id)

    def _interrupt(self, session: str) -> tuple[str, ...]:
        interrupted = self._sessions.active(session)
        # From behind, so that none is given the turn of one before it, only to be ended too.
        for job_id in reversed(interrupted):
            self._cancel(self._entries[job_id])
        return interrupted

    def _cancel(self, entry: Entry) -> Change:
        if entry.job.status.is_terminal or entry.job.cancel_requested_at is not None:
            return Change(entry.job, False)
        entry.job = entry.job._replace(cancel_requested_at=self._clock())
        if entry.job.status is Status.PENDING:
            return self._finish(entry, Cancelled())
        return Change(entry.job, True)

    def _finish(self, entry: Entry, event: Terminal) -> Change:
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
        self._deadlines.drop(job_id)
        self._running.pop(job_id, None)
        self._log(entry, event)
        self._charge(entry, sum(map(sys.getsizeof, filter(None, (job.result, job.error)))))
        self._ended.put(job.request.tenant, job_id, entry)
        if entry.ended:
            entry.ended.notify_all()
        entry.grown = entry.ended = None
        return Change(job, True, (self._entries[following].job,) if following else ())

    def _log(self, entry: Entry, event: Event) -> None:
        self._charge(entry, entry.log.append(event))
        if entry.grown:
            entry.grown.notify_all()

    def _charge(self, entry: Entry, size: int) -> None:
        entry.size += size
        self._size += size

    # Forgetting

    def _forget_expired(self) -> None:
        for entry in self._ended.take_expired(self._clock()):
            self._forget(entry)
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
            self._sessions.drop_one()
        ):
            return True
        if self._keys.size > KEYS_SHARE * self._memory_limit:
            return self._keys.drop_one()
        if entry := self._ended.take_one():
            self._evicted_until = max(self._evicted_until, created_at(entry.job.id) or 0.0)
            self._forget(entry)
            return True
        return self._sessions.drop_one() or self._keys.drop_one()

    def _forget(self, entry: Entry) -> None:
        job_id, tenant = entry.job.id, entry.job.request.tenant
        del self._entries[job_id]
        self._orders[tenant].remove(job_id)
        if not self._orders[tenant]:
            del self._orders[tenant]
        self._size -= entry.size
