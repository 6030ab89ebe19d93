"""The cache that several processes share: packed answers in Redis, under one limit for all."""

import logging
from collections.abc import Callable
from typing import Any

import redis

from orchestrator.errors import OrchestratorError
from orchestrator.stores.cache import Answer, pack, unpack
from orchestrator.stores.redis import scripts
from orchestrator.stores.redis.link import Argument, Link

logger = logging.getLogger("orchestrator")

ENTRY_BYTES = 600
"""What an answer costs there beside its bytes: measured, with its key and its places in order."""


class RedisCache:
    """See stores.cache.Cache. To be made in the process that uses it, after any fork.

    All processes together hold ``limit`` bytes at most. While Redis is away nothing is found or
    kept. ``clock`` gives seconds since the epoch; without one, all processes go by Redis's own.
    """

    def __init__(self, url: str, limit: int, clock: Callable[[], float] | None = None) -> None:
        self._link = Link(url)
        self._limit = limit
        self._clock = clock

    def get(self, key: bytes) -> Answer | None:
        packed = self._call(scripts.CACHE_GET, key)
        try:
            return unpack(packed) if packed else None
        except (ValueError, TypeError) as error:
            logger.warning("a kept answer can't be read: %s", error)
            return None

    def put(self, key: bytes, answer: Answer, ttl_s: float) -> None:
        self._call(scripts.CACHE_PUT, key, pack(answer), ttl_s, self._limit, ENTRY_BYTES)

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _call(self, script: scripts.Script, *arguments: Argument) -> Any:
        now = repr(self._clock()) if self._clock else ""
        try:
            return self._link.call(script, "", now, "", *arguments)
        except (redis.RedisError, OrchestratorError) as error:
            logger.warning("the cache is not used: %s", error)
            return None
