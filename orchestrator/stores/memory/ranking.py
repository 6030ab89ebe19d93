"""Which of many names has the least number, found without a look at all of them."""

from heapq import heapify, heappop, heappush

SPARE = 100
"""How many places may be out of date, beside as many as there are names."""


class Ranking:
    """Names by a number each, which may change at any time."""

    def __init__(self) -> None:
        self._ranks: dict[str, float] = {}
        # Has a place for each rank that was ever set; those out of date are dropped when met, or
        # when they are many.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def places(self) -> int:
        """How many places are held, those out of date included."""
        return len(self._heap)

    def set(self, name: str, rank: float) -> None:
        """Give a name a number, in place of the one that it has."""
        self._ranks[name] = rank
        heappush(self._heap, (rank, name))
        if len(self._heap) > 2 * len(self._ranks) + SPARE:
            self._heap = [(number, one) for one, number in self._ranks.items()]
            heapify(self._heap)

    def drop(self, name: str) -> None:
        """Forget a name, if it is here."""
        self._ranks.pop(name, None)

    def least(self, most: float) -> str | None:
        """Return the name with the least number, where that is no more than ``most``."""
        while self._heap and self._heap[0][0] <= most:
            rank, name = self._heap[0]
            if self._ranks.get(name) == rank:
                return name
            heappop(self._heap)
        return None
