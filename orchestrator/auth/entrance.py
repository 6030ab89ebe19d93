"""The way in, where credentials are asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.auth.guard import Guard
from orchestrator.auth.tickets import Tickets
from orchestrator.caller import Caller
from orchestrator.errors import PipelineUnavailable, Unauthorized


@dataclass(frozen=True, slots=True)
class Entrance:
    """Who lets callers in, and where the stream tokens are that they were given."""

    guard: Guard
    tickets: Tickets

    def lasting(self, caller: Caller) -> Callable[[], bool]:
        """Return what tells whether a caller may still watch what it has opened."""

        def may_stay() -> bool:
            try:
                self.guard.check(caller)
            except Unauthorized:
                return False
            except PipelineUnavailable:
                # Nobody can tell now. Who is here may stay until somebody can.
                return True
            return True

        return may_stay
