"""The time by Redis's clock, known in this process without asking each time."""

import time
from collections.abc import Callable

ASK_EVERY_S = 1.0


class Clock:
    """Redis's time in seconds, from what ``ask`` has found within the last second.

    It is never ahead of Redis, unless Redis's clock was set back meanwhile: all of the time that
    asking took is counted as the answer's way back.
    """

    def __init__(self, ask: Callable[[], tuple[int, int]]) -> None:
        self._ask = ask
        self._asked_at = float("-inf")
        self._difference = 0.0

    def now(self) -> float:
        """Return the time, and ask for it where that is due. Raises what ``ask`` does."""
        if time.monotonic() - self._asked_at >= ASK_EVERY_S:
            seconds, microseconds = self._ask()
            answered_at = time.monotonic()
            self._difference = seconds + microseconds / 1e6 - answered_at
            self._asked_at = answered_at
        return time.monotonic() + self._difference

    def doubt(self) -> None:
        """Ask anew before the next answer: Redis's clock was set forward, or it took its time."""
        self._asked_at = float("-inf")
