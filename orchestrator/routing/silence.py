"""How long a target may keep silent where others are left to be asked."""

import threading
from contextlib import ExitStack, suppress

from orchestrator.errors import UpstreamTimeout
from orchestrator.stop import StopSignal


class Silence(UpstreamTimeout):
    """A target said nothing for as long as the request could wait for it."""

    @classmethod
    def of(cls, seconds: float) -> "Silence":
        """Return the error for so many seconds of it. Not in ``__init__``: errors are copied."""
        return cls(
            f"The provider sent no part of an answer within {seconds:.3g} s; try again later.",
            stage="first_token",
        )


class Patience:
    """Stops a call that says nothing for ``seconds``.

    ``signal`` is for the call, and is stopped with the request's ``stop`` too. To be used as a
    context, for as long as the call takes.
    """

    def __init__(self, stop: StopSignal, seconds: float) -> None:
        self.signal = StopSignal()
        self.seconds = seconds
        self._stop = stop
        self._timer = threading.Timer(seconds, self.signal.request)
        self._timer.daemon = True
        self._stack = ExitStack()

    def __enter__(self) -> "Patience":
        self._stack.enter_context(self._stop.waking(self._pass_on))
        self._stack.callback(self.heard)
        # Where no thread is to be had, the request's own deadline is left.
        with suppress(RuntimeError):
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ran_out(self) -> bool:
        """Whether it was this that stopped the call."""
        return self.signal.requested and not self._stop.requested

    def heard(self) -> None:
        """Note that the answer has begun."""
        self._timer.cancel()

    def _pass_on(self) -> None:
        self.signal.request(self._stop.reason)
