"""What submits are told while every target of a model is known to fail."""

import math
import time
from collections.abc import Callable, Sequence

from orchestrator.errors import PipelineUnavailable
from orchestrator.stores.alarms import Alarm, Alarms

LOOK_EVERY_S = 1.0
"""How often to look at what other processes tell, instead of at every submit."""


def unavailable(model: str, alarm: Alarm) -> PipelineUnavailable:
    """Return the error for a submit that no target would answer."""
    return PipelineUnavailable(
        f"Nothing answers for the model {model} at the moment"
        + (f". {alarm.message}" if alarm.message else "; try again later."),
        retry_after=math.ceil(alarm.seconds),
    )


class Outage:
    """Whether a model's targets all fail, by what the processes that ask them tell.

    ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        model: str,
        targets: Sequence[str],
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._targets = targets
        self._alarms = alarms
        self._clock = clock
        self._alarm: Alarm | None = None
        self._looked_at = -math.inf

    def check(self) -> None:
        """Raise PipelineUnavailable while every target is left alone by whoever asks it."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._alarm, self._looked_at = self._alarms.of(self._targets), now
        alarm = self._alarm
        if alarm and (left_s := alarm.seconds - (now - self._looked_at)) > 0:
            raise unavailable(self._model, Alarm(left_s, alarm.message))
