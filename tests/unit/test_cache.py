"""The route that keeps whole answers."""

from typing import Any

import pytest

from orchestrator.backends.base import Finish, Message
from orchestrator.errors import UpstreamError, UpstreamTruncated
from orchestrator.events import FinishReason, Usage
from orchestrator.job import Reuse
from orchestrator.routing.base import Attempt, Route
from orchestrator.routing.cache import LARGEST, MOST_PIECES, Cached
from orchestrator.stop import StopSignal
from orchestrator.stores.memory.cache import MemoryCache
from tests.fakes.asking import a_request
from tests.fakes.backends import BeginsAnew, CutsTheStream, Raises, Says
from tests.fakes.clock import Clock

TTL_S = 60.0
DONE = Finish(FinishReason.STOP, Usage(3, 4))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> MemoryCache:
    return MemoryCache(8 * 1024 * 1024, clock)


def heard(route: Route, prompt: str = "hello", **fields: Any) -> list[str | Attempt | Finish]:
    """All that a route says."""
    messages = [Message("user", prompt)]
    return list(route.stream(a_request(prompt, **fields), messages, StopSignal()))


def test_an_answer_is_asked_for_once(cache: MemoryCache) -> None:
    backend = Says("Hello ", "world")
    route = Cached(backend, "route", cache, TTL_S)
    first = heard(route)
    assert first == ["Hello ", "world", Finish(FinishReason.STOP, Usage(1, 2))]
    assert heard(route, session_id="another", stream=True) == [Attempt(0, "says"), *first]
    assert len(backend.told) == 1


def test_another_question_is_asked(cache: MemoryCache) -> None:
    backend = Says()
    route = Cached(backend, "route", cache, TTL_S)
    for fields in ({}, {"temperature": 0.5}, {"prompt": "other"}):
        heard(route, **fields)
    heard(Cached(backend, "other route", cache, TTL_S))
    assert len(backend.told) == 4


def test_an_answer_is_asked_for_again_after_its_time(cache: MemoryCache, clock: Clock) -> None:
    backend = Says()
    route = Cached(backend, "route", cache, TTL_S)
    for _ in range(3):
        heard(route)
        clock.advance(TTL_S - 1)
    assert len(backend.told) == 2


def test_what_is_kept_is_the_last_attempts_answer_and_its_backend(cache: MemoryCache) -> None:
    inner = BeginsAnew("torn", Attempt(2, "second"), "torn too", Attempt(3, "third"), "whole", DONE)
    route = Cached(inner, "route", cache, TTL_S)
    heard(route)
    assert heard(route) == [Attempt(0, "third"), "whole", DONE]


def test_an_answer_cut_by_a_limit_is_kept(cache: MemoryCache) -> None:
    cut = Finish(FinishReason.LENGTH)
    route = Cached(BeginsAnew("so far", cut), "route", cache, TTL_S)
    heard(route)
    assert heard(route) == [Attempt(0, "first"), "so far", cut]


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.ERROR])
def test_no_other_end_is_kept(cache: MemoryCache, reason: FinishReason) -> None:
    heard(Cached(BeginsAnew("so far", Finish(reason)), "route", cache, TTL_S))
    assert cache.size == 0


def test_half_an_answer_is_not_kept(cache: MemoryCache) -> None:
    heard(Cached(CutsTheStream(), "route", cache, TTL_S))
    for error in (UpstreamError("down"), UpstreamTruncated("cut"), ValueError()):
        with pytest.raises(type(error)):
            heard(Cached(Raises(error), "route", cache, TTL_S))
    assert cache.size == 0


def test_an_answer_that_nobody_hears_to_its_end_is_not_kept(cache: MemoryCache) -> None:
    route = Cached(Says(), "route", cache, TTL_S)
    stream = route.stream(a_request(), [], StopSignal())
    next(stream)
    stream.close()
    assert cache.size == 0


def test_a_refresh_asks_and_its_answer_is_kept(cache: MemoryCache) -> None:
    backend = Says("old")
    route = Cached(backend, "route", cache, TTL_S)
    heard(route)
    backend.pieces = ("new",)
    assert heard(route, reuse=Reuse.REFRESH)[0] == "new"
    assert heard(route)[:2] == [Attempt(0, "says"), "new"]


def test_a_request_that_wants_no_part_in_it_neither_gets_nor_gives(cache: MemoryCache) -> None:
    backend = Says("old")
    route = Cached(backend, "route", cache, TTL_S)
    heard(route, reuse=Reuse.NEVER)
    assert cache.size == 0
    heard(route)
    backend.pieces = ("new",)
    assert heard(route, reuse=Reuse.NEVER)[0] == "new"
    assert heard(route)[:2] == [Attempt(0, "says"), "old"]


@pytest.mark.parametrize("items", [[DONE], ["torn", Attempt(2, "second"), DONE]], ids=len)
def test_an_answer_without_a_word_is_not_kept(cache: MemoryCache, items: list[Any]) -> None:
    heard(Cached(BeginsAnew(*items), "route", cache, TTL_S))
    assert cache.size == 0


def test_a_very_long_answer_is_not_kept(cache: MemoryCache) -> None:
    route = Cached(Says("x" * LARGEST, "y"), "route", cache, TTL_S)
    for _ in range(2):
        assert heard(route)[0] == "x" * LARGEST
    assert cache.size == 0


@pytest.mark.parametrize("count", [1, MOST_PIECES, MOST_PIECES + 1, 2500])
def test_many_pieces_become_fewer_with_the_same_text(cache: MemoryCache, count: int) -> None:
    pieces = [f"{number} " for number in range(count)]
    route = Cached(Says(*pieces), "route", cache, TTL_S)
    heard(route)
    _, *again, _ = heard(route)
    assert "".join(map(str, again)) == "".join(pieces)
    assert len(again) <= MOST_PIECES
    assert (again == pieces) == (count <= MOST_PIECES)
