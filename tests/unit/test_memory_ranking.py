"""The name with the least number is found, whatever changes, and nothing old is kept for long."""

import random

from orchestrator.stores.memory.ranking import SPARE, Ranking


def test_the_least_comes_first_where_it_is_small_enough() -> None:
    ranking = Ranking()
    for name, rank in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        ranking.set(name, rank)
    assert ranking.least(0.5) is None
    assert ranking.least(1.0) == ranking.least(9.0) == "a"
    ranking.drop("a")
    assert ranking.least(9.0) == "b"


def test_a_name_has_the_number_it_was_given_last() -> None:
    ranking = Ranking()
    ranking.set("a", 1.0)
    ranking.set("b", 2.0)
    ranking.set("a", 3.0)
    assert ranking.least(9.0) == "b"
    ranking.set("a", 1.0)
    assert ranking.least(9.0) == "a"
    ranking.drop("never here")
    assert len(ranking) == 2


def test_it_is_as_a_look_at_all_would_say() -> None:
    ranking, ranks, dice = Ranking(), {}, random.Random(5)
    for _ in range(5_000):
        name = str(dice.randrange(50))
        if dice.random() < 0.3:
            ranking.drop(name)
            ranks.pop(name, None)
        else:
            ranks[name] = float(dice.randrange(20))
            ranking.set(name, ranks[name])
        if ranks:
            assert ranks[ranking.least(99.0) or ""] == min(ranks.values())
        else:
            assert ranking.least(99.0) is None


def test_what_is_out_of_date_is_not_kept() -> None:
    ranking = Ranking()
    for number in range(10 * SPARE):
        ranking.set(str(number), float(number))
        ranking.set("busy", float(number))
        if number % 100:
            ranking.drop(str(number))
    assert ranking.places <= 2 * len(ranking) + SPARE + 1
