"""When two requests are the same question: a digest of all that an answer depends on."""

import hashlib
import json
from collections.abc import Hashable, Sequence

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
_ASKED = ("prompt", "system", "timeout_s", *_SHAPING)


def likeness(request: GenerateRequest) -> Hashable:
    """Return what is equal for requests that may be one question, as far as they tell themselves.

    Earlier turns of their sessions may yet make them two.
    """
    return tuple(getattr(request, name) for name in _ASKED)


def key_of(route: str, request: GenerateRequest, messages: Sequence[Message]) -> bytes:
    """Return the digest of a question; ``route`` tells who is asked, ``messages`` is all of it."""
    question = [
        route,
        [(message.role, message.content) for message in messages],
        [(name, getattr(request, name)) for name in _SHAPING],
    ]
    return hashlib.sha256(json.dumps(question).encode()).digest()
