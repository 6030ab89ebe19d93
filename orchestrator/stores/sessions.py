"""The memory store's sessions: what was said, whose turn it is, and which are idle."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.job import Job, OnBusy, Status, tenant_of
from orchestrator.session import History, Session, SessionHead
from orchestrator.stores import refusals
from orchestrator.stores.base import Listing
from orchestrator.stores.order import OrderedIds

SESSION_BYTES = 600
"""What a session costs beside its messages, in bytes: measured (benchmarks/memory.py)."""
TENANT_BYTES = 500
"""What a tenant costs that has any: measured."""
MESSAGE_BYTES = 64
"""What a message costs beside its text."""


@dataclass(slots=True)
class _Session:
    """``used`` counts the uses of all sessions: it orders them even where they share a moment.

    ``uses`` are those of all sessions of its tenant, its own among them once it was used.
    """

    name: str
    created_at: float
    uses: OrderedIds[int]
    last_used_at: float = 0.0
    used: int = 0
    size: int = SESSION_BYTES
    history: History = History()


@dataclass(slots=True)
class _Busy:
    """``current`` has the turn, ``line`` waits for it in order, ``beside`` runs in parallel."""

    session: _Session
    current: str | None = None
    line: dict[str, None] = field(default_factory=dict)
    beside: dict[str, None] = field(default_factory=dict)

    @property
    def active(self) -> tuple[str, ...]:
        return (*([self.current] if self.current else []), *self.line, *self.beside)


class Sessions:
    """Sessions by name, the idle ones in order of their last use. To be used inside a lock.

    A session is busy while it has live requests, and then it is never forgotten. ``size`` is what
    all of them hold, in bytes; ``clock`` gives seconds since the epoch.
    """

    def __init__(self, retention_s: float, clock: Callable[[], float]) -> None:
        self.size = 0
        self._retention_s = retention_s
        self._clock = clock
        self._idle: OrderedDict[str, _Session] = OrderedDict()
        self._busy: dict[str, _Busy] = {}
        self._uses = 0
        self._by_use: dict[int, _Session] = {}
        self._tenants: dict[str, OrderedIds[int]] = {}

    def enter(self, job: Job) -> bool:
        """Note a new request of a session. Returns whether it may run at once."""
        session_name = job.request.session
        busy = self._busy.get(session_name)
        if busy is None:
            session = self._idle.pop(session_name, None) or self._begin(session_name)
            busy = self._busy[session_name] = _Busy(session)
        self._use(busy.session)
        if busy.current is None:
            busy.current = job.id
            return True
        if job.request.on_busy is OnBusy.PARALLEL:
            busy.beside[job.id] = None
            return True
        busy.line[job.id] = None
        return False

    def leave(self, job: Job) -> str | None:
        """Note the end of a request. Returns the one whose turn it is now, where that changed."""
        session_name = job.request.session
        busy = self._busy[session_name]
        if job.status is Status.COMPLETED:
            # First, for this alone may fail: then nothing has changed.
            self._remember(busy.session, job)
        self._use(busy.session)
        if busy.current != job.id:
            del (busy.beside if job.id in busy.beside else busy.line)[job.id]
            following = None
        else:
            following = busy.current = next(iter(busy.line), None)
            busy.line.pop(following or "", None)
        if not busy.current and not busy.beside:
            del self._busy[session_name]
            self._idle[session_name] = busy.session
        return following

    def active(self, session_name: str) -> tuple[str, ...]:
        """Return the live requests of a session, the one whose turn it is first."""
        busy = self._busy.get(session_name)
        return busy.active if busy else ()

    def ahead(self, job: Job) -> int:
        """Return how many requests a job waits for in its session."""
        busy = self._busy.get(job.request.session)
        return [*busy.line].index(job.id) + 1 if busy and job.id in busy.line else 0

    def history(self, session_name: str) -> History:
        """Return what a session remembers."""
        session = self._find(session_name)
        return session.history if session else History()

    def view(self, session_name: str) -> Session:
        """Return a session as it now is. Raises NotFound."""
        session = self._find(session_name)
        if session is None:
            raise refusals.unknown_session(session_name, self._retention_s)
        return self._view(session)

    def page(self, limit: int, cursor: str | None, tenant: str) -> Listing[SessionHead]:
        """List a tenant's sessions, last used first."""
        before = int(cursor) if cursor and cursor.isdecimal() and len(cursor) < 20 else None
        uses = self._tenants.get(tenant, OrderedIds[int]()).before(before)
        listed = [self._by_use[used] for used in islice(uses, limit)]
        following = str(listed[-1].used) if listed and any(True for _ in uses) else None
        return Listing([self._view(session) for session in listed], following)

    def delete(self, session_name: str) -> None:
        """Forget an idle session. Raises NotFound, InProgress."""
        session = self.view(session_name)
        if session.active:
            raise refusals.live_session(session_name, session.active[0])
        self._forget(self._idle.pop(session_name))

    def touch(self, session_name: str) -> None:
        """Have an idle session count as just used, so that others are forgotten first."""
        session = self._idle.get(session_name)
        if session:
            self._use(session)
            self._idle.move_to_end(session_name)

    def drop_expired(self) -> None:
        """Forget what was last used longer than the retention ago."""
        now = self._clock()
        while self._idle:
            if next(iter(self._idle.values())).last_used_at + self._retention_s > now:
                return
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Forget the session idle for longest; False where none is idle."""
        if not self._idle:
            return False
        self._forget(self._idle.popitem(last=False)[1])
        return True

    def _begin(self, session_name: str) -> _Session:
        tenant = tenant_of(session_name)
        uses = self._tenants.get(tenant)
        if uses is None:
            uses = self._tenants[tenant] = OrderedIds()
            self.size += TENANT_BYTES
        self.size += SESSION_BYTES
        return _Session(session_name, self._clock(), uses)

    def _forget(self, session: _Session) -> None:
        self.size -= session.size
        session.uses.remove(session.used)
        del self._by_use[session.used]
        if not session.uses:
            del self._tenants[tenant_of(session.name)]
            self.size -= TENANT_BYTES

    def _find(self, session_name: str) -> _Session | None:
        busy = self._busy.get(session_name)
        return busy.session if busy else self._idle.get(session_name)

    def _use(self, session: _Session) -> None:
        if session.used:
            session.uses.remove(session.used)
            del self._by_use[session.used]
        self._uses += 1
        session.used = self._uses
        session.uses.add(session.used)
        self._by_use[session.used] = session
        session.last_used_at = self._clock()

    def _remember(self, session: _Session, job: Job) -> None:
        history = session.history.with_turn(job.request, job.result or "")
        size = SESSION_BYTES + (sys.getsizeof(history.system) if history.system else 0)
        size += sum([MESSAGE_BYTES + sys.getsizeof(turn.content) for turn in history.messages])
        self.size += size - session.size
        session.size, session.history = size, history

    def _view(self, session: _Session) -> Session:
        return Session(
            session.name,
            session.created_at,
            session.last_used_at,
            len(session.history.messages),
            self.active(session.name),
            session.history,
        )
