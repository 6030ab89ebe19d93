"""The in-process dispatcher: a bounded pool of threads that take the requests that wait in turn.

Under gevent the threads are greenlets: right for backends that wait on a socket.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping

from orchestrator.dispatch.line import Line, Turn
from orchestrator.job import Job, Priority
from orchestrator.routing.base import Gate, Route
from orchestrator.runner import Runner

logger = logging.getLogger("orchestrator")

YIELD_EVERY = 32
"""Jobs between two pauses for other greenlets, where no job waits for anything."""
TICK_S = 0.1
"""How often deadlines are looked at, and targets that were to be left alone."""


class Pool:
    """Runs at most ``concurrency`` requests at once. ``clock`` gives monotonic seconds.

    A request whose model's gate, in ``gates``, has no room for it waits, and others pass it.
    """

    def __init__(
        self,
        runner: Runner,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        gates: Mapping[str, Gate] | None = None,
    ) -> None:
        self._runner = runner
        self._concurrency = concurrency
        self._clock = clock
        self._lock = threading.Lock()
        # Less than a condition: whoever waits for one makes a lock for it.
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._line = Line(gates or {})
        self._threads = 0
        self._idle = 0
        self._one_comes = False
        for gate in (gates or {}).values():
            gate.watch(self._look)

    def start(self) -> None:
        threading.Thread(target=self._watch_deadlines, name="deadlines", daemon=True).start()

    def check(self, model: str | None = None) -> None:
        """What is put here always runs."""

    def put(self, job: Job) -> None:
        with self._lock:
            self._line.put(job, self._clock())
            grows = self._call_one()
        if grows:
            self._grow()

    def run(self, job_id: str, route: Route | None = None) -> None:
        for job in self._runner.run(job_id, route):
            self.put(job)

    def cancel(self, job_id: str) -> None:
        with self._lock:
            if self._line.drop(job_id):
                return
        self._runner.stop(job_id)

    def position(self, job_id: str, priority: Priority) -> int:
        with self._lock:
            return self._line.position(job_id, priority)

    def stop_all(self) -> None:
        self._runner.stop_all()

    def _look(self) -> None:
        """Wake a thread where a waiting request may start by now."""
        if not self._line:
            return
        with self._lock:
            grows = self._call_one()
        if grows:
            self._grow()

    def _call_one(self) -> bool:
        """Have a thread come for what waits. Returns whether it is to be started first.

        One at a time, and who comes calls the next: of many jobs that end at once, one thread
        takes one after the other, without a switch between threads for each.
        """
        if self._one_comes or not self._line.can_go_on:
            return False
        if self._idle:
            self._idle -= 1
            self._one_comes = True
            self._calls.put(None)
            return False
        if self._threads == self._concurrency:
            return False
        self._threads += 1
        self._one_comes = True
        return True

    def _grow(self) -> None:
        try:
            threading.Thread(target=self._work, name="pool", daemon=True).start()
        except RuntimeError:
            # No thread more to be had: what waits is for one of those there are.
            with self._lock:
                self._threads -= 1
                self._one_comes = False
            logger.exception("the pool can't grow past %d threads", self._threads)

    def _work(self) -> None:
        self._one_comes = False
        for count in itertools.count(1):
            self._run_next()
            if count % YIELD_EVERY == 0:
                time.sleep(0)

    def _run_next(self) -> None:
        turn = self._take()
        try:
            self.run(turn.job_id, turn.admission.route if turn.admission else None)
        except Exception:
            logger.exception("request %s could not be run", turn.job_id)
        finally:
            if turn.key is not None:
                with self._lock:
                    self._line.ended(turn.key)
            if turn.admission:
                turn.admission.leave()

    def _take(self) -> Turn:
        while (turn := self._next()) is None:
            self._calls.get()
            self._one_comes = False
        return turn

    def _next(self) -> Turn | None:
        with self._lock:
            turn = self._line.next(self._clock())
            if turn is None:
                self._idle += 1
                return None
            grows = self._call_one()
        if grows:
            self._grow()
        return turn

    def _watch_deadlines(self) -> None:
        while True:
            time.sleep(TICK_S)
            self._runner.stop_late()
            self._look()
