"""What may be forgotten, by tenant: what is past its time, and what goes where room is needed."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

ROW_BYTES = 800
"""What a tenant costs that has anything on a shelf: measured (benchmarks/memory.py --tenants)."""
LOOKS = 5_000
"""How many things and tenants are looked at for what is past its time, at a time."""
CLASSES = 64


class _Row(Generic[T]):
    """One tenant's things by name, in the order they came; their bytes, and its class by these."""

    __slots__ = ("size", "spare_class", "things")

    def __init__(self) -> None:
        self.things: OrderedDict[str, T] = OrderedDict()
        self.size = 0
        self.spare_class = 0

    @property
    def oldest(self) -> T:
        return next(iter(self.things.values()))

    @property
    def newest(self) -> T:
        return next(reversed(self.things.values()))


class Shelf(Generic[T]):
    """Things that came one after the other, each tenant's apart. To be used inside a lock.

    ``size_of`` gives the bytes of a thing and ``until_of`` when it is past its time; neither
    changes while it is here. No call takes longer the more is here. ``overhead`` is what is held
    beside the things, in bytes.

    Where room is needed, whoever has most beyond its newest thing gives its oldest. Most is meant
    to a factor of two: tenants are in classes, by the bits of that number. Where nobody has more
    than one thing, the oldest of all goes.
    """

    def __init__(self, size_of: Callable[[T], int], until_of: Callable[[T], float]) -> None:
        self._size_of = size_of
        self._until_of = until_of
        # In the order in which the tenants' newest things came.
        self._rows: OrderedDict[str, _Row[T]] = OrderedDict()
        self._classes: list[OrderedDict[str, None]] = [OrderedDict() for _ in range(CLASSES)]
        # In the order in which they are looked at for what is past its time.
        self._turns: OrderedDict[str, None] = OrderedDict()
        self.overhead = 0

    def get(self, tenant: str, name: str) -> T | None:
        """Return what is here under a name."""
        row = self._rows.get(tenant)
        return row.things.get(name) if row else None

    def put(self, tenant: str, name: str, thing: T) -> None:
        """Put a thing here that is not, as the newest."""
        row = self._rows.get(tenant)
        if row is None:
            row = self._rows[tenant] = _Row()
            self._turns[tenant] = None
            self.overhead += ROW_BYTES
        else:
            self._rows.move_to_end(tenant)
        row.things[name] = thing
        row.size += self._size_of(thing)
        self._classify(tenant, row)

    def take(self, tenant: str, name: str) -> T | None:
        """Take a thing out, if it is here."""
        row = self._rows.get(tenant)
        if row is None or name not in row.things:
            return None
        return self._take(tenant, row, name)

    def take_expired(self, now: float) -> Iterator[T]:
        """Take out what is past its time; of very much only a part, and the next part next time."""
        tenants = len(self._turns)
        for _ in range(LOOKS):
            if tenants == 0:
                return
            tenant = next(iter(self._turns))
            row = self._rows[tenant]
            if self._until_of(row.oldest) <= now:
                yield self._take_oldest(tenant, row)
                if row.things:
                    continue
            else:
                self._turns.move_to_end(tenant)
            tenants -= 1

    def take_one(self) -> T | None:
        """Take out what is to go first; None where nothing is left."""
        most = next((tenants for tenants in reversed(self._classes) if tenants), self._rows)
        tenant = next(iter(most), None)
        if tenant is None:
            return None
        return self._take_oldest(tenant, self._rows[tenant])

    def _take_oldest(self, tenant: str, row: _Row[T]) -> T:
        return self._take(tenant, row, next(iter(row.things)))

    def _take(self, tenant: str, row: _Row[T], name: str) -> T:
        thing = row.things.pop(name)
        row.size -= self._size_of(thing)
        self._classify(tenant, row)
        if not row.things:
            del self._rows[tenant], self._turns[tenant]
            self.overhead -= ROW_BYTES
        return thing

    def _classify(self, tenant: str, row: _Row[T]) -> None:
        spare = row.size - self._size_of(row.newest) if row.things else 0
        spare_class = min(spare.bit_length(), CLASSES - 1)
        if spare_class == row.spare_class:
            return
        self._classes[row.spare_class].pop(tenant, None)
        if spare_class:
            self._classes[spare_class][tenant] = None
        row.spare_class = spare_class
