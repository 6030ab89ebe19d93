"""Where requests are kept and messages to workers wait, made of the settings."""

import logging

from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.errors import PipelineUnavailable
from orchestrator.settings import Settings
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.store import Leases, RedisStore

logger = logging.getLogger("orchestrator")


def redis_store(url: str, settings: Settings, patience_s: float) -> RedisStore:
    """Return the store in Redis. ``patience_s`` is how long a run waits for one that is away."""
    store = RedisStore(
        url,
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        leases=Leases(settings.lease_s, grace_s=settings.lease_s / 2),
        patience_s=patience_s,
    )
    try:
        for sentence in store.check():
            logger.warning("%s", sentence)
    except PipelineUnavailable as error:
        # It is waited for: nothing needs a restart when it comes.
        logger.warning("%s", error.message)
    return store


def memory_store(settings: Settings) -> MemoryStore:
    """Return the store of a process that shares nothing."""
    return MemoryStore(
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        memory_limit=settings.memory_limit_mb * 1024 * 1024,
    )


def broker_of(settings: Settings) -> Broker:
    """Return where messages to workers wait."""
    broker = Broker(settings.queue_url)
    broker.check()
    return broker
