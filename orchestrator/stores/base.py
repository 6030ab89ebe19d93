"""The port to storage: every transition of a request is one atomic step of a store.

Ids that are not there raise NotFound, or ResultExpired where they are older than the retention.
A store that is out of reach raises PipelineUnavailable, within a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from orchestrator.allowance import Allowance
from orchestrator.errors import NotFound, ResultExpired
from orchestrator.events import Event, Terminal
from orchestrator.job import Job, Priority, Status
from orchestrator.session import History, Session, SessionHead

T = TypeVar("T")

IDEMPOTENCY_S = 24 * 3600.0
"""How long an idempotency key is kept."""
SEEN_S = 30
"""How long a worker counts as there since it was last seen."""
SCAN_LIMIT = 10_000
"""How many requests one page of a list looks at: a filter that matches nothing stays quick."""
LIST_BYTES = 1024 * 1024
"""A page of a list is full when its results have this many bytes."""


def number_of(cursor: str | None) -> int | None:
    """Return the number that a cursor of a list is; None where it is none."""
    is_number = cursor is not None and cursor.isascii() and cursor.isdigit() and len(cursor) < 20
    return int(cursor or 0) if is_number else None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key with the digest of the body that came with it."""

    key: str
    fingerprint: bytes


class Submission(NamedTuple):
    """What became of a submit.

    ``ready`` holds the jobs to hand to the dispatcher now: the new one, unless it waits for its
    session. ``interrupted`` are those it took the place of, for the dispatcher to drop or stop.
    ``replayed`` says that an earlier submit with the same idempotency key is the one that counts.
    """

    request_id: str
    session: str
    ready: tuple[Job, ...] = ()
    interrupted: tuple[str, ...] = ()
    replayed: bool = False


class Claim(NamedTuple):
    """A job that was started, what its session remembers, and how long ago it began to run first.

    ``age_s`` is more than nothing where an earlier run of it was lost or given back.
    """

    job: Job
    history: History
    age_s: float = 0.0


class Change(NamedTuple):
    """What became of a transition; ``ready`` are jobs to hand to the dispatcher now."""

    job: Job
    changed: bool
    ready: tuple[Job, ...] = ()


class Place(NamedTuple):
    """Where a pending job stands: how many of its session are ahead, the running one included.

    ``turn`` is the one there whose turn it is, be it the job itself: its id and its priority. None
    where that one runs.
    """

    ahead: int = 0
    turn: tuple[str, Priority] | None = None


class LogPage(NamedTuple):
    """A piece of an event log: ``(seq, event)`` in order, and the job as it then was.

    ``complete`` says that nothing follows these events. What the job asks may be left out, and its
    result but for a page that is complete: a log is read in many pages.
    """

    events: Sequence[tuple[int, Event]]
    job: Job
    complete: bool


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A page of a list, newest first; ``next_cursor`` is None at its end."""

    items: Sequence[T]
    next_cursor: str | None


class Store(Protocol):
    """Jobs with their logs, sessions, and idempotency keys.

    ``run`` is that of the claimed job, ``Job.run``: what an earlier run of it still writes
    changes nothing.
    """

    def submit(
        self,
        job: Job,
        idempotency: Idempotency | None = None,
        allowance: Allowance | None = None,
    ) -> Submission:
        """Admit a pending job and claim or queue for its session.

        Raises PipelineUnavailable (queue or memory full), SessionBusy, IdempotencyKeyReused, and
        RateLimited where the allowance is used up.
        """
        ...

    def replay(self, idempotency: Idempotency) -> Submission | None:
        """Return what an earlier submit with this key made; None where there was none.

        Raises IdempotencyKeyReused.
        """
        ...

    def claim(self, job_id: str, backend: str) -> Claim | None:
        """Start a pending job; None where it isn't pending any more.

        One that ran before goes on with a restart in its log, where words of it are to be taken
        back.
        """
        ...

    def append(self, job_id: str, event: Event, run: int = 1) -> bool:
        """Append a token or a restart to a running job's log.

        False where it has ended, was asked to stop, or runs elsewhere. What was appended may take
        a moment until others see it. Raises PipelineUnavailable (memory full).
        """
        ...

    def attempt(self, job_id: str, number: int, backend: str, run: int = 1) -> bool:
        """Note that a running job's attempt ``number`` asks ``backend``, its log being as it was.

        For an attempt before the first token; a later one is a Restarted event. False as for
        append.
        """
        ...

    def finish(self, job_id: str, event: Terminal, run: int = 1) -> Change:
        """End a live job. The first end wins; later ones change nothing.

        A job that was asked to stop ends as cancelled, whatever ``event`` is. For a job that was
        claimed here, a store out of reach is waited for; one that another process has claimed, and
        that is not to stop, is that one's to end.
        """
        ...

    def cancel(self, job_id: str) -> Change:
        """End a pending job as cancelled; mark a running one as asked to stop."""
        ...

    def get(self, job_id: str) -> Job:
        """Return the job as it now is."""
        ...

    def absent(self, job_id: str) -> NotFound | ResultExpired:
        """Return the error that an id which is not there would raise."""
        ...

    def read(self, job_id: str, after: int, limit: int, timeout: float = 0.0) -> LogPage:
        """Return events with a seq greater than ``after``.

        Waits up to ``timeout`` seconds for one where the log has none yet and isn't complete.
        """
        ...

    def wait(self, job_id: str, timeout: float) -> Job:
        """Return the job as soon as it has ended, or as it is after ``timeout`` seconds."""
        ...

    def place(self, job_id: str) -> Place:
        """Return where a pending job stands; Place() for any other, unknown ids included."""
        ...

    def jobs(
        self,
        status: Status | None,
        session: str | None,
        limit: int,
        cursor: str | None,
        *,
        tenant: str,
    ) -> Listing[Job]:
        """List a tenant's jobs, newest first; what they ask may be left out.

        A page may be short, even empty, and still have a cursor.
        """
        ...

    def delete(self, job_id: str) -> None:
        """Forget an ended job. Raises InProgress for a live one."""
        ...

    def session(self, session: str) -> Session:
        """Return a session by its name."""
        ...

    def sessions(self, limit: int, cursor: str | None, *, tenant: str) -> Listing[SessionHead]:
        """List a tenant's sessions, last used first."""
        ...

    def delete_session(self, session: str) -> None:
        """Forget a session's conversation. Raises InProgress while it has live requests."""
        ...

    def sweep(self) -> Sequence[Change]:
        """Forget what is past its retention, and fail what waited past its queue timeout."""
        ...

    def live(self) -> Sequence[Job]:
        """Return the jobs that would end with this process."""
        ...


class LeasedStore(Store, Protocol):
    """A store that several processes share: who claims a job has it on a lease.

    A sweep gives those whose lease ran out to others, as it hands out again what the dispatcher
    was never told of: see ``ready`` of its changes.
    """

    def renew(self) -> Sequence[tuple[str, int]]:
        """Renew the leases of all jobs claimed here, well before they run out.

        Returns the id and run of those to stop: asked to, ended by others, or run by others.
        """
        ...

    def give_back(self, job_id: str, run: int) -> Change:
        """Have a job that was claimed here run elsewhere; it ends instead if asked to stop."""
        ...

    def sent(self, job_id: str) -> None:
        """Note that the dispatcher has handed a ready job on.

        A sweep does so again only after 20 s of waiting, and then whenever these have doubled.
        """
        ...

    def pass_on(self, job_id: str) -> None:
        """Note that a ready job can't run where it was handed to.

        A sweep hands it on within seconds, and again whenever its wait has grown by a quarter.
        """
        ...

    def show_worker(self, models: Sequence[str]) -> None:
        """Note that a worker is there, and which models it has."""
        ...

    def served(self) -> frozenset[str]:
        """Return the models of the workers that were there in the last 30 seconds.

        Raises PipelineUnavailable where nothing new can be taken, whoever is there.
        """
        ...

    def position(self, job_id: str, priority: Priority) -> int:
        """Return how many ready jobs are ahead of this one, by priority."""
        ...

    def on_stop(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with the id of each running job that is asked to stop, anywhere.

        Calls may be missed while the store is out of reach; ``renew`` tells of those.
        """
        ...
