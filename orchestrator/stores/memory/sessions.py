"""The memory store's sessions: what was said, whose turn it is, and which are idle."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.job import Job, OnBusy, Status
from orchestrator.session import History, Session, SessionHead
from orchestrator.stores import refusals
from orchestrator.stores.base import Listing, number_of
from orchestrator.stores.memory.order import OrderedIds
from orchestrator.stores.memory.shelf import Shelf
from orchestrator.tenancy import tenant_of

SESSION_BYTES = 600
"""What a session costs beside its messages, in bytes: measured (benchmarks/memory.py)."""
TENANT_BYTES = 680
"""What a tenant costs that has any: measured."""
MESSAGE_BYTES = 64
"""What a message costs beside its text."""


class _Tenant:
    """A tenant's sessions in order of their last use. Uses are numbered, since times may be equal.

    Each tenant has its own numbers: clients see them in cursors, and they tell how busy it was.
    """

    __slots__ = ("_sessions", "_uses")

    def __init__(self) -> None:
        self._uses: OrderedIds[int] = OrderedIds()
        self._sessions: dict[int, _Session] = {}

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def add(self, session: "_Session") -> None:
        """Note the use of a session that is not here."""
        session.used = (self._uses.last or 0) + 1
        self._uses.add(session.used)
        self._sessions[session.used] = session

    def remove(self, session: "_Session") -> None:
        """Take a session out, if it is here."""
        if self._sessions.pop(session.used, None):
            self._uses.remove(session.used)

    def before(self, used: int | None) -> Iterator["_Session"]:
        """Give the sessions whose last use was before one, or all, last used first."""
        return (self._sessions[number] for number in self._uses.before(used))


@dataclass(slots=True)
class _Session:
    """``used`` is the number that its tenant has for its last use; 0 before the first."""

    name: str
    created_at: float
    tenant: _Tenant
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
    """Sessions by name, each tenant's idle ones in order of their last use. Inside a lock.

    A session is busy while it has live requests, and then it is never forgotten. ``size`` is what
    all of them hold, in bytes; ``clock`` gives seconds since the epoch.
    """

    def __init__(self, retention_s: float, clock: Callable[[], float]) -> None:
        self._size = 0
        self._retention_s = retention_s
        self._clock = clock
        self._idle: Shelf[_Session] = Shelf(
            lambda session: session.size, lambda session: session.last_used_at + retention_s
        )
        self._busy: dict[str, _Busy] = {}
        self._tenants: dict[str, _Tenant] = {}

    @property
    def size(self) -> int:
        return self._size + self._idle.overhead

    def enter(self, job: Job) -> bool:
        """Note a new request of a session. Returns whether it may run at once."""
        session_name = job.request.session
        busy = self._busy.get(session_name)
        if busy is None:
            session = self._take_idle(session_name) or self._begin(session_name)
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
            self._put_idle(busy.session)
        return following

    def active(self, session_name: str) -> tuple[str, ...]:
        """Return the live requests of a session, the one whose turn it is first."""
        busy = self._busy.get(session_name)
        return busy.active if busy else ()

    def place(self, job: Job) -> tuple[int, str]:
        """Return how many requests a job waits for in its session, and whose turn it is."""
        busy = self._busy[job.request.session]
        if busy.current is None or job.id not in busy.line:
            return 0, job.id
        return [*busy.line].index(job.id) + 1, busy.current

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
        sessions = self._tenants.get(tenant, _Tenant()).before(number_of(cursor))
        listed = list(islice(sessions, limit))
        following = str(listed[-1].used) if listed and any(True for _ in sessions) else None
        return Listing([self._view(session) for session in listed], following)

    def delete(self, session_name: str) -> None:
        """Forget an idle session. Raises NotFound, InProgress."""
        if active := self.view(session_name).active:
            raise refusals.live_session(session_name, active[0])
        if session := self._take_idle(session_name):
            self._forget(session)

    @contextmanager
    def keeping(self, session_name: str) -> Iterator[None]:
        """Keep an idle session from being forgotten while inside; it counts as just used."""
        session = self._take_idle(session_name)
        try:
            yield
        finally:
            if session:
                self._use(session)
                self._put_idle(session)

    def drop_expired(self) -> None:
        """Forget what was last used longer than the retention ago."""
        for session in self._idle.take_expired(self._clock()):
            self._forget(session)

    def drop_one(self) -> bool:
        """Forget the idle one that is to go first; False where there is none."""
        session = self._idle.take_one()
        if session:
            self._forget(session)
        return session is not None

    def _begin(self, session_name: str) -> _Session:
        name = tenant_of(session_name)
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant()
            self._size += TENANT_BYTES
        self._size += SESSION_BYTES
        return _Session(session_name, self._clock(), tenant)

    def _forget(self, session: _Session) -> None:
        self._size -= session.size
        session.tenant.remove(session)
        if not session.tenant:
            del self._tenants[tenant_of(session.name)]
            self._size -= TENANT_BYTES

    def _find(self, session_name: str) -> _Session | None:
        if busy := self._busy.get(session_name):
            return busy.session
        return self._idle.get(tenant_of(session_name), session_name)

    def _take_idle(self, session_name: str) -> _Session | None:
        return self._idle.take(tenant_of(session_name), session_name)

    def _put_idle(self, session: _Session) -> None:
        self._idle.put(tenant_of(session.name), session.name, session)

    def _use(self, session: _Session) -> None:
        session.tenant.remove(session)
        session.tenant.add(session)
        session.last_used_at = self._clock()

    def _remember(self, session: _Session, job: Job) -> None:
        history = session.history.with_turn(job.request, job.result or "")
        size = SESSION_BYTES + (sys.getsizeof(history.system) if history.system else 0)
        size += sum([MESSAGE_BYTES + sys.getsizeof(turn.content) for turn in history.messages])
        self._size += size - session.size
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
