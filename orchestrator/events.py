"""The closed vocabulary of a request's event log. Small, frozen, and without behaviour.

A log reads ``Started Token* (Restarted Token*)* (Completed | Failed | Cancelled)``; a request
that never ran has its terminal event alone.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them."""

    input_tokens: int
    output_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        )

    def as_json(self) -> dict[str, int]:
        """Return what clients are shown."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun, and asks ``backend``."""

    backend: str


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer; ``chunk`` counts from 0 since the start or the last restart."""

    chunk: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Restarted:
    """The answer so far is void: attempt number ``attempt`` (from 2) begins at chunk 0.

    It asks ``backend``; None for the same one as before.
    """

    attempt: int
    backend: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The whole answer is there. ``usage`` is that of the attempt which gave it.

    ``failed_usage``, here and below, is what attempts without a whole answer cost, as far as known.
    """

    finish_reason: FinishReason
    usage: Usage | None = None
    failed_usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer; ``code`` is the code of the error that ended it."""

    code: str
    message: str = field(repr=False)
    stage: str | None = None
    failed_usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The request was cancelled; what was generated until then is its result."""

    failed_usage: Usage | None = None


Terminal = Completed | Failed | Cancelled
Event = Started | Token | Restarted | Terminal
