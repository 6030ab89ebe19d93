"""Which messages a worker takes, and when: no more than it can run now, by priority and by turns.

Dramatiq's own consumers fetch ahead, each for its queue: a busy worker would hold requests that
an idle one could run, and find an empty queue filled half a second later.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping

import redis

from orchestrator.dispatch.dramatiq.broker import (
    OVERDUE,
    PRIORITIES,
    QUEUES,
    Broker,
)

logger = logging.getLogger("orchestrator")

IDLE_S = 1.0
"""How often to look without being woken: the connection that wakes us may be cut."""
AWAY_S = 0.5
"""How long nothing is tried after a failure."""
STEP_BACK_S = 0.25
"""How long others come first: they are woken at the same moment, and need milliseconds."""
FORWARD_S = 0.75
"""How long no others come first after that: what can run here must not wait for what can't."""
LISTEN_S = 5.0
"""After this long without a word the connection is asked whether it lives."""


def shares(lengths: Mapping[str, int], free: int, overdue_first: bool) -> list[tuple[str, int]]:
    """Return how many to take from each queue, in order, to fill ``free`` threads.

    The overdue have every other place, so that neither an endless stream of high requests nor a
    backlog of overdue ones takes all; what one side leaves is the other's.
    """
    left = free
    taken: list[tuple[str, int]] = []

    def take(queue: str, most: int) -> None:
        nonlocal left
        count = min(lengths[queue] - dict(taken).get(queue, 0), most, left)
        if count > 0:
            taken.append((queue, count))
            left -= count

    take(OVERDUE, (free + overdue_first) // 2)
    for queue in PRIORITIES:
        take(queue, left)
    take(OVERDUE, left)
    return taken


class Intake:
    """Takes messages for ``threads`` threads and hands them to the consumers of ``broker``."""

    def __init__(self, broker: Broker, threads: int) -> None:
        self._broker = broker
        self._threads = threads
        self._overdue_first = False
        self._shown_at = 0.0
        self._stepped_at = -math.inf
        self._stopped = threading.Event()
        self._taking = threading.Thread(target=self._take_all, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to take."""
        self._taking.start()
        threading.Thread(target=self._listen, name="wake", daemon=True).start()

    def stop(self) -> None:
        """Take nothing new from now on."""
        self._stopped.set()
        self._broker.wake.set()
        self._taking.join()

    def step_back(self) -> bool:
        """Let other workers come first for a moment, with what was taken here and can't run here.

        Returns whether they do. Where they just did they may be busy, and what can run here would
        wait for nothing.
        """
        since = time.monotonic() - self._stepped_at
        if since >= STEP_BACK_S + FORWARD_S:
            self._stepped_at = time.monotonic()
            return True
        return since < STEP_BACK_S

    def _take_all(self) -> None:
        is_away = False
        while not self._stopped.is_set():
            try:
                self._take()
                is_away = False
            except redis.RedisError as error:
                # Once for each outage: another try is made a few times a second.
                if not is_away:
                    logger.warning("no requests can be taken until Redis answers: %s", error)
                is_away = True
                self._stopped.wait(AWAY_S)
            except Exception:
                # A worker that took nothing any more would still say that it is there.
                logger.exception("the intake failed; it goes on")
                self._stopped.wait(AWAY_S)

    def _take(self) -> None:
        broker = self._broker
        broker.wake.wait(IDLE_S)
        broker.wake.clear()
        self._stopped.wait(max(0.0, self._stepped_at + STEP_BACK_S - time.monotonic()))
        self._show()
        free = self._threads - broker.held
        if free <= 0 or not broker.is_consumed or self._stopped.is_set():
            return
        lengths = broker.lengths()
        for queue, count in shares(lengths, free, self._overdue_first):
            messages = broker.fetch(queue, count)
            broker.consumers[queue].give(messages)
            if len(messages) < count:
                # Others were quicker: there is room for what was left out.
                broker.wake.set()
        if lengths[OVERDUE]:
            self._overdue_first = not self._overdue_first

    def _show(self) -> None:
        """Show once a second that this process lives, and take over from those that don't."""
        now = time.monotonic()
        if now - self._shown_at >= IDLE_S:
            for queue in QUEUES:
                self._broker.fetch(queue, 0)
            self._shown_at = now

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._broker.subscription() as subscription:
                    self._wake_with(subscription)
            except redis.RedisError:
                self._stopped.wait(AWAY_S)
            except Exception:
                logger.exception("a word of Redis can't be read; it is listened to anew")
                self._stopped.wait(AWAY_S)

    def _wake_with(self, subscription: redis.client.PubSub) -> None:
        is_asked = False
        while not self._stopped.is_set():
            if subscription.get_message(timeout=LISTEN_S):
                is_asked = False
                self._broker.wake.set()
            elif is_asked:
                raise redis.ConnectionError("it does not answer")
            else:
                is_asked = True
                subscription.ping()
