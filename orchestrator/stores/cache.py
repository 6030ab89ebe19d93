"""The port to kept answers."""

from dataclasses import dataclass
from typing import Protocol

from orchestrator.events import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, to be given again; ``backend`` is who gave it first."""

    pieces: tuple[str, ...]
    finish_reason: FinishReason
    usage: Usage | None
    backend: str


class Cache(Protocol):
    """Whole answers by the digest of their question. It raises nothing: a cache only helps."""

    def get(self, key: bytes) -> Answer | None:
        """Return the answer to a question, unless it is too old or not there."""
        ...

    def put(self, key: bytes, answer: Answer, ttl_s: float) -> None:
        """Keep an answer for ``ttl_s`` seconds at most, unless it is too large."""
        ...
