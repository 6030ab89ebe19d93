"""The dispatcher of a service whose requests run in other processes."""

import logging
import time
from contextlib import suppress

import redis

from orchestrator.dispatch.base import PATIENCE_S
from orchestrator.dispatch.dramatiq.broker import OVERDUE, Broker
from orchestrator.errors import ConfigError, OrchestratorError, PipelineUnavailable
from orchestrator.job import Job, Priority
from orchestrator.routing.base import Route
from orchestrator.runner import Runner
from orchestrator.stores.base import SEEN_S, LeasedStore

logger = logging.getLogger("orchestrator")

TRUST_S = 1.0
"""How long a worker that was seen is taken to be there."""
RETRY_AFTER_S = 5
TELL_S = 10.0
"""How often, at most, the log says that requests can't be sent."""


class DramatiqDispatcher:
    """Sends requests to workers. A message that is lost or sent twice does no harm.

    The store hands out again what no worker has begun, and lets each request begin once. ``runner``
    runs here those whose answer is kept already.
    """

    def __init__(self, broker: Broker, store: LeasedStore, runner: Runner) -> None:
        self._broker = broker
        self._store = store
        self._runner = runner
        self._trusted_until = 0.0
        self._served: frozenset[str] = frozenset()
        self._told_until = 0.0

    def start(self) -> None:
        """There is nothing to do: workers run the requests."""

    def check(self, model: str | None = None) -> None:
        if time.monotonic() >= self._trusted_until:
            self._served = self._look()
            self._trusted_until = time.monotonic() + TRUST_S
        if model is not None and model not in self._served:
            raise PipelineUnavailable(
                f"No worker that has the model {model} has been seen for {SEEN_S} seconds, so "
                "nothing would answer. Start a worker (`orchestrator worker`) with the settings of "
                "the web processes, then try again.",
                retry_after=RETRY_AFTER_S,
            )

    def put(self, job: Job) -> None:
        is_overdue = time.time() - job.created_at >= PATIENCE_S
        try:
            # Noted before: whoever gets it may pass it on sooner than this returns.
            self._store.sent(job.id)
            self._broker.send(OVERDUE if is_overdue else job.request.priority, job.id)
        except OrchestratorError as error:
            self._tell(error)
        except redis.RedisError as error:
            self._tell(error)
            with suppress(OrchestratorError):
                self._store.pass_on(job.id)

    def run(self, job_id: str, route: Route) -> None:
        """Run it here, which takes a moment. If that fails, a worker is sent it later."""
        try:
            for job in self._runner.run(job_id, route):
                self.put(job)
        except OrchestratorError as error:
            logger.warning("request %s is sent later: %s", job_id, error)

    def cancel(self, job_id: str) -> None:
        """The store tells whoever runs it."""

    def position(self, job_id: str, priority: Priority) -> int:
        return self._store.position(job_id, priority)

    def stop_all(self) -> None:
        """There is nothing to do: workers run the requests."""

    def _tell(self, error: Exception) -> None:
        """Log why requests are sent later: thousands that wait are tried in each sweep."""
        now = time.monotonic()
        if now >= self._told_until:
            self._told_until = now + TELL_S
            logger.warning("requests are sent later: %s", error)

    def _look(self) -> frozenset[str]:
        """Return the models that workers have. Raises PipelineUnavailable where none is there."""
        served = self._store.served()
        try:
            # The start could not ask where Redis was away.
            self._broker.check()
            self._broker.probe()
        except ConfigError as error:
            raise PipelineUnavailable(error.message, retry_after=RETRY_AFTER_S) from None
        except redis.RedisError as error:
            raise PipelineUnavailable(
                f"Redis takes no messages to workers now ({error}). Try again in a moment.",
                retry_after=RETRY_AFTER_S,
            ) from None
        if not served:
            raise PipelineUnavailable(
                f"No worker has been seen for {SEEN_S} seconds, so nothing would answer. Start a "
                "worker (`orchestrator worker`) with the same REDIS_URL and "
                "ORCHESTRATOR_QUEUE_REDIS_URL, then try again.",
                retry_after=RETRY_AFTER_S,
            )
        return served
