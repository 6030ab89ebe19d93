"""A request and its state machine: what was asked, what became of it, and the legal moves."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

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
    Usage,
)
from orchestrator.tenancy import session_of


class Status(StrEnum):
    """Where a request stands. Nothing leaves a terminal status."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


# Not a set: a member of an enumeration has its hash computed in Python, each time.
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Priority(StrEnum):
    """Which queue a request waits in."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class OnBusy(StrEnum):
    """What a second request in a busy session does."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    PARALLEL = "parallel"


class Reuse(StrEnum):
    """Whether a kept answer may be used (ALLOWED), only written (REFRESH), or neither (NEVER)."""

    ALLOWED = "allowed"
    REFRESH = "no-cache"
    NEVER = "no-store"


class GenerateRequest(NamedTuple):
    """What a client asked for, validated, and whose it is. Times are in seconds.

    A tuple, like Job: a frozen dataclass of as many fields takes ten times as long to make.
    """

    prompt: str
    session_id: str
    model: str
    metadata: Mapping[str, Any]
    timeout_s: float
    queue_timeout_s: float
    priority: Priority = Priority.NORMAL
    stream: bool = False
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    on_busy: OnBusy = OnBusy.ENQUEUE
    reuse: Reuse = Reuse.ALLOWED
    tenant: str = ""

    @property
    def session(self) -> str:
        """The name of its session, unique among all tenants."""
        return session_of(self.tenant, self.session_id)

    def __repr__(self) -> str:
        """Say nothing that the client has said: this may end in a log."""
        return f"GenerateRequest(model={self.model!r}, ...)"


class IllegalMove(Exception):
    """An event came that the request's status does not allow: a bug, not a client's error."""


class Job(NamedTuple):
    """One request at one moment. Times are seconds since the epoch; ids are UUIDv7.

    ``run`` is how many times it was handed to a worker, from 1; ``attempts`` how many times a
    model was asked.
    """

    id: str
    request: GenerateRequest
    created_at: float
    status: Status = Status.PENDING
    backend: str | None = None
    run: int = 1
    attempts: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    cancel_requested_at: float | None = None
    result: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    failed_usage: Usage | None = None
    error: str | None = None
    error_code: str | None = None
    error_stage: str | None = None

    def __repr__(self) -> str:
        """Say neither what was asked nor what was answered: this may end in a log."""
        return f"Job({self.id}, {self.status})"

    @property
    def cached(self) -> bool:
        """Whether its answer is a kept one, for which no model was asked."""
        return self.started_at is not None and self.attempts == 0

    def apply(self, event: Event, at: float) -> "Job":
        """Return the job after ``event``. Raises IllegalMove."""
        match self.status, event:
            case Status.PENDING, Started(backend):
                return self._replace(
                    status=Status.PROCESSING, backend=backend, started_at=at, attempts=1
                )
            case Status.PROCESSING, Token():
                return self if self.first_token_at else self._replace(first_token_at=at)
            case Status.PROCESSING, Restarted(attempt, backend):
                return self.attempt(attempt, backend or self.backend)
        raise IllegalMove(f"{type(event).__name__} after {self.status}")

    def attempt(self, number: int, backend: str | None) -> "Job":
        """Return the job while attempt ``number`` asks ``backend``."""
        return self._replace(attempts=number, backend=backend)

    def end(self, event: Terminal, text: str, at: float, retention_s: float) -> "Job":
        """Return the ended job; ``text`` is what was generated. Raises IllegalMove."""
        if self.status.is_terminal or (
            self.status is Status.PENDING and isinstance(event, Completed)
        ):
            raise IllegalMove(f"{type(event).__name__} after {self.status}")
        always: dict[str, Any] = {
            "failed_usage": event.failed_usage,
            "completed_at": at,
            "expires_at": at + retention_s,
        }
        match event:
            case Completed(finish_reason, usage):
                return self._replace(
                    status=Status.COMPLETED,
                    result=text,
                    finish_reason=finish_reason,
                    usage=usage,
                    **always,
                )
            case Failed(code, message, stage):
                return self._replace(
                    status=Status.FAILED,
                    finish_reason=FinishReason.ERROR,
                    error=message,
                    error_code=code,
                    error_stage=stage,
                    **always,
                )
            case Cancelled():
                return self._replace(
                    status=Status.CANCELLED,
                    result=text or None,
                    finish_reason=FinishReason.CANCELLED,
                    **always,
                )
