"""The port to a route: what the runner asks for a model's answer, whoever gives it in the end."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.backends.base import Finish, Message
from orchestrator.events import Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal


@dataclass(frozen=True, slots=True)
class Attempt:
    """Another attempt begins, number ``number`` from 1, and asks ``backend``.

    The answer begins anew: what earlier attempts said is void. Number 0 asks nobody: what follows
    is what ``backend`` answered to an earlier request.
    """

    number: int
    backend: str


class Route(Protocol):
    """Whoever answers for a model. Every backend is one, of one attempt."""

    @property
    def name(self) -> str:
        """The backend that is asked first."""
        ...

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Usage | Attempt | Finish, None, None]:
        """Yield pieces of text and one Finish, as a Backend does, with Attempts between them.

        A Usage is what the attempt has cost so far, each in place of its last one.

        Attempts are told of from the second on, the first one where it asks another backend than
        ``name``, and number 0 always.
        """
        ...
