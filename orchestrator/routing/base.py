"""The ports to a route: what the runner asks for a model's answer, and what says when to ask."""

from collections.abc import Callable, Generator, Hashable, Sequence
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


Item = str | Usage | Attempt | Finish
Stream = Generator[Item, None, None]
"""An answer as a route gives it: see Route.stream."""


class Route(Protocol):
    """What answers for a model. Every backend is a route with one attempt."""

    @property
    def name(self) -> str:
        """The backend that is asked first."""
        ...

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Stream:
        """Yield pieces of text and one Finish, as a Backend does, with Attempts between them.

        A Usage is what the attempt has cost so far, each in place of its last one.

        An Attempt comes before the second one and all later ones, before the first one if it asks
        another backend than ``name``, and always for number 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to run one request by ``route``, which may have a place at a backend held for it.

    ``leave``, which is to be called at the end of the run, gives that back where it wasn't taken.
    """

    route: Route
    leave: Callable[[], None]


class Gate(Protocol):
    """What knows when a request of a model is worth starting.

    It is not worth starting while it could only wait: for a place at a full backend, or until a
    target that is left alone may be asked.
    """

    def has_room(self) -> bool:
        """Return whether one would be admitted now. Quick, and safe inside any lock."""
        ...

    def admit(self) -> Admission | None:
        """Let one request start, or return None where it is to wait."""
        ...

    def alike(self, request: GenerateRequest) -> Hashable | None:
        """Return a value that is equal for requests that can share a call, and so a place.

        None for a request that shares no call.
        """
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, by any thread, each time that a place comes free."""
        ...


@dataclass(frozen=True, slots=True)
class Through:
    """The gate of a route around another one, whose admissions ``wrap`` puts it around.

    ``likeness`` tells which requests share a call.
    """

    inner: Gate
    wrap: Callable[[Admission], Route]
    likeness: Callable[[GenerateRequest], Hashable | None] | None = None

    def has_room(self) -> bool:
        return self.inner.has_room()

    def admit(self) -> Admission | None:
        admission = self.inner.admit()
        return admission and Admission(self.wrap(admission), admission.leave)

    def alike(self, request: GenerateRequest) -> Hashable | None:
        return self.likeness(request) if self.likeness else None

    def watch(self, wake: Callable[[], None]) -> None:
        self.inner.watch(wake)
