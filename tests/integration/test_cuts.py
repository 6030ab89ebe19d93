"""Answers in each dialect and framing that end after any of their bytes: whole, or an error."""

import random
from collections.abc import Iterator

import pytest

from orchestrator.backends.anthropic import AnthropicBackend
from orchestrator.backends.base import Backend
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.backends.upstream import Limits
from orchestrator.errors import RunError
from tests.fakes.asking import Said, ask
from tests.fakes.upstream import Upstream, start_upstream

LIMITS: Limits = {
    "connect_timeout_s": 30,
    "first_token_timeout_s": 30,
    "idle_timeout_s": 30,
    "max_connections": 4,
}
WHOLE = "".join(f"w{number} " for number in range(5))
MOST_BYTES = 2500
"""More than any of the answers has."""
STEP = 12
"""Of so many neighbouring bytes one is cut at."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(params=["openai", "anthropic"])
def backend(request: pytest.FixtureRequest, upstream: Upstream) -> Backend:
    if request.param == "openai":
        return OpenAIBackend(upstream.url, "big", None, **LIMITS)
    return AnthropicBackend("big", "key", base_url=upstream.url.removesuffix("/v1"), **LIMITS)


@pytest.mark.parametrize("form", [0, 1, 2], ids=["chunks", "until the end", "one object"])
def test_an_answer_that_ends_after_any_byte_is_whole_or_an_error(
    backend: Backend, form: int
) -> None:
    places = random.Random(7)
    ends = []
    for at in range(0, MOST_BYTES, STEP):
        said = Said()
        try:
            ask(backend, f"fault:cut_at {form} {at + places.randrange(STEP)}", said=said)
        except RunError:
            assert WHOLE.startswith(said.text)
        else:
            assert said.finish
            assert said.text == WHOLE
        ends.append(said.finish is not None)
    assert ends[0] is False
    assert ends[-1] is True
    assert ends == sorted(ends), "once it is whole, it is so with each byte more"
