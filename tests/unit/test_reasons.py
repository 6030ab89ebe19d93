"""What a rejection is about, by the words of many servers."""

from typing import Any

import pytest

from orchestrator.backends.reasons import reason_of


@pytest.mark.parametrize(
    ("error", "text", "reason"),
    [
        ({"code": "context_length_exceeded"}, "Shorten it.", "context_length"),
        ({"type": "exceed_context_size_error", "code": 400}, "Too big.", "context_length"),
        ({}, "This model's maximum context length is 4096 tokens.", "context_length"),
        ({}, "the request exceeds the available context size", "context_length"),
        ({}, "prompt is too long: 210000 tokens > 200000 maximum", "context_length"),
        ("text", "`inputs` tokens + `max_new_tokens` must be <= 2048", "context_length"),
        ({"code": "content_filter"}, "Change it.", "content_policy"),
        ({"code": "content_policy_violation"}, "Change it.", "content_policy"),
        ({}, "Your request was rejected as a result of our safety system.", "content_policy"),
        ({}, "triggering Azure OpenAI's content management policy", "content_policy"),
        ({"code": 403}, "requires moderation and your input was flagged", "content_policy"),
        ({"code": 403}, "Your input was flagged", "content_policy"),
        ({"code": None, "type": 7}, "temperature must be at most 2", None),
        (None, "there is no model big", None),
        (["odd"], "max_tokens is too large", None),
    ],
)
def test_the_reason_is_known_by_code_or_by_words(error: Any, text: str, reason: str | None) -> None:
    assert reason_of(error, text) == reason
