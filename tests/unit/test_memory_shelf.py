"""Whoever has most gives first, what is past its time goes, and nothing is left of who has gone."""

import random
from typing import NamedTuple

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
    thing = shelf.take_from_largest()
    return thing.name if thing else None


def test_the_oldest_of_who_has_most_is_taken_until_another_has_more() -> None:
    shelf = a_shelf(
        Thing("b", "b1", 10, 1.0),
        Thing("a", "a1", 6, 2.0),
        Thing("a", "a2", 6, 3.0),
        Thing("a", "a3", 7, 4.0),
    )
    assert [taken(shelf) for _ in range(5)] == ["a1", "a2", "b1", "a3", None]
    assert shelf.overhead == 0


def test_what_is_put_back_is_the_newest() -> None:
    first, second = Thing("a", "a1", 1, 1.0), Thing("a", "a2", 1, 2.0)
    shelf = a_shelf(first, second)
    assert shelf.take("a", "a1") == first
    shelf.put("a", "a1", first._replace(until=3.0))
    assert shelf.take_expired(1.0) is None
    assert shelf.take_expired(2.0) == second
    assert taken(shelf) == "a1"


def test_what_is_not_here_is_not_found() -> None:
    shelf = a_shelf(Thing("a", "a1", 1, 1.0))
    assert (shelf.get("a", "a2"), shelf.get("b", "a1")) == (None, None)
    assert (shelf.take("a", "a2"), shelf.take("b", "a1")) == (None, None)
    assert shelf.get("a", "a1")


def test_whatever_happens_it_is_as_a_look_at_all_would_say() -> None:
    shelf, dice, now = a_shelf(), random.Random(7), 0.0
    here: list[Thing] = []
    for number in range(5_000):
        now += dice.random()
        match dice.randrange(4):
            case 0 | 1:
                thing = Thing(str(dice.randrange(9)), str(number), dice.randrange(1, 9), now + 99)
                shelf.put(thing.tenant, thing.name, thing)
                here.append(thing)
            case 2 if here:
                thing = here.pop(dice.randrange(len(here)))
                assert shelf.take(thing.tenant, thing.name) == thing
            case _ if here:
                sizes = {one.tenant: 0 for one in here}
                for one in here:
                    sizes[one.tenant] += one.size
                gone = shelf.take_from_largest()
                assert gone
                assert sizes[gone.tenant] == max(sizes.values())
                assert gone == next(one for one in here if one.tenant == gone.tenant)
                here.remove(gone)
        expired = {thing for thing in here if thing.until <= now}
        for _ in range(len(expired)):
            assert shelf.take_expired(now) in expired
        assert shelf.take_expired(now) is None
        here = [thing for thing in here if thing not in expired]
