"""When two requests are the same question: a digest of all that an answer depends on."""

import hashlib
import json
from collections.abc import Sequence

from orchestrator.backends.base import Message
from orchestrator.job import GenerateRequest

NEUTRAL = frozenset(
    {
        # These are in the conversation.
        *("prompt", "system", "session_id"),
        # These say how a request is run and told of.
        *("metadata", "priority", "stream", "timeout_s", "queue_timeout_s", "on_busy", "reuse"),
    }
)
"""Fields of a request that change no answer. Any other one, a new one too, is in the key."""

_SHAPING = tuple(name for name in GenerateRequest._fields if name not in NEUTRAL)


def key_of(route: str, request: GenerateRequest, messages: Sequence[Message]) -> bytes:
    """Return the digest of a question; ``route`` tells who is asked, ``messages`` is all of it."""
    question = [
        route,
        [(message.role, message.content) for message in messages],
        [(name, getattr(request, name)) for name in _SHAPING],
    ]
    return hashlib.sha256(json.dumps(question).encode()).digest()
