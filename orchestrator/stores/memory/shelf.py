"""What may be forgotten, by tenant: what is past its time, and the oldest of who has most."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from orchestrator.stores.memory.ranking import Ranking

T = TypeVar("T")

ROW_BYTES = 850
"""What a tenant costs that has anything on a shelf: measured (benchmarks/memory.py --tenants)."""


class _Row(Generic[T]):
    """One tenant's things by name, in the order they came, and their bytes."""

    __slots__ = ("size", "things")

    def __init__(self) -> None:
        self.things: OrderedDict[str, T] = OrderedDict()
        self.size = 0


class Shelf(Generic[T]):
    """Things that came one after the other, each tenant's apart. To be used inside a lock.

    ``size_of`` gives the bytes of a thing and ``until_of`` when it is past its time, which is never
    before that of one that came earlier. Neither changes while a thing is here. No call takes
    longer the more is here. ``overhead`` is what is held beside the things, in bytes.
    """

    def __init__(self, size_of: Callable[[T], int], until_of: Callable[[T], float]) -> None:
        self._size_of = size_of
        self._until_of = until_of
        self._rows: dict[str, _Row[T]] = {}
        self._largest = Ranking()
        self._soonest = Ranking()
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
            self.overhead += ROW_BYTES
            self._soonest.set(tenant, self._until_of(thing))
        row.things[name] = thing
        row.size += self._size_of(thing)
        self._largest.set(tenant, -row.size)

    def take(self, tenant: str, name: str) -> T | None:
        """Take a thing out, if it is here."""
        row = self._rows.get(tenant)
        thing = row.things.pop(name, None) if row else None
        if row and thing:
            self._shrink(tenant, row, thing)
        return thing

    def take_expired(self, now: float) -> T | None:
        """Take out one thing that is past its time; None where nothing is."""
        while (tenant := self._soonest.least(now)) is not None:
            row = self._rows[tenant]
            if self._until_of(_first(row)) <= now:
                return self._take_first(tenant, row)
            # Those that it was to go by were taken before.
            self._soonest.set(tenant, self._until_of(_first(row)))
        return None

    def take_from_largest(self) -> T | None:
        """Take out the oldest thing of the tenant whose things have most bytes."""
        tenant = self._largest.least(math.inf)
        return None if tenant is None else self._take_first(tenant, self._rows[tenant])

    def _take_first(self, tenant: str, row: _Row[T]) -> T:
        _, thing = row.things.popitem(last=False)
        self._shrink(tenant, row, thing)
        return thing

    def _shrink(self, tenant: str, row: _Row[T], thing: T) -> None:
        row.size -= self._size_of(thing)
        if row.things:
            self._largest.set(tenant, -row.size)
            return
        del self._rows[tenant]
        self.overhead -= ROW_BYTES
        self._largest.drop(tenant)
        self._soonest.drop(tenant)


def _first(row: _Row[T]) -> T:
    return next(iter(row.things.values()))
