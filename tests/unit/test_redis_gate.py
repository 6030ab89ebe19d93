"""How many calls go to Redis at once, who waits, and who is sent off."""

import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.stores.redis.gate import AWAY_S, Closed, Gate
from tests.fakes.asking import WAIT_S, eventually


class Caller:
    """Someone who passes a gate in a thread, and stays inside until let go."""

    def __init__(self, gate: Gate, order: list[int], number: int = 0) -> None:
        self._gate, self._order, self._number = gate, order, number
        self._go_on = threading.Event()
        self.was_sent_off = False
        self.took = 0.0
        self._thread = threading.Thread(target=self._pass, daemon=True)
        self._thread.start()

    def _pass(self) -> None:
        began = time.monotonic()
        try:
            with self._gate.passing():
                self._order.append(self._number)
                self._go_on.wait(WAIT_S)
        except Closed:
            self.was_sent_off = True
        self.took = time.monotonic() - began

    def leave(self) -> None:
        """Leave the gate, or wait until the caller was sent off."""
        self._go_on.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def order() -> list[int]:
    """Who passed, in order."""
    return []


@pytest.fixture
def crowd(order: list[int]) -> Iterator[tuple[Gate, list[Caller]]]:
    """A gate for two, and six at it, each having come after the one before."""
    gate = Gate(2)
    callers = []
    for number in range(6):
        callers.append(Caller(gate, order, number))
        eventually(lambda: len(order) + len(gate._waiters) == len(callers))
    yield gate, callers
    for caller in callers:
        caller.leave()


def test_so_many_pass_at_once_and_the_others_in_order(
    crowd: tuple[Gate, list[Caller]], order: list[int]
) -> None:
    _, callers = crowd
    assert sorted(order) == [0, 1]
    for number, caller in enumerate(callers[:4]):
        caller.leave()
        eventually(lambda expected=number + 3: len(order) == expected)
    assert order[2:] == [2, 3, 4, 5]


def test_who_waits_is_sent_off_when_redis_is_away(
    crowd: tuple[Gate, list[Caller]], order: list[int]
) -> None:
    gate, callers = crowd
    assert gate.note_failure()
    for caller in callers[2:]:
        caller.leave()
        assert caller.was_sent_off
        assert caller.took < WAIT_S / 2
    for caller in callers[:2]:
        caller.leave()
        assert not caller.was_sent_off
    time.sleep(AWAY_S)
    for number in range(2):
        late = Caller(gate, order, 10 + number)
        eventually(lambda expected=10 + number: expected in order)
        late.leave()


def test_nobody_is_let_in_for_a_moment_after_a_failure() -> None:
    gate = Gate(2)
    gate.note_failure()
    with pytest.raises(Closed), gate.passing():
        pass
    time.sleep(AWAY_S)
    with gate.passing():
        pass


def test_one_failure_among_answers_says_nothing_of_redis() -> None:
    gate = Gate(2)
    gate.note_answer()
    assert not gate.note_failure()
    with gate.passing():
        assert gate.up_s > 0


def test_going_away_and_coming_back_are_news_once() -> None:
    gate = Gate(2)
    assert not gate.note_answer()
    assert gate.up_s > 0
    gate = Gate(2)
    assert [gate.note_failure(), gate.note_failure()] == [True, False]
    assert gate.up_s == 0
    assert [gate.note_answer(), gate.note_answer()] == [True, False]
    assert gate.up_s > 0


def test_a_turn_that_nobody_takes_goes_to_the_next(
    order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.gate.WAIT_S", 0.05)
    gate = Gate(1)
    inside = Caller(gate, order, 0)
    eventually(lambda: order == [0])
    impatient = Caller(gate, order, 1)
    eventually(lambda: impatient.was_sent_off)
    inside.leave()
    last = Caller(gate, order, 2)
    eventually(lambda: order == [0, 2])
    last.leave()
    impatient.leave()
