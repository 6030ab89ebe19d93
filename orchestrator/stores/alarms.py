"""The port by which processes tell each other which targets fail."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from orchestrator.errors import RunError


class Alarm(NamedTuple):
    """A target is left alone for so many seconds more; ``message`` says what it failed with."""

    seconds: float
    message: str


class Alarms(Protocol):
    """Which targets fail, told by the processes that ask them. It raises nothing."""

    def note(self, target: str, seconds: float, error: RunError | None = None) -> None:
        """Note that a target is left alone here for so long, or that it answers: 0 seconds.

        One answer, wherever it comes, is enough for all.
        """
        ...

    def of(self, targets: Sequence[str]) -> Alarm | None:
        """Return the first target's alarm with the shortest time; None unless all have one."""
        ...
