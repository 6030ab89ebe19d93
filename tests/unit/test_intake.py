"""How many messages of each queue a worker takes, and when others come first."""

from typing import cast

import pytest

from orchestrator.dispatch.dramatiq import intake
from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.dispatch.dramatiq.intake import FORWARD_S, STEP_BACK_S, Intake, shares
from tests.fakes.clock import Clock


def lengths(high: int = 0, normal: int = 0, low: int = 0, overdue: int = 0) -> dict[str, int]:
    return {"high": high, "normal": normal, "low": low, "overdue": overdue}


@pytest.mark.parametrize("overdue_first", [False, True])
def test_higher_priorities_come_first_and_no_more_than_there_is_room_for(
    overdue_first: bool,
) -> None:
    waiting = lengths(high=2, normal=3, low=9)
    assert shares(waiting, 1, overdue_first) == [("high", 1)]
    assert shares(waiting, 4, overdue_first) == [("high", 2), ("normal", 2)]
    assert shares(waiting, 9, overdue_first) == [("high", 2), ("normal", 3), ("low", 4)]
    assert shares(waiting, 99, overdue_first) == [("high", 2), ("normal", 3), ("low", 9)]


def test_nothing_is_taken_where_nothing_waits() -> None:
    assert shares(lengths(), 8, False) == []


def test_the_overdue_and_the_others_take_turns() -> None:
    waiting = lengths(high=100, overdue=100)
    assert shares(waiting, 1, False) == [("high", 1)]
    assert shares(waiting, 1, True) == [("overdue", 1)]
    assert shares(waiting, 8, False) == [("overdue", 4), ("high", 4)]


def test_what_one_side_leaves_is_the_others() -> None:
    assert dict(shares(lengths(low=1, overdue=1), 8, False)) == {"overdue": 1, "low": 1}
    assert shares(lengths(overdue=9), 1, False) == [("overdue", 1)]
    taken = shares(lengths(low=1, overdue=9), 8, False)
    assert sum(count for queue, count in taken if queue == "overdue") == 7


def test_others_come_first_for_a_moment_and_then_for_none_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(intake.time, "monotonic", clock)
    worker = Intake(cast(Broker, None), threads=1)
    assert worker.step_back()
    clock.advance(STEP_BACK_S / 2)
    assert worker.step_back()
    clock.advance(STEP_BACK_S)
    assert not worker.step_back()
    clock.advance(FORWARD_S)
    assert worker.step_back()
