"""A session: the conversation that its requests carry on, and what part of it a model is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator.job import GenerateRequest

HISTORY_MESSAGES = 200
HISTORY_BYTES = 1024 * 1024


class Message(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    def __repr__(self) -> str:
        """Leave out what it says: this may end in a log."""
        return f"Message({self.role}, {len(self.content)} characters)"


class History(NamedTuple):
    """The turns that ended well, oldest first, and the system text in force."""

    system: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes of text its turns are."""
        return sum([len(message.content.encode()) for message in self.messages])

    def __repr__(self) -> str:
        """Leave out what it says: this may end in a log."""
        return f"History({len(self.messages)} messages)"

    def with_turn(self, request: GenerateRequest, answer: str) -> "History":
        """Return the history after one more turn, the oldest turns dropped past the limits."""
        messages = [
            *self.messages,
            Message("user", request.prompt),
            Message("assistant", answer),
        ]
        size = History(None, tuple(messages)).size
        start = 0
        while len(messages) - start > HISTORY_MESSAGES or size > HISTORY_BYTES:
            size -= sum(len(dropped.content.encode()) for dropped in messages[start : start + 2])
            start += 2
        return History(request.system or self.system, tuple(messages[start:]))

    def conversation(self, request: GenerateRequest) -> Sequence[Message]:
        """Return what the model is told for ``request``: system text, earlier turns, prompt."""
        system = request.system or self.system
        return [
            *([Message("system", system)] if system else []),
            *self.messages,
            Message("user", request.prompt),
        ]


@dataclass(frozen=True, slots=True)
class SessionHead:
    """A session at one moment, as lists show it. Times are seconds since the epoch.

    ``name`` is unique among all tenants: see GenerateRequest.session.
    """

    name: str
    created_at: float
    last_used_at: float
    messages_count: int
    active: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session(SessionHead):
    """A session with its messages."""

    history: History
