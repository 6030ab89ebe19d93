"""What a provider's rejection is about: whether another provider may help, or must not be asked.

The codes and words are those of OpenAI, Azure, vLLM, llama.cpp, SGLang, TGI and OpenRouter.
"""

import re
from collections.abc import Mapping
from typing import Any

_CODES = {
    "context_length_exceeded": "context_length",
    "exceed_context_size_error": "context_length",
    "content_filter": "content_policy",
    "content_policy_violation": "content_policy",
    "ResponsibleAIPolicyViolation": "content_policy",
    "moderation_blocked": "content_policy",
}
_WORDS = (
    (
        "context_length",
        re.compile(
            r"context (length|size|window)|(prompt|input) is too long|too many (input )?tokens"
            r"|inputs` tokens \+ `max_new_tokens`",
            re.IGNORECASE,
        ),
    ),
    (
        "content_policy",
        re.compile(
            r"content (management )?polic|content filter|safety system|usage polic|moderation"
            r"|flagged",
            re.IGNORECASE,
        ),
    ),
)


def reason_of(error: Any, text: str) -> str | None:
    """Return ``context_length``, ``content_policy``, or None for anything else.

    ``error`` is the provider's error object, if it is one, and ``text`` what it says.
    """
    if isinstance(error, Mapping):
        for code in (error.get("code"), error.get("type")):
            if isinstance(code, str) and code in _CODES:
                return _CODES[code]
    return next((reason for reason, words in _WORDS if words.search(text)), None)
