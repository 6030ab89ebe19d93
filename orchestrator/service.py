"""All that a door may ask: submit, get, wait, follow, cancel, list, sessions, drain."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from orchestrator.allowance import Allowance
from orchestrator.dispatch.base import Dispatcher
from orchestrator.errors import (
    NotFound,
    PipelineUnavailable,
    Restarting,
    ResultExpired,
    ShuttingDown,
)
from orchestrator.events import Failed
from orchestrator.housekeeping import SWEEP_S, Housekeeping
from orchestrator.ids import new_id
from orchestrator.job import GenerateRequest, Job, Status
from orchestrator.routing.base import Route
from orchestrator.session import History, Message, Session, SessionHead
from orchestrator.stores.base import Change, Idempotency, Listing, LogPage, Store, Submission
from orchestrator.tenancy import quoted, session_of

logger = logging.getLogger("orchestrator")

T = TypeVar("T")

BATCH = 256
"""Events a reader is handed at once, at most."""
START = -1
"""The cursor before the first event of a log."""
RETRY_S = 0.5
"""How often to ask a store that is out of reach while following a request."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that requests may name.

    ``check`` raises PipelineUnavailable while nothing answers for it; ``recall`` gives the kept
    answer to a conversation, as a route, and is None where no answers are kept.
    """

    id: str
    backend: str
    check: Callable[[], None] = lambda: None
    recall: Callable[[GenerateRequest, Sequence[Message]], Route | None] | None = None


class Service:
    """The rules, over a store and a dispatcher.

    Each call names the caller's tenant, and sees nothing of other tenants. The tenant is "" where
    callers are not asked who they are. It has no default, so that a forgotten tenant is an error,
    not everybody's data.

    ``close`` ends what answers in this process, once nothing runs any more.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        models: Sequence[Model],
        sweep_s: float = SWEEP_S,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.models = models
        self._models = {model.id: model for model in models}
        self._store = store
        self._dispatcher = dispatcher
        self._sweep_s = sweep_s
        self._close = close
        self._draining = threading.Event()

    def start(self) -> None:
        """Start what runs beside the doors. To be called once, in the process that serves."""
        self._dispatcher.start()
        Housekeeping(self._store, self._dispatcher, self._sweep_s).start()

    @property
    def is_draining(self) -> bool:
        """Whether the service is about to stop and takes nothing new."""
        return self._draining.is_set()

    def check(self) -> None:
        """Raise PipelineUnavailable while nothing new can be taken."""
        if self.is_draining:
            raise Restarting
        self._dispatcher.check()

    def submit(
        self,
        request: GenerateRequest,
        idempotency: Idempotency | None = None,
        *,
        tenant: str,
        allow: Callable[[], Allowance | None] = lambda: None,
    ) -> Submission:
        """Accept a request; it runs whether or not anyone waits.

        ``allow`` counts it, and returns what its caller may have: not asked for a submit that is
        only repeated, which costs nothing and is never refused. Raises PipelineUnavailable,
        SessionBusy, IdempotencyKeyReused, RateLimited.
        """
        if tenant:
            request = request._replace(tenant=tenant)
            if idempotency:
                idempotency = replace(idempotency, key=f"{quoted(tenant)} {idempotency.key}")
        if idempotency and (earlier := self._store.replay(idempotency)):
            return earlier
        self._check(request)
        job = Job(id=new_id(), request=request, created_at=time.time())
        submission = self._store.submit(job, idempotency, allow())
        for interrupted in submission.interrupted:
            self._dispatcher.cancel(interrupted)
        for ready in submission.ready:
            if recorded := self._recall(ready.request):
                self._dispatcher.run(ready.id, recorded)
            else:
                self._dispatcher.put(ready)
        return submission

    def caches(self, model: str) -> bool:
        """Whether answers of a model are kept."""
        return model in self._models and self._models[model].recall is not None

    def get(self, job_id: str, tenant: str) -> Job:
        """Return a request. Raises NotFound, ResultExpired."""
        return self._own(self._store.get(job_id), tenant)

    def wait(self, job_id: str, timeout: float, tenant: str) -> Job:
        """Return a request once it has ended, or as it is after ``timeout`` seconds."""
        return self._own(self._store.wait(job_id, timeout), tenant)

    def queue_position(self, job: Job) -> int | None:
        """Return how many requests are ahead of a pending one; None for any other.

        For a later turn of a session that is those before it in the session, and those before the
        session's next one.
        """
        if job.status is not Status.PENDING:
            return None
        ahead, turn = self._store.place(job.id)
        return ahead + (self._dispatcher.position(*turn) if turn else 0)

    def cancel(self, job_id: str, tenant: str) -> Change:
        """Cancel: a pending request ends at once, a running one as soon as it can be stopped."""
        self.get(job_id, tenant)
        change = self._store.cancel(job_id)
        if change.changed:
            self._dispatcher.cancel(job_id)
            for job in change.ready:
                self._dispatcher.put(job)
        return change

    def read(
        self,
        job_id: str,
        after: int,
        limit: int = BATCH,
        timeout: float = 0.0,
        *,
        tenant: str,
    ) -> LogPage:
        """Return events after a cursor, waiting up to ``timeout`` seconds for the first."""
        page = self._store.read(job_id, after, limit, timeout)
        self._own(page.job, tenant)
        return page

    def resume(
        self, job_id: str, after: int, limit: int = BATCH, *, tenant: str
    ) -> tuple[int, LogPage]:
        """Return a client's cursor and the events after it.

        A cursor that is ahead of a log which still grows means from the start.
        """
        if after > START:
            # With the event at the cursor, which shows that the log has come so far.
            page = self.read(job_id, after - 1, limit + 1, tenant=tenant)
            if page.events or page.job.status.is_terminal:
                return after, page._replace(events=page.events[1:])
        return START, self.read(job_id, START, limit, tenant=tenant)

    def follow(
        self, job_id: str, after: int, pause: float, tenant: str
    ) -> Iterator[LogPage | None]:
        """Yield pages of events after a cursor; the last one is complete.

        None says that ``pause`` seconds passed with nothing to tell: a store that is out of reach
        is waited for.
        """
        while True:
            read = partial(self._store.read, job_id, after, BATCH)
            page = _patiently(read, pause)
            if page:
                self._own(page.job, tenant)
            if page is None or not (page.events or page.complete):
                yield None
                continue
            if page.events:
                after = page.events[-1][0]
            yield page
            if page.complete:
                return

    def await_end(self, job_id: str, pause: float, tenant: str) -> Iterator[Job | None]:
        """Yield the request once it has ended, and None for every ``pause`` until then."""
        while True:
            job = _patiently(partial(self._store.wait, job_id), pause)
            if job and self._own(job, tenant) and job.status.is_terminal:
                yield job
                return
            yield None

    def jobs(
        self,
        status: Status | None = None,
        session_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        tenant: str,
    ) -> Listing[Job]:
        """List a tenant's requests, newest first."""
        session = session_of(tenant, session_id) if session_id else None
        return self._store.jobs(status, session, limit, cursor, tenant=tenant)

    def delete(self, job_id: str, tenant: str) -> None:
        """Forget an ended request. Raises InProgress for a live one."""
        self.get(job_id, tenant)
        self._store.delete(job_id)

    def session(self, session_id: str, tenant: str) -> Session:
        """Return a session with its messages. Raises NotFound."""
        return self._store.session(session_of(tenant, session_id))

    def sessions(
        self, limit: int = 50, cursor: str | None = None, *, tenant: str
    ) -> Listing[SessionHead]:
        """List a tenant's sessions, last used first."""
        return self._store.sessions(limit, cursor, tenant=tenant)

    def delete_session(self, session_id: str, tenant: str) -> None:
        """Forget a session's conversation. Raises NotFound, InProgress."""
        self._store.delete_session(session_of(tenant, session_id))

    def drain(self, timeout: float) -> bool:
        """Take nothing new, let live requests end for ``timeout`` seconds, then end the rest.

        Returns whether there were any.
        """
        self._draining.set()
        try:
            had_some = bool(self._store.live())
            deadline = time.monotonic() + timeout
            while self._store.live() and time.monotonic() < deadline:
                time.sleep(0.05)
            self._dispatcher.stop_all()
            self._end_the_rest()
        finally:
            self._close()
        return had_some

    def _end_the_rest(self) -> None:
        """End what is live, also what was just being accepted; each is tried once."""
        reason = ShuttingDown()
        end = Failed(reason.code, reason.message)
        tried: set[str] = set()
        while left := [job for job in self._store.live() if job.id not in tried]:
            for job in left:
                tried.add(job.id)
                # One that ended by itself may be gone by now, and so may the store.
                with contextlib.suppress(NotFound, ResultExpired, PipelineUnavailable):
                    self._store.finish(job.id, end, job.run)
            logger.warning("%d requests ended by the restart", len(left))

    def _own(self, job: Job, tenant: str) -> Job:
        """Return a tenant's request; for another tenant's, raise as if it had never been."""
        if job.request.tenant != tenant:
            raise self._store.absent(job.id)
        return job

    def _check(self, request: GenerateRequest) -> None:
        """Raise PipelineUnavailable where nothing new is taken: while the server stops, or while
        nothing answers for the model and no answer is kept.
        """
        self.check()
        if model := self._models.get(request.model):
            try:
                model.check()
                self._dispatcher.check(request.model)
            except PipelineUnavailable:
                if not self._recall(request):
                    raise

    def _recall(self, request: GenerateRequest) -> Route | None:
        """Return the kept answer to a request, if its turn in its session were now."""
        model = self._models.get(request.model)
        if model is None or model.recall is None:
            return None
        try:
            history = self._store.session(request.session).history
        except NotFound:
            history = History()
        except PipelineUnavailable:
            # What was accepted is never refused: it is run as if nothing were kept.
            return None
        return model.recall(request, history.conversation(request))


def _patiently(ask: Callable[[float], T], pause: float) -> T | None:
    """Ask with the seconds left of ``pause``, again and again while the store is out of reach."""
    deadline = time.monotonic() + pause
    left = pause
    while True:
        try:
            return ask(left)
        except PipelineUnavailable:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(RETRY_S, left))
            left = max(0.0, deadline - time.monotonic())
