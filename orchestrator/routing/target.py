"""A model at a backend, and the permit to make one call to it."""

import math
from dataclasses import dataclass

from orchestrator.backends.base import Backend
from orchestrator.routing.breaker import Breaker, Permit
from orchestrator.routing.slots import Slots


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a backend. Targets of one backend share its slots, those of one model too its
    breaker.

    ``silence_s`` is how long the backend itself waits at most until an answer begins.
    """

    name: str
    backend: Backend
    breaker: Breaker
    slots: Slots
    silence_s: float = math.inf

    @property
    def is_left_alone(self) -> bool:
        """Whether nobody may ask it now, since it fails or wants so."""
        return bool(self.breaker.open_s() or self.breaker.held_s())


@dataclass(frozen=True, slots=True)
class Entry:
    """A permit to ask a target, number ``index`` of its model, and the place that is held there."""

    index: int
    target: Target
    permit: Permit

    def leave(self) -> None:
        """Give the place back, and the leave where it wasn't reported on. To be called once."""
        self.permit.leave()
        self.target.slots.give()
