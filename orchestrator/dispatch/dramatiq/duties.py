"""What a worker process does beside running requests, and how it ends."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import dramatiq
import redis

from orchestrator.dispatch.base import Dispatcher
from orchestrator.dispatch.dramatiq.broker import PRIORITIES, QUEUES, Broker
from orchestrator.dispatch.dramatiq.intake import Intake
from orchestrator.errors import (
    NotFound,
    OrchestratorError,
    PipelineUnavailable,
    ResultExpired,
)
from orchestrator.runner import NotHere, Runner
from orchestrator.stores.base import LeasedStore

logger = logging.getLogger("orchestrator")

TICK_S = 0.1
"""How often deadlines are looked at."""
SHOW_S = 5.0
"""How often a worker tells the store that it is there."""
TELL_S = 10.0
"""How often, at most, the log says that a model is not here."""
AWAY_S = 0.5
"""How long to wait before a request that can't be claimed now is tried again."""
RESERVE_S = 5.0
"""The part of the time for a stop kept for giving back what has not ended, for Dramatiq's threads
(see THREADS_END_S in cli.py), and for the exit."""
GIVE_BACK_S = 2.5
"""How long giving back may take: where Redis is away, it waits."""
GIVE_BACK_AT_ONCE = 32
"""How many requests are given back at a time, where Redis is far away."""
HURRY_S = 1.0
"""A second signal within this time is the first one again: some send it to all processes."""
MASTER_S = 1.0
"""How often a worker looks whether Dramatiq's master is there."""


class Duties(dramatiq.Middleware):
    """Runs what the intake takes, renews leases, keeps deadlines, and shows that a worker is there.

    ``helpers`` start what the rest of the process needs, and ``close`` ends what answers here, once
    nothing runs any more. ``models`` are those it has. ``most_at_once`` is how many requests are
    worth running at once, where there is such a limit. ``renew_s`` is how often leases are renewed,
    ``graceful_s`` how long a stop may take. ``sign`` is a file that shows to this machine that the
    process does not hang.
    """

    def __init__(
        self,
        runner: Runner,
        store: LeasedStore,
        dispatcher: Dispatcher,
        helpers: Sequence[Callable[[], None]],
        close: Callable[[], None],
        models: Sequence[str],
        most_at_once: int | None,
        renew_s: float,
        graceful_s: float,
        sign: Path | None = None,
    ) -> None:
        self._runner = runner
        self._store = store
        self._dispatcher = dispatcher
        self._helpers = helpers
        self._close = close
        self._models = models
        self._most_at_once = most_at_once
        self._renew_s = renew_s
        self._graceful_s = graceful_s
        self._sign = sign
        self._intake: Intake | None = None
        self._leaving = threading.Event()
        self._asked_at: float | None = None
        self._is_hurried = False
        self._told_until = 0.0

    def declare(self, broker: Broker) -> None:
        """Have the messages of each queue run here."""
        for queue in QUEUES:
            priority = PRIORITIES.index(queue) if queue in PRIORITIES else 0
            declare = dramatiq.actor(
                actor_name=queue, queue_name=queue, priority=priority, broker=broker
            )
            declare(self.run)
        broker.add_middleware(self)

    def run(self, job_id: str) -> None:
        """Run one request, and hand on those whose session it set free."""
        while True:
            try:
                for job in self._runner.run(job_id):
                    self._dispatcher.put(job)
                return
            except NotHere as error:
                self._pass_on(error)
                return
            except PipelineUnavailable:
                # It could not be claimed. If it waits until the end, a sweep sends it again.
                if self._leaving.wait(AWAY_S):
                    return

    # What follows is called by Dramatiq, in this order.

    def after_process_boot(self, broker: Any) -> None:
        before = signal.getsignal(signal.SIGTERM)
        if callable(before):
            signal.signal(signal.SIGTERM, partial(self._on_stop, before))
        if master := multiprocessing.parent_process():
            follow = partial(_follow, master.pid)
            threading.Thread(target=follow, name="master", daemon=True).start()

    def after_worker_boot(self, broker: Any, worker: dramatiq.Worker) -> None:
        self._store.on_stop(self._runner.stop)
        threads = worker.worker_threads
        at_once = min(threads, self._most_at_once or threads)
        self._intake = Intake(broker, at_once)
        self._intake.start()
        for start in self._helpers:
            start()
        self._repeat("deadlines", TICK_S, self._runner.stop_late)
        self._repeat("leases", self._renew_s, self._renew)
        self._repeat("presence", SHOW_S, self._show)
        if self._sign:
            # Of itself, for while Redis is away a restart would help nobody.
            self._repeat("sign", SHOW_S, self._sign.touch)
        logger.info("Ready to run %d requests at once", at_once)

    def before_worker_shutdown(self, broker: Any, worker: dramatiq.Worker) -> None:
        logger.info("Draining: what runs may end, nothing new is taken")
        self._leaving.set()
        if self._intake:
            self._intake.stop()
        # Before Dramatiq waits for its threads: from its timeout it takes all the time that has
        # gone by, and for each thread anew, so that it is over too soon.
        self._let_end(broker)
        giving_back = threading.Thread(target=self._give_back_all, name="give-back", daemon=True)
        giving_back.start()
        giving_back.join(GIVE_BACK_S)

    def after_worker_shutdown(self, broker: Any, worker: dramatiq.Worker) -> None:
        self._close()

    def _on_stop(
        self, handle: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None
    ) -> None:
        """Pass the first signal on; a later one means that there is a hurry. It never waits."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            handle(number, frame)
        elif now - self._asked_at > HURRY_S:
            self._is_hurried = True

    def _pass_on(self, error: NotHere) -> None:
        """Send a request to the other workers at once; where these may be busy, in a while."""
        if self._intake and self._intake.step_back():
            self._dispatcher.put(error.job)
        else:
            with suppress(OrchestratorError):
                self._store.pass_on(error.job.id)
        now = time.monotonic()
        if now >= self._told_until:
            self._told_until = now + TELL_S
            logger.warning(
                "request %s is left to other workers: %s. Give web processes and workers the same "
                "settings.",
                error.job.id,
                error,
            )

    def _let_end(self, broker: Broker) -> None:
        deadline = (self._asked_at or time.monotonic()) + self._graceful_s - RESERVE_S
        while broker.held and time.monotonic() < deadline and not self._is_hurried:
            time.sleep(TICK_S)

    def _give_back_all(self) -> None:
        # Once more for what is claimed at the last moment.
        while running := self._runner.running:
            for first in range(0, len(running), GIVE_BACK_AT_ONCE):
                self._give_back_some(running[first : first + GIVE_BACK_AT_ONCE])
            time.sleep(TICK_S)

    def _give_back_some(self, running: Sequence[tuple[str, int]]) -> None:
        # No threads of a pool: those are waited for at the exit, however long Redis is away.
        threads = [
            threading.Thread(target=self._give_back, args=one, daemon=True) for one in running
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _give_back(self, job_id: str, run: int) -> None:
        try:
            change = self._store.give_back(job_id, run)
        except (NotFound, ResultExpired):
            change = None
        except OrchestratorError as error:
            # It goes on until this process is gone, and runs elsewhere once its lease is out.
            logger.warning("request %s can't be given back: %s", job_id, error)
            return
        self._runner.stop(job_id, number=run)
        if change and change.changed:
            logger.info("request %s was given back", job_id)
        for job in change.ready if change else ():
            self._dispatcher.put(job)

    def _renew(self) -> None:
        for job_id, run in self._store.renew():
            self._runner.stop(job_id, number=run)

    def _show(self) -> None:
        if not self._leaving.is_set():
            self._store.show_worker(self._models)

    def _repeat(self, name: str, pause: float, act: Callable[[], object]) -> None:
        def go_on() -> None:
            while True:
                try:
                    act()
                except (redis.RedisError, OrchestratorError) as error:
                    logger.info("%s: not now: %s", name, error)
                except Exception:
                    logger.exception("%s failed; it goes on", name)
                time.sleep(pause)

        threading.Thread(target=go_on, name=name, daemon=True).start()


def _follow(master: int | None) -> None:
    """Stop this process as SIGTERM does once its master was killed: nobody else would end it."""
    while os.getppid() == master:
        time.sleep(MASTER_S)
    os.kill(os.getpid(), signal.SIGTERM)
