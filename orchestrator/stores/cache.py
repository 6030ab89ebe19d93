"""The port to kept answers, and the form in which they are kept."""

import json
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


def pack(answer: Answer) -> bytes:
    """Return an answer as bytes. Not by orjson: a model may stop inside a surrogate pair."""
    usage = answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens)
    parts = (answer.pieces, answer.finish_reason, usage, answer.backend)
    return json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")


def unpack(packed: bytes) -> Answer:
    """Return the answer that was packed."""
    pieces, reason, usage, backend = json.loads(packed.decode("utf-8", "surrogatepass"))
    return Answer(tuple(pieces), FinishReason(reason), usage and Usage(*usage), backend)
