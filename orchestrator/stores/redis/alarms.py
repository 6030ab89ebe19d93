"""Which targets fail, by what all processes that ask them have told: a key in Redis for each."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from orchestrator.errors import OrchestratorError, RunError
from orchestrator.stores.alarms import Alarm
from orchestrator.stores.redis.link import Argument, Link
from orchestrator.stores.redis.names import ALARM

logger = logging.getLogger("orchestrator")

WELL_EVERY_S = 1.0
"""How often a process that has answers says so: each ends an alarm that another one gave."""


class RedisAlarms:
    """See stores.alarms.Alarms. To be made in the process that uses it, after any fork.

    While Redis is away there is no alarm. ``clock`` gives monotonic seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = Link(url)
        self._clock = clock
        self._well_at: dict[str, float] = {}

    def note(self, target: str, seconds: float, error: RunError | None = None) -> None:
        now = self._clock()
        if seconds and error:
            self._well_at.pop(target, None)
            self._do("SET", ALARM + target, error.message, "PX", math.ceil(seconds * 1000))
        elif now - self._well_at.get(target, -math.inf) >= WELL_EVERY_S:
            self._well_at[target] = now
            self._do("DEL", ALARM + target)

    def of(self, targets: Sequence[str]) -> Alarm | None:
        keys = [ALARM + target for target in targets]
        messages = self._do("MGET", *keys)
        if not messages or not all(message is not None for message in messages):
            return None
        left = [self._do("PTTL", key) or 0 for key in keys]
        return Alarm(min(left) / 1000, messages[0].decode()) if min(left) > 0 else None

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _do(self, *words: Argument) -> Any:
        try:
            return self._link.command(*words)
        except (redis.RedisError, OrchestratorError) as error:
            logger.warning("alarms are not told: %s", error)
            return None
