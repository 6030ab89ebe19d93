"""The engine: runs one claimed request, from its route's tokens to the event that ends its log."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from orchestrator.backends.base import Finish
from orchestrator.errors import (
    DeadlineExceeded,
    InternalError,
    NotFound,
    OrchestratorError,
    ResultExpired,
    ShuttingDown,
    UpstreamTruncated,
)
from orchestrator.events import Cancelled, Completed, Failed, Restarted, Terminal, Token, Usage
from orchestrator.job import Job, Status
from orchestrator.routing.base import Attempt, Route, Stream
from orchestrator.session import History
from orchestrator.stop import Stopped, StopSignal
from orchestrator.stores.base import Store

logger = logging.getLogger("orchestrator")

YIELD_EVERY = 32
"""Tokens between two pauses for other greenlets: a backend that never waits would starve them."""


class NotHere(Exception):
    """A request can't run in this process, which doesn't have its model; others may."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"there is no model {job.request.model!r} here")
        self.job = job


class _Run:
    """One run of a request in this process; ``number`` is its job's once it is claimed.

    ``spent`` has what each attempt without an answer cost.
    """

    __slots__ = ("deadline", "job_id", "number", "spent", "stop")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.stop = StopSignal()
        self.number: int | None = None
        self.deadline = math.inf
        self.spent: list[Usage | None] = [None]


class Runner:
    """Runs requests, and knows which ones run in this process.

    ``route_of`` gives the route of a model; ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        route_of: Callable[[str], Route],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._route_of = route_of
        self._clock = clock
        # Runs of one request may be two: this process may be given again what it was too slow for.
        # Each use of it is one step that no thread can come between.
        self._running: dict[_Run, None] = {}

    def run(self, job_id: str, route: Route | None = None) -> Sequence[Job]:
        """Run a pending request to its end. Returns the jobs whose session is free now.

        ``route`` answers in place of the model's own. Raises NotHere.
        """
        run = _Run(job_id)
        self._running[run] = None
        try:
            route = route or self._route(job_id)
            if route is None:
                return ()
            claimed = self._store.claim(job_id, route.name)
            if claimed is None:
                return ()
            job, history, age_s = claimed
            run.number = job.run
            # One time limit for all runs: whoever is asked now has what is left of it.
            left = job.request.timeout_s - age_s
            run.deadline = self._clock() + left
            job = job._replace(request=job.request._replace(timeout_s=left))
            end = self._generate(job, history, route, run) if left > 0 else _failed(_too_late())
            if lost := [usage for usage in run.spent if usage]:
                end = replace(end, failed_usage=reduce(add, lost))
            return self._end(job, end)
        except (NotFound, ResultExpired):
            return ()
        finally:
            del self._running[run]

    def stop(self, job_id: str, number: int | None = None) -> None:
        """Cancel a request if it runs here; ``number`` names one run of it, if others may go on."""
        for run in list(self._running):
            if run.job_id == job_id and number in (None, run.number):
                run.stop.request()

    def stop_late(self) -> None:
        """Stop what runs past its deadline. To be called a few times a second."""
        now = self._clock()
        for run in list(self._running):
            if run.deadline <= now:
                run.stop.request(_too_late())

    @property
    def running(self) -> list[tuple[str, int]]:
        """The id and run of each request that was claimed here and has not ended."""
        runs = list(self._running)
        return [(run.job_id, run.number) for run in runs if run.number is not None]

    def stop_all(self) -> None:
        """Stop everything that runs here, because the process is about to end."""
        for run in list(self._running):
            run.stop.request(ShuttingDown())

    def _route(self, job_id: str) -> Route | None:
        """Return the route of a request's model; None where it waits no more. Raises NotHere."""
        job = self._store.get(job_id)
        try:
            return self._route_of(job.request.model)
        except KeyError:
            if job.status is Status.PENDING:
                raise NotHere(job) from None
            return None

    def _generate(self, job: Job, history: History, route: Route, run: _Run) -> Terminal:
        stop = run.stop
        try:
            stream = route.stream(job.request, history.conversation(job.request), stop)
            return self._relay(job, stream, run)
        except BaseException as error:
            # All there is: a backend's SystemExit or gevent.Timeout would end a slot of the pool.
            if stop.requested or isinstance(error, Stopped):
                return _failed(stop.reason) if stop.reason else Cancelled()
            if isinstance(error, OrchestratorError):
                logger.warning("request %s failed: %s %s", job.id, error.code, error.details)
                return _failed(error)
            logger.exception("request %s: the backend %s is faulty", job.id, route.name)
            return _failed(InternalError())

    def _end(self, job: Job, end: Terminal) -> Sequence[Job]:
        """End a request; where its answer can't be kept, as failed: its session must go on."""
        try:
            return self._store.finish(job.id, end, job.run).ready
        except OrchestratorError:
            raise
        except Exception:
            logger.exception("request %s: its end could not be kept", job.id)
            return self._store.finish(job.id, _failed(InternalError()), job.run).ready

    def _relay(self, job: Job, stream: Stream, run: _Run) -> Terminal:
        chunk = 0
        try:
            for count, piece in enumerate(stream, 1):
                if isinstance(piece, Usage):
                    # Before a look at the stop: what a cancelled answer cost is paid for too.
                    run.spent[-1] = piece
                    continue
                run.stop.check()
                if isinstance(piece, Finish):
                    run.spent[-1] = None
                    return Completed(piece.reason, piece.usage)
                if isinstance(piece, Attempt):
                    run.spent.append(None)
                    self._begin_anew(job, piece, has_said=chunk > 0)
                    chunk = 0
                    continue
                if not self._store.append(job.id, Token(chunk, _clean(piece)), job.run):
                    raise Stopped
                chunk += 1
                if count % YIELD_EVERY == 0:
                    time.sleep(0)
        finally:
            stream.close()
        raise UpstreamTruncated("The model's answer stopped before its end. Submit it again.")

    def _begin_anew(self, job: Job, attempt: Attempt, has_said: bool) -> None:
        """Write a restart where the new attempt makes words void; otherwise only note it.

        Attempts are counted over all runs, and the route only knows this one.
        """
        number = job.attempts - 1 + attempt.number
        if has_said:
            goes_on = self._store.append(job.id, Restarted(number, attempt.backend), job.run)
        else:
            goes_on = self._store.attempt(job.id, number, attempt.backend, job.run)
        if not goes_on:
            raise Stopped


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The request ran into its time limit. Allow more with timeout_s, or ask for less with "
        "max_tokens.",
        stage="run",
    )


def _failed(error: OrchestratorError) -> Failed:
    return Failed(error.code, error.message, error.details.get("stage"))


def _clean(text: str) -> str:
    """Return text that UTF-8 can carry: a model may stop in the middle of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
