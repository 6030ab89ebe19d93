"""Many ids in order, kept in small pieces so that no step takes longer the more there are."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

PIECE = 1_000

Id = TypeVar("Id", str, int)


class OrderedIds(Generic[Id]):
    """A sorted collection of ids that mostly come in order, and leave in any."""

    def __init__(self) -> None:
        self._pieces: list[list[Id]] = []
        # What a piece began with: no id in it is less, none in the piece before is greater.
        self._begins: list[Id] = []

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, new: Id) -> None:
        """Add an id that is not here yet."""
        last = self._pieces[-1] if self._pieces else None
        if last is None or new > last[-1]:
            if last and len(last) < PIECE:
                last.append(new)
            else:
                self._pieces.append([new])
                self._begins.append(new)
            return
        place = max(0, bisect_right(self._begins, new) - 1)
        self._begins[place] = min(new, self._begins[place])
        insort(self._pieces[place], new)

    @property
    def last(self) -> Id | None:
        """The greatest id; None where there is none."""
        return self._pieces[-1][-1] if self._pieces else None

    def remove(self, old: Id) -> None:
        """Remove an id that is here."""
        place = bisect_right(self._begins, old) - 1
        piece = self._pieces[place]
        del piece[bisect_left(piece, old)]
        if not piece:
            del self._pieces[place], self._begins[place]

    def before(self, end: Id | None) -> Iterator[Id]:
        """Give the ids less than ``end``, or all, from the greatest down."""
        pieces = len(self._pieces) if end is None else bisect_left(self._begins, end)
        for place in range(pieces - 1, -1, -1):
            piece = self._pieces[place]
            yield from reversed(piece if end is None else piece[: bisect_left(piece, end)])
