"""When what waits has waited too long, found without a look at all that waits."""

from collections.abc import Collection
from heapq import heapify, heappop, heappush

SPARE = 100
"""How many may be listed, beside twice those that wait, that wait no more."""


class Deadlines:
    """The ids of a collection that changes, by the time that each is due at.

    What leaves ``waiting`` before its time is passed over, and dropped when there is much of it.
    """

    def __init__(self, waiting: Collection[str]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due_at: float, waits: str) -> None:
        """Note when one that waits is due."""
        heappush(self._heap, (due_at, waits))
        if len(self._heap) > 2 * len(self._waiting) + SPARE:
            self._heap = [item for item in self._heap if item[1] in self._waiting]
            heapify(self._heap)

    def due(self, now: float) -> list[str]:
        """Take out those that still wait and are due, the first one first."""
        found: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            _, waits = heappop(self._heap)
            if waits in self._waiting:
                found.append(waits)
        return found
