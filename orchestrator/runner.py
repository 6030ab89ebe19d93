"""The engine: one claimed request, from its first token to the end it deserves."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from math import inf
from operator import add

from orchestrator.backends.base import Finish
from orchestrator.errors import (
    DeadlineExceeded,
    NotFound,
    OrchestratorError,
    ResultExpired,
    ShuttingDown,
    UpstreamTruncated,
)
from orchestrator.events import Cancelled, Completed, Failed, Restarted, Terminal, Token, Usage
from orchestrator.job import Job
from orchestrator.routing.base import Attempt, Route
from orchestrator.session import History
from orchestrator.stop import Stopped, StopSignal
from orchestrator.stores.base import Store

logger = logging.getLogger("orchestrator")

Stream = Generator[str | Usage | Attempt | Finish, None, None]

YIELD_EVERY = 32
"""Tokens between two bows to other greenlets: a backend that never waits would starve them."""


@dataclass(eq=False, slots=True)
class _Run:
    """One run of a request in this process; ``number`` is its job's once it is claimed.

    ``spent`` has what each attempt without an answer cost.
    """

    job_id: str
    stop: StopSignal = field(default_factory=StopSignal)
    spent: list[Usage | None] = field(default_factory=lambda: [None])
    number: int | None = None
    deadline: float = inf


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
        self._lock = threading.Lock()
        # By job: one whose lease ran out may be given to this process again before it noticed.
        self._running: dict[str, list[_Run]] = {}

    def run(self, job_id: str, route: Route | None = None) -> Sequence[Job]:
        """Run a pending request to its end. Returns the jobs whose session is free now.

        ``route`` answers in place of the model's own.
        """
        try:
            with self._going_on(_Run(job_id)) as run:
                route = route or self._route_of(self._store.get(job_id).request.model)
                claimed = self._store.claim(job_id, route.name)
                if claimed is None:
                    return ()
                job, history = claimed
                with self._lock:
                    run.number = job.run
                    run.deadline = self._clock() + job.request.timeout_s
                end = self._generate(job, history, route, run)
                if lost := [usage for usage in run.spent if usage]:
                    end = replace(end, failed_usage=reduce(add, lost))
                return self._store.finish(job_id, end, job.run).ready
        except (NotFound, ResultExpired):
            return ()

    def stop(
        self, job_id: str, reason: OrchestratorError | None = None, run: int | None = None
    ) -> None:
        """Stop a request if it runs here: as cancelled, or failed with ``reason``.

        ``run`` names one run of it, where others may go on.
        """
        with self._lock:
            running = [
                going for going in self._running.get(job_id, ()) if run in (None, going.number)
            ]
        for going in running:
            going.stop.request(reason)

    def stop_late(self) -> None:
        """Stop what runs past its deadline. To be called a few times a second."""
        now = self._clock()
        with self._lock:
            late = [run.stop for run in self._all() if run.deadline <= now]
        for stop in late:
            stop.request(
                DeadlineExceeded(
                    "The request ran into its time limit. Allow more with timeout_s, or ask for "
                    "less with max_tokens.",
                    stage="run",
                )
            )

    @property
    def running(self) -> list[tuple[str, int]]:
        """The id and run of each request that was claimed here and has not ended."""
        with self._lock:
            return [(run.job_id, run.number) for run in self._all() if run.number is not None]

    def stop_all(self) -> None:
        """Stop everything that runs here, because the process is about to end."""
        with self._lock:
            running = [run.stop for run in self._all()]
        for stop in running:
            stop.request(ShuttingDown("The server is restarting. Submit the prompt again."))

    def _all(self) -> Iterator[_Run]:
        return (run for runs in self._running.values() for run in runs)

    @contextmanager
    def _going_on(self, run: _Run) -> Iterator[_Run]:
        with self._lock:
            self._running.setdefault(run.job_id, []).append(run)
        try:
            yield run
        finally:
            with self._lock:
                self._running[run.job_id].remove(run)
                if not self._running[run.job_id]:
                    del self._running[run.job_id]

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
            return _failed(OrchestratorError("The server has a fault; its log says more."))

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
        """Tell readers of another attempt where it takes words back; note it otherwise.

        Attempts are counted over all runs: the route knows of this one alone.
        """
        number = job.attempts - 1 + attempt.number
        if has_said:
            goes_on = self._store.append(job.id, Restarted(number, attempt.backend), job.run)
        else:
            goes_on = self._store.attempt(job.id, number, attempt.backend, job.run)
        if not goes_on:
            raise Stopped


def _failed(error: OrchestratorError) -> Failed:
    return Failed(error.code, error.message, error.details.get("stage"))


def _clean(text: str) -> str:
    """Return text that UTF-8 can carry: a model may stop in the middle of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
