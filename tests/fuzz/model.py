"""What a store owes, told as simply as it can be: the oracle of the state machine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import (
    IdempotencyKeyReused,
    InProgress,
    NotFound,
    PipelineUnavailable,
    ResultExpired,
    SessionBusy,
)
from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Terminal,
    Token,
)
from orchestrator.ids import created_at
from orchestrator.job import GenerateRequest, OnBusy, Priority, Status
from orchestrator.stores.base import IDEMPOTENCY_S, Idempotency, Place, Submission

LOSSES = 3
DAY_S = 24 * 3600.0
END = {Completed: Status.COMPLETED, Failed: Status.FAILED, Cancelled: Status.CANCELLED}


@dataclass
class Request:
    """One request: what was asked, what its log says, and when it is late or lost."""

    id: str
    asked: GenerateRequest
    created_at: float
    late_at: float
    place: int = 0
    losses: int = 0
    lost_at: float = 0.0
    log: list[Event] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shown = {"status": Status.PENDING, "run": 1, "attempts": 0}

    def __getattr__(self, name: str) -> Any:
        """What a client is shown of it; None for what is not there yet."""
        return self.__dict__["shown"].get(name)

    @property
    def is_live(self) -> bool:
        return self.status in (Status.PENDING, Status.PROCESSING)

    @property
    def said(self) -> list[str]:
        """The pieces since the last event that is no token."""
        pieces: list[str] = []
        for event in self.log:
            pieces = [*pieces, event.text] if isinstance(event, Token) else []
        return pieces


@dataclass
class Talk:
    """A session."""

    created_at: float
    last_used_at: float
    used: int = 0
    system: str | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)
    current: str | None = None
    line: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    @property
    def active(self) -> tuple[str, ...]:
        return (*([self.current] if self.current else []), *self.line, *self.beside)


class Model:
    """All requests, sessions and keys. Its methods are those of a store, and raise the same."""

    def __init__(
        self, clock: Callable[[], float], queue_limit: int, retention_s: float, lease_s: float
    ) -> None:
        self.clock = clock
        self.queue_limit = queue_limit
        self.retention_s = retention_s
        self.lease_s = lease_s
        self.requests: dict[str, Request] = {}
        self.talks: dict[str, Talk] = {}
        self.keys: dict[str, tuple[Idempotency, str, str, float]] = {}
        self._count = 0

    # Looking

    def find(self, request_id: str) -> Request:
        request = self.requests.get(request_id)
        if request and (request.is_live or request.expires_at > self.clock()):
            return request
        made_at = created_at(request_id)
        if request or (made_at is not None and made_at <= self.clock() - self.retention_s):
            raise ResultExpired("")
        raise NotFound("")

    def kept(self) -> list[Request]:
        """The requests that are there, newest first."""
        now = self.clock()
        found = [one for one in self.requests.values() if one.is_live or one.expires_at > now]
        return sorted(found, key=lambda request: request.id, reverse=True)

    def used(self) -> list[str]:
        """The sessions, last used first."""
        return sorted(self.talks, key=lambda name: self.talks[name].used, reverse=True)

    def waiting(self) -> list[Request]:
        return [one for one in self.requests.values() if one.status is Status.PENDING]

    def is_ready(self, request: Request) -> bool:
        """Whether it may be run now."""
        line = self.talks[request.asked.session_id].line if request.is_live else ()
        return request.status is Status.PENDING and request.id not in line

    def position(self, request: Request) -> int:
        """How many ready ones are ahead of a ready one."""
        ranks = list(Priority)

        def rank(one: Request) -> tuple[int, int]:
            return ranks.index(one.asked.priority), one.place

        ready = [one for one in self.waiting() if self.is_ready(one)]
        return sum(rank(one) < rank(request) for one in ready) if request in ready else 0

    def standing(self, request_id: str) -> Place:
        """Where one stands in its session."""
        request = self.requests.get(request_id)
        if request is None or request.status is not Status.PENDING:
            return Place()
        talk = self.talks[request.asked.session_id]
        ahead, first = 0, request
        if request_id in talk.line:
            ahead, first = talk.line.index(request_id) + 1, self.requests[talk.current or ""]
        is_pending = first.status is Status.PENDING
        return Place(ahead, (first.id, first.asked.priority) if is_pending else None)

    # Moving

    def replay(self, key: Idempotency) -> Submission | None:
        found = self.keys.get(key.key)
        if found is None or found[3] <= self.clock():
            return None
        earlier, request_id, session_id, _ = found
        if earlier.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused("")
        return Submission(request_id, session_id, replayed=True)

    def submit(
        self, request_id: str, asked: GenerateRequest, key: Idempotency | None
    ) -> tuple[Submission, list[str]]:
        """Return what a store says, and the ids of those that are ready."""
        if key and (replayed := self.replay(key)):
            return replayed, []
        now, session_id = self.clock(), asked.session_id
        talk = self.talks.get(session_id)
        if talk and talk.active and asked.on_busy is OnBusy.REJECT:
            raise SessionBusy("")
        waiting = self.waiting()
        if asked.on_busy is OnBusy.INTERRUPT:
            # Those of its session end in the same step.
            waiting = [one for one in waiting if one.asked.session_id != session_id]
        if len(waiting) >= self.queue_limit:
            raise PipelineUnavailable("")
        interrupted: tuple[str, ...] = ()
        if talk and asked.on_busy is OnBusy.INTERRUPT:
            interrupted = talk.active
            for other in interrupted:
                self.cancel(other)
        if key:
            self.keys[key.key] = (key, request_id, session_id, now + IDEMPOTENCY_S)
        request = Request(request_id, asked, now, now + asked.queue_timeout_s)
        self.requests[request_id] = request
        talk = self.talks.setdefault(session_id, Talk(now, now))
        self._use(talk)
        ready = [request_id]
        if talk.current is None:
            talk.current = request_id
        elif asked.on_busy is OnBusy.PARALLEL:
            talk.beside.append(request_id)
        else:
            talk.line.append(request_id)
            ready = []
        self._make_ready(ready)
        return Submission(request_id, session_id, (), interrupted), ready

    def claim(self, request_id: str, backend: str) -> Request | None:
        request = self.requests.get(request_id)
        if request is None or not self.is_ready(request):
            return None
        attempts = request.attempts + 1
        if not request.log:
            request.log.append(Started(backend))
        elif request.said:
            request.log.append(Restarted(attempts, backend))
        request.shown |= {
            "status": Status.PROCESSING,
            "backend": backend,
            "attempts": attempts,
            "started_at": request.started_at or self.clock(),
        }
        request.lost_at = self.clock() + self.lease_s
        return request

    def goes_on(self, request_id: str, run: int) -> bool:
        request = self.requests.get(request_id)
        return bool(
            request
            and request.status is Status.PROCESSING
            and request.run == run
            and request.cancel_requested_at is None
        )

    def append(self, request_id: str, event: Token | Restarted) -> None:
        """For one that goes on."""
        request = self.requests[request_id]
        request.log.append(event)
        if isinstance(event, Restarted):
            self.attempt(request_id, event.attempt, event.backend)
        elif request.first_token_at is None:
            request.shown["first_token_at"] = self.clock()

    def attempt(self, request_id: str, number: int, backend: str | None) -> None:
        """For one that goes on."""
        request = self.requests[request_id]
        request.shown |= {"attempts": number, "backend": backend or request.backend}

    def finish(
        self, request_id: str, event: Terminal, run: int, is_here: bool = True
    ) -> tuple[bool, list[str]]:
        """Return whether it changed anything, and whose turn it is now.

        ``is_here`` says whether the process that ends it is the one that runs it, if any does.
        """
        request = self.find(request_id)
        if not request.is_live or request.run != run:
            return False, []
        is_wanted = request.status is Status.PROCESSING and request.cancel_requested_at is None
        if is_wanted and not is_here:
            return False, []
        return True, self._finish(request, event)

    def cancel(self, request_id: str) -> tuple[bool, list[str]]:
        """Return whether it changed anything, and whose turn it is now."""
        request = self.find(request_id)
        if not request.is_live or request.cancel_requested_at is not None:
            return False, []
        request.shown["cancel_requested_at"] = self.clock()
        waits = request.status is Status.PENDING
        return True, self._finish(request, Cancelled()) if waits else []

    def delete(self, request_id: str) -> None:
        if self.find(request_id).is_live:
            raise InProgress("")
        del self.requests[request_id]

    def delete_session(self, session_id: str) -> None:
        if session_id not in self.talks:
            raise NotFound("")
        if self.talks[session_id].active:
            raise InProgress("")
        del self.talks[session_id]

    def sweep(self, order: list[str]) -> dict[str, list[str]]:
        """Return the ids of those that change, with those whose turn it is then.

        What ends in the same moment may end in any order: ``order`` is the one to follow.
        """
        now = self.clock()
        for request in list(self.requests.values()):
            if not request.is_live and request.expires_at <= now:
                del self.requests[request.id]
        for name, talk in list(self.talks.items()):
            if not talk.active and talk.last_used_at + self.retention_s <= now:
                del self.talks[name]
        late = [one for one in self.waiting() if one.late_at <= now]
        lost = [
            one
            for one in self.requests.values()
            if one.status is Status.PROCESSING and one.lost_at <= now
        ]
        changes: dict[str, list[str]] = {}
        for one in sorted([*late, *lost], key=lambda one: [*order, one.id].index(one.id)):
            event = Failed("DEADLINE_EXCEEDED", "", "queue")
            changes[one.id] = self._finish(one, event) if one in late else self._lose(one)
        return changes

    def give_back(self, request_id: str, run: int) -> tuple[bool, list[str]]:
        """Return whether it changed anything, and whose turn it is now."""
        request = self.find(request_id)
        if request.status is not Status.PROCESSING or request.run != run:
            return False, []
        return True, self._requeue(request)

    def renew(self, request_id: str, run: int) -> bool:
        """Return whether it may go on."""
        request = self.requests.get(request_id)
        if request and request.status is Status.PROCESSING and request.run == run:
            request.lost_at = self.clock() + self.lease_s
        return self.goes_on(request_id, run)

    # Inside

    def _lose(self, request: Request) -> list[str]:
        request.losses += 1
        if request.losses >= LOSSES:
            return self._finish(request, Failed("WORKER_LOST", ""))
        return self._requeue(request)

    def _requeue(self, request: Request) -> list[str]:
        if request.cancel_requested_at is not None:
            return self._finish(request, Cancelled())
        request.shown |= {"status": Status.PENDING, "run": request.run + 1}
        request.late_at = self.clock() + request.asked.queue_timeout_s
        return [request.id]

    def _finish(self, request: Request, event: Terminal) -> list[str]:
        if request.cancel_requested_at is not None:
            event = Cancelled(event.failed_usage)
        text = "".join(request.said)
        request.log.append(event)
        now = self.clock()
        request.shown |= {
            "status": END[type(event)],
            "completed_at": now,
            "expires_at": now + self.retention_s,
            "failed_usage": event.failed_usage,
        }
        talk = self.talks[request.asked.session_id]
        match event:
            case Completed(reason, usage):
                request.shown |= {"finish_reason": reason, "usage": usage, "result": text}
                talk.turns.append((request.asked.prompt, text))
                talk.system = request.asked.system or talk.system
            case Failed(code, _, stage):
                request.shown |= {"error_code": code, "error_stage": stage}
                request.shown["finish_reason"] = FinishReason.ERROR
            case Cancelled():
                request.shown["finish_reason"] = FinishReason.CANCELLED
                request.shown["result"] = text or None
        return self._leave(talk, request.id)

    def _leave(self, talk: Talk, request_id: str) -> list[str]:
        self._use(talk)
        if talk.current != request_id:
            (talk.beside if request_id in talk.beside else talk.line).remove(request_id)
            return []
        talk.current = talk.line.pop(0) if talk.line else None
        following = [talk.current] if talk.current else []
        self._make_ready(following)
        return following

    def _make_ready(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._count += 1
            self.requests[request_id].place = self._count

    def _use(self, talk: Talk) -> None:
        self._count += 1
        talk.used, talk.last_used_at = self._count, self.clock()


def events_after(request: Request, after: int, limit: int) -> Iterator[tuple[int, Event]]:
    """Yield what a page of a log has."""
    start = max(after, -1) + 1
    yield from list(enumerate(request.log))[start : start + limit]
