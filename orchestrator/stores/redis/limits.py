"""What is counted for callers, in Redis: one count for all processes, each step atomic."""

import contextlib
import logging
import uuid
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import redis

from orchestrator.errors import OrchestratorError, PipelineUnavailable
from orchestrator.limits.base import SLICES, Standing
from orchestrator.rate import Rate
from orchestrator.stores.redis import scripts
from orchestrator.stores.redis.link import Argument, Link
from orchestrator.stores.redis.names import PLACES

LEASE_S = 20.0
"""How long a place, or a process, counts without being renewed."""
ANSWER_S = 0.3
"""How long Redis may take: a count is quick, and without it a share of the limit still holds."""
AT_ONCE = 500
"""Places that a script renews: Redis does nothing else meanwhile."""

logger = logging.getLogger("orchestrator")


class RedisLimits:
    """See limits.base.Windows and limits.shared.SharedPlaces. To be made in the process using it.

    ``clock`` gives seconds since the epoch; without one, all processes go by Redis's own.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._link = Link(url, ANSWER_S)
        self._clock = clock
        self._process = uuid.uuid4().hex

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        counted, amount, period_s, remaining, reset_s = self._call(
            scripts.HIT, account, SLICES, *chain.from_iterable(rates)
        )
        return Standing(bool(counted), Rate(amount, period_s), remaining, float(reset_s))

    def take(self, account: str, limit: int) -> str | None:
        place = uuid.uuid4().hex
        return place if self._call(scripts.TAKE_PLACE, account, place, limit, LEASE_S) else None

    def give_back(self, account: str, place: str) -> None:
        with contextlib.suppress(redis.RedisError, OrchestratorError):
            self._link.command("ZREM", PLACES + account, place)

    def renew(self, places: Sequence[tuple[str, str]]) -> int:
        """Hold places for a while longer; return how many processes there are, with this one."""
        for begin in range(0, len(places), AT_ONCE):
            self._renew(places[begin : begin + AT_ONCE])
        return self._renew(())

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _renew(self, places: Sequence[tuple[str, str]]) -> int:
        flat = chain.from_iterable(places)
        return int(self._call(scripts.RENEW_PLACES, self._process, LEASE_S, *flat))

    def _call(self, script: scripts.Script, *arguments: Argument) -> Any:
        now = repr(self._clock()) if self._clock else ""
        try:
            return self._link.call(script, "", now, "", *arguments)
        except redis.RedisError as error:
            # It answers, and with nothing of use: limits go on without it.
            logger.error("limits can't be counted in Redis: %s", error)
            raise PipelineUnavailable("Redis can't count calls.") from None
