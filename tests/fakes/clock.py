"""Time that passes when a test says so."""

import time


class Clock:
    """Gives seconds since the epoch, from the present on: ids carry the time they were made at."""

    def __init__(self) -> None:
        self._now = time.time()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        self._now += seconds
