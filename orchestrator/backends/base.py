"""The port to a model: a prompt goes in, pieces of text come out, then why the answer ended."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.session import Message as Message
from orchestrator.stop import StopSignal

_PASSING = frozenset({408, 409, 425, 429})


def may_pass(status: int) -> bool:
    """Return whether what a provider's HTTP status stands for may soon pass by itself."""
    return status in _PASSING or status >= 500


class Finish(NamedTuple):
    """The last item of every whole answer. Without it, the answer was cut."""

    reason: FinishReason
    usage: Usage | None = None


Pieces = Generator[str | Usage | Finish, None, None]
"""An answer as a backend gives it: see Backend.stream."""


class Backend(Protocol):
    """A model that answers in pieces.

    ``name`` is what status and health show.
    """

    name: str

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        """Yield pieces of text, then one Finish.

        An empty piece before the first says that the answer has begun: the model thinks.

        A Usage among them is what the answer has cost so far, each in place of the one before: it
        counts where no Finish comes.

        ``messages`` is the whole conversation, the system text first where there is one and the
        prompt last; ``request`` has the sampling parameters. While blocked, the generator
        registers with ``stop.waking`` what unblocks it; closing the generator ends the call to
        the model. Raises a RunError where the model fails, and Stopped after a stop.
        """
        ...
