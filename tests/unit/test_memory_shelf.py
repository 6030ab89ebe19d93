"""Whoever has much gives first, nobody's last thing goes before, and what is past its time goes."""

import random
from typing import NamedTuple

import pytest

from orchestrator.stores.memory import shelf as module
from orchestrator.stores.memory.shelf import Shelf


class Thing(NamedTuple):
    tenant: str
    name: str
    size: int
    until: float


def a_shelf(*things: Thing) -> Shelf[Thing]:
    shelf: Shelf[Thing] = Shelf(lambda thing: thing.size, lambda thing: thing.until)
    for thing in things:
        shelf.put(thing.tenant, thing.name, thing)
    return shelf


def taken(shelf: Shelf[Thing]) -> str | None:
    thing = shelf.take_one()
    return thing.name if thing else None


def test_the_oldest_of_who_has_most_beyond_its_newest_is_taken_and_then_the_oldest_of_all() -> None:
    shelf = a_shelf(
        Thing("large", "one", 1_000_000, 1.0),
        Thing("few", "f1", 10, 2.0),
        Thing("many", "m1", 10, 3.0),
        Thing("many", "m2", 10, 4.0),
        Thing("many", "m3", 10, 5.0),
        Thing("many", "m4", 10, 6.0),
        Thing("few", "f2", 10, 7.0),
    )
    order = ["m1", "m2", "f1", "m3", "one", "m4", "f2"]
    assert [taken(shelf) for _ in range(8)] == [*order, None]
    assert shelf.overhead == 0


def test_what_is_put_back_is_the_newest() -> None:
    first, second = Thing("a", "a1", 1, 1.0), Thing("a", "a2", 1, 2.0)
    shelf = a_shelf(first, second)
    assert shelf.take("a", "a1") == first
    shelf.put("a", "a1", first._replace(until=3.0))
    assert list(shelf.take_expired(1.0)) == []
    assert list(shelf.take_expired(2.0)) == [second]
    assert taken(shelf) == "a1"


def test_what_is_not_here_is_not_found() -> None:
    shelf = a_shelf(Thing("a", "a1", 1, 1.0))
    assert (shelf.get("a", "a2"), shelf.get("b", "a1")) == (None, None)
    assert (shelf.take("a", "a2"), shelf.take("b", "a1")) == (None, None)
    assert shelf.get("a", "a1")


def test_of_very_much_that_is_past_its_time_a_part_is_taken_and_then_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOKS", 10)
    things = [Thing(str(number % 7), str(number), 1, number // 50) for number in range(100)]
    shelf = a_shelf(*things)
    found: list[Thing] = []
    for _ in range(20):
        part = list(shelf.take_expired(0.0))
        assert len(part) <= 10
        found += part
    assert sorted(found) == sorted(thing for thing in things if thing.until == 0)


def test_whatever_happens_it_is_as_a_look_at_all_would_say() -> None:
    shelf, dice, now = a_shelf(), random.Random(7), 0.0
    here: list[Thing] = []

    def spare(tenant: str) -> int:
        """The bits of what a tenant has beyond its newest thing."""
        sizes = [thing.size for thing in here if thing.tenant == tenant]
        return sum(sizes[:-1]).bit_length()

    for number in range(5_000):
        now += dice.random()
        match dice.randrange(4):
            case 0 | 1:
                thing = Thing(str(dice.randrange(9)), str(number), dice.randrange(1, 99), now + 99)
                shelf.put(thing.tenant, thing.name, thing)
                here.append(thing)
            case 2 if here:
                thing = here.pop(dice.randrange(len(here)))
                assert shelf.take(thing.tenant, thing.name) == thing
            case _ if here:
                most = max(spare(thing.tenant) for thing in here)
                gone = shelf.take_one()
                assert gone
                assert spare(gone.tenant) == most
                assert gone == next(one for one in here if one.tenant == gone.tenant)
                here.remove(gone)
        expired = {thing for thing in here if thing.until <= now}
        assert set(shelf.take_expired(now)) == expired
        here = [thing for thing in here if thing not in expired]
