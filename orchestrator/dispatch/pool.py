"""The in-process dispatcher: a bounded pool of threads, three priorities, and ageing.

Under gevent the threads are greenlets: right for backends that wait on a socket.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from orchestrator.job import Job, Priority
from orchestrator.runner import Runner

logger = logging.getLogger("orchestrator")

PATIENCE_S = 20.0
"""After this long a request is served in turn with higher priorities: well within 30 s."""
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
        self._changed = threading.Condition(threading.Lock())
        self._queues: dict[Priority, OrderedDict[str, float]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._threads = 0
        self._idle = 0
        self._impatient_turn = False

    def start(self) -> None:
        threading.Thread(target=self._watch_deadlines, name="deadlines", daemon=True).start()

    def put(self, job: Job) -> None:
        with self._changed:
            self._queues[job.request.priority][job.id] = self._clock()
            if self._idle:
                self._idle -= 1
                self._changed.notify()
                return
            if self._threads == self._concurrency:
                return
            self._threads += 1
        threading.Thread(target=self._work, name="pool", daemon=True).start()

    def cancel(self, job_id: str) -> None:
        with self._changed:
            if any(queue.pop(job_id, None) is not None for queue in self._queues.values()):
                return
        self._runner.stop(job_id)

    def position(self, job: Job) -> int:
        ahead = 0
        with self._changed:
            for priority, queue in self._queues.items():
                if priority is job.request.priority:
                    return ahead + (list(queue).index(job.id) if job.id in queue else 0)
                ahead += len(queue)
        return ahead

    def stop_all(self) -> None:
        self._runner.stop_all()

    def _work(self) -> None:
        while True:
            job_id = self._take()
            try:
                for job in self._runner.run(job_id):
                    self.put(job)
            except Exception:
                logger.exception("request %s could not be run", job_id)

    def _take(self) -> str:
        with self._changed:
            while not any(self._queues.values()):
                self._idle += 1
                self._changed.wait()
            return self._next()

    def _next(self) -> str:
        """Pop the first of the highest priority, and every other time the most overdue one.

        By turns, so that neither an endless stream of high requests nor a backlog of overdue
        low ones takes all slots.
        """
        now = self._clock()
        waiting = [queue for queue in self._queues.values() if queue]
        overdue = [queue for queue in waiting if now - _since(queue) >= PATIENCE_S]
        self._impatient_turn = bool(overdue) and not self._impatient_turn
        queue = min(overdue, key=_since) if self._impatient_turn else waiting[0]
        return queue.popitem(last=False)[0]

    def _watch_deadlines(self) -> None:
        while True:
            time.sleep(TICK_S)
            self._runner.stop_late()


def _since(queue: OrderedDict[str, float]) -> float:
    return next(iter(queue.values()))
