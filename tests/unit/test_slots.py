"""Places at a backend: never more than there are, in the order of the line, and none lost."""

import threading

import pytest

from orchestrator.routing.slots import Slots, wait_for_any
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import WAIT_S, eventually


class Waiting:
    """Someone who waits in a thread of their own."""

    def __init__(self, *choices: Slots) -> None:
        self.signal = StopSignal()
        self.taken: Slots | None = None
        self.stopped = False
        self._choices = choices
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        eventually(lambda: not self._thread.is_alive() or all(map(in_line, choices)))

    def _run(self) -> None:
        try:
            self.taken = wait_for_any(self._choices, self.signal)
        except Stopped:
            self.stopped = True

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def in_line(slots: Slots) -> int:
    return len(slots._waiting)


def full(limit: int = 1) -> Slots:
    slots = Slots(limit)
    for _ in range(limit):
        assert slots.take()
    return slots


def test_there_are_as_many_places_as_the_limit_says() -> None:
    slots = full(3)
    assert not slots.take()
    slots.give()
    assert slots.take()


def test_without_a_limit_there_is_always_one() -> None:
    slots = Slots(None)
    assert all(slots.take() for _ in range(1000))
    slots.give()
    assert wait_for_any([full(), slots], StopSignal()) is slots


def test_a_place_goes_to_whoever_waited_longest() -> None:
    slots = full()
    first = Waiting(slots)
    second = Waiting(slots)
    eventually(lambda: in_line(slots) == 2)
    slots.give()
    first.join()
    assert first.taken is slots
    assert not slots.take(), "it went from hand to hand"
    slots.give()
    second.join()
    assert second.taken is slots


def test_the_first_place_anywhere_is_taken_and_no_other() -> None:
    one, other = full(), full()
    waiting = Waiting(one, other)
    other.give()
    waiting.join()
    assert waiting.taken is other
    one.give()
    assert one.take(), "nobody waits there any more"


def test_a_stop_ends_the_wait_and_loses_no_place() -> None:
    slots = full()
    waiting = Waiting(slots)
    waiting.signal.request()
    waiting.join()
    assert waiting.stopped
    slots.give()
    assert slots.take()


def test_a_stop_before_the_wait_is_heard() -> None:
    signal = StopSignal()
    signal.request()
    slots = full()
    with pytest.raises(Stopped):
        wait_for_any([slots], signal)
    assert in_line(slots) == 0


def test_many_come_and_go_without_a_place_too_many() -> None:
    one, other = Slots(2), Slots(3)
    lock = threading.Lock()
    inside = {one: 0, other: 0}
    most = {one: 0, other: 0}

    def work() -> None:
        for _ in range(50):
            taken = wait_for_any([one, other], StopSignal())
            with lock:
                inside[taken] += 1
                most[taken] = max(most[taken], inside[taken])
            with lock:
                inside[taken] -= 1
            taken.give()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert most[one] <= 2
    assert most[other] <= 3
    assert [one.take() for _ in range(3)] == [True, True, False]
    assert [other.take() for _ in range(4)] == [True, True, True, False]
