"""Ids in order, whatever comes and goes."""

import random
from bisect import bisect_left, insort

from orchestrator.ids import new_id
from orchestrator.stores.memory.order import PIECE, OrderedIds


def made(ids: list[str]) -> OrderedIds:
    order = OrderedIds()
    for one in ids:
        order.add(one)
    return order


def test_nothing_is_before_anything_at_first() -> None:
    assert list(OrderedIds().before(None)) == []
    assert list(OrderedIds().before("x")) == []


def test_ids_come_back_from_the_greatest_down() -> None:
    ids = [new_id() for _ in range(3 * PIECE + 5)]
    assert list(made(ids).before(None)) == sorted(ids, reverse=True)
    assert list(made(ids[::-1]).before(None)) == sorted(ids, reverse=True)


def test_only_what_is_less_is_before_an_id_whether_that_is_here_or_not() -> None:
    ids = sorted(new_id() for _ in range(2 * PIECE + 5))
    order = made(ids)
    for place in (0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 4):
        assert list(order.before(ids[place])) == ids[:place][::-1]
        assert list(order.before(ids[place] + "x")) == ids[: place + 1][::-1]
    assert list(order.before("")) == []
    assert list(order.before("zzz")) == ids[::-1]


def test_the_last_one_out_leaves_nothing() -> None:
    ids = [new_id() for _ in range(PIECE + 1)]
    order = made(ids)
    for one in ids:
        order.remove(one)
    assert list(order.before(None)) == []
    order.add(ids[0])
    assert list(order.before(None)) == ids[:1]


def test_random_comings_and_goings_leave_what_a_sorted_list_has() -> None:
    chance = random.Random(13)
    order = OrderedIds()
    expected: list[str] = []
    number = 100_000
    for _ in range(6 * PIECE):
        if expected and chance.random() < 0.45:
            gone = expected.pop(min(chance.randrange(len(expected)), chance.randrange(2_000)))
            order.remove(gone)
        else:
            number += chance.choice([1, 2, 3, -2_500 if chance.random() < 0.01 else 1])
            one = f"{number:08}-{chance.getrandbits(64)}"
            insort(expected, one)
            order.add(one)
    assert len(expected) > 300
    assert list(order.before(None)) == expected[::-1]
    for _ in range(50):
        cursor = chance.choice(expected)[: chance.choice([8, 100])]
        assert list(order.before(cursor)) == expected[: bisect_left(expected, cursor)][::-1]
