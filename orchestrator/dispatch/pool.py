"""The in-process dispatcher: a bounded pool of threads, three priorities, and ageing.

Under gevent the threads are greenlets: right for backends that wait on a socket.
"""

import itertools
import logging
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter

from orchestrator.job import Job, Priority
from orchestrator.routing.base import Route
from orchestrator.runner import Runner

logger = logging.getLogger("orchestrator")

PATIENCE_S = 20.0
"""After this long a request is served in turn with higher priorities: well within 30 s."""
YIELD_EVERY = 32
"""Jobs between two bows to other greenlets, where none of them waits for anything."""
TICK_S = 0.1
"""How often deadlines are looked at."""


class Pool:
    """Runs at most ``concurrency`` requests at once. ``clock`` gives monotonic seconds."""

    def __init__(
        self, runner: Runner, concurrency: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runner = runner
        self._concurrency = concurrency
        self._clock = clock
        self._lock = threading.Lock()
        self._called = threading.Condition(self._lock)
        self._queues = {priority: _Queue() for priority in Priority}
        self._threads = 0
        self._idle = 0
        self._one_comes = False
        self._impatient_turn = False

    def start(self) -> None:
        threading.Thread(target=self._watch_deadlines, name="deadlines", daemon=True).start()

    def check(self) -> None:
        """What is put here always runs."""

    def put(self, job: Job) -> None:
        with self._lock:
            self._queues[job.request.priority].put(job.id, self._clock())
            grows = self._call_one()
        if grows:
            self._grow()

    def run(self, job_id: str, route: Route | None = None) -> None:
        for job in self._runner.run(job_id, route):
            self.put(job)

    def cancel(self, job_id: str) -> None:
        with self._lock:
            if any(queue.drop(job_id) for queue in self._queues.values()):
                return
        self._runner.stop(job_id)

    def position(self, job: Job) -> int:
        ahead = 0
        with self._lock:
            for priority, queue in self._queues.items():
                if priority is job.request.priority:
                    return ahead + queue.position(job.id)
                ahead += len(queue)
        return ahead

    def stop_all(self) -> None:
        self._runner.stop_all()

    def _call_one(self) -> bool:
        """Have a thread come for what waits. Returns whether it is to be started first.

        One at a time, and who comes calls the next: of many jobs that end at once, one thread
        takes one after the other, without a switch between threads for each.
        """
        if self._one_comes or not any(self._queues.values()):
            return False
        if self._idle:
            self._idle -= 1
            self._one_comes = True
            self._called.notify()
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
            job_id = self._take()
            try:
                self.run(job_id)
            except Exception:
                logger.exception("request %s could not be run", job_id)
            if count % YIELD_EVERY == 0:
                time.sleep(0)

    def _take(self) -> str:
        with self._lock:
            while not any(self._queues.values()):
                self._idle += 1
                self._called.wait()
                self._one_comes = False
            job_id = self._next()
            grows = self._call_one()
        if grows:
            self._grow()
        return job_id

    def _next(self) -> str:
        """Pop the first of the highest priority, and every other time the most overdue below it.

        By turns, so that neither an endless stream of high requests nor a backlog of overdue
        low ones takes all slots.
        """
        now = self._clock()
        waiting = [queue for queue in self._queues.values() if queue]
        overdue = [queue for queue in waiting[1:] if now - queue.since >= PATIENCE_S]
        self._impatient_turn = bool(overdue) and not self._impatient_turn
        queue = min(overdue, key=attrgetter("since")) if self._impatient_turn else waiting[0]
        return queue.pop()

    def _watch_deadlines(self) -> None:
        while True:
            time.sleep(TICK_S)
            self._runner.stop_late()


class _Queue:
    """The waiting requests of one priority, in the order they came.

    Tickets number them, so that a place among ten thousand is found without walking past them.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._tickets: list[int] = []
        self._given = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def since(self) -> float:
        """Since when the first one has been waiting."""
        return next(iter(self._waiting.values()))[1]

    def put(self, job_id: str, now: float) -> None:
        self._given += 1
        self._waiting[job_id] = (self._given, now)
        self._tickets.append(self._given)

    def pop(self) -> str:
        """Take the first one out."""
        job_id, _ = self._waiting.popitem(last=False)
        del self._tickets[0]
        return job_id

    def drop(self, job_id: str) -> bool:
        """Take one out; False where it is not here."""
        if job_id not in self._waiting:
            return False
        ticket, _ = self._waiting.pop(job_id)
        del self._tickets[bisect_left(self._tickets, ticket)]
        return True

    def position(self, job_id: str) -> int:
        """Return how many are ahead of one; 0 where it is not here."""
        ticket, _ = self._waiting.get(job_id, (0, 0.0))
        return bisect_left(self._tickets, ticket)
