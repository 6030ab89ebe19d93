"""Whether a Redis is set up to keep what it is given: what must be changed, and what should be."""

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import ConfigError

OLDEST = 7


def check(info: Mapping[str, Any]) -> list[str]:
    """Return what is unwise in how a Redis is set up, a sentence each, from what it says of itself.

    Raises ConfigError for one that can't be used at all.
    """
    version = str(info.get("redis_version", "0"))
    if int(version.partition(".")[0]) < OLDEST:
        raise ConfigError(f"Redis is version {version}. Use {OLDEST}.0 or later.")
    if info.get("role") != "master":
        raise ConfigError("REDIS_URL names a replica, which takes no writes. Name its primary.")
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        raise ConfigError("REDIS_URL names a node of a cluster. Name a single primary.")
    found = []
    if info.get("maxmemory_policy") != "noeviction":
        found.append(
            f"Redis drops keys when its memory is full (maxmemory-policy "
            f"{info.get('maxmemory_policy')}): accepted requests may get lost. Set noeviction."
        )
    if not info.get("aof_enabled"):
        found.append(
            "Redis writes no append-only file: accepted requests are lost when it restarts. Set "
            "appendonly yes."
        )
    return found
