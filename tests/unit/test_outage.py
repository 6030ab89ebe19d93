"""Submits are refused while every target is left alone by the processes that ask them."""

from collections.abc import Sequence

import pytest

from orchestrator.errors import PipelineUnavailable, RunError
from orchestrator.routing.outage import LOOK_EVERY_S, Outage
from orchestrator.stores.alarms import Alarm
from tests.fakes.clock import Clock


class Told:
    """Alarms that say what the test wants."""

    def __init__(self) -> None:
        self.alarm: Alarm | None = None
        self.looks: list[Sequence[str]] = []

    def note(self, target: str, seconds: float, error: RunError | None = None) -> None:
        """Nobody is told here."""

    def of(self, targets: Sequence[str]) -> Alarm | None:
        self.looks.append(targets)
        return self.alarm


def test_while_there_is_an_alarm_for_all_submits_are_told_when_to_come_again() -> None:
    alarms, clock = Told(), Clock()
    outage = Outage("default", ["a/big", "b/big"], alarms, clock)
    outage.check()
    alarms.alarm = Alarm(4.5, "The provider is down.")
    outage.check()
    clock.advance(LOOK_EVERY_S)
    with pytest.raises(
        PipelineUnavailable, match="the model default .* The provider is down"
    ) as at:
        outage.check()
    assert at.value.retry_after == 5
    assert alarms.looks == [["a/big", "b/big"]] * 2, "not at each submit"


def test_an_alarm_ends_by_itself_between_two_looks() -> None:
    alarms, clock = Told(), Clock()
    outage = Outage("default", ["a/big"], alarms, clock)
    alarms.alarm = Alarm(LOOK_EVERY_S / 2, "Down.")
    with pytest.raises(PipelineUnavailable):
        outage.check()
    clock.advance(0.75 * LOOK_EVERY_S)
    outage.check()
