"""What every cache owes, and what the one in memory may hold."""

import threading

import pytest

from orchestrator.events import FinishReason, Usage
from orchestrator.stores.base import Answer, Cache
from orchestrator.stores.cache import ENTRY_BYTES, MemoryCache, pack
from tests.fakes.clock import Clock

TTL_S = 60.0
LIMIT = 100_000


def answer(text: str = "Hello") -> Answer:
    return Answer((text, " world"), FinishReason.STOP, Usage(1, 2), "primary/big")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory"])
def cache(clock: Clock) -> Cache:
    """A cache of each kind."""
    return MemoryCache(LIMIT, clock)


@pytest.mark.parametrize(
    "kept",
    [
        answer(),
        Answer((), FinishReason.STOP, None, "echo"),
        Answer(("cut",), FinishReason.LENGTH, Usage(0, 0), "a/b/c"),
        Answer(('"\\\n\0', "\ud83d", "\ude00", "é中😀"), FinishReason.STOP, None, "echo"),
    ],
)
def test_what_is_put_is_got(cache: Cache, kept: Answer) -> None:
    cache.put(b"key", kept, TTL_S)
    assert cache.get(b"key") == kept
    assert cache.get(b"key") == kept


def test_what_was_never_put_is_not_there(cache: Cache) -> None:
    cache.put(b"key", answer(), TTL_S)
    assert cache.get(b"other") is None


def test_an_answer_is_kept_for_its_time(cache: Cache, clock: Clock) -> None:
    cache.put(b"key", answer(), TTL_S)
    clock.advance(TTL_S - 1)
    assert cache.get(b"key")
    clock.advance(1)
    assert cache.get(b"key") is None


def test_a_newer_answer_takes_the_place_of_an_older_one(cache: Cache, clock: Clock) -> None:
    cache.put(b"key", answer("old"), TTL_S)
    clock.advance(TTL_S / 2)
    cache.put(b"key", answer("new"), TTL_S)
    clock.advance(TTL_S / 2)
    assert cache.get(b"key") == answer("new")


def test_an_answer_that_is_too_large_is_not_kept(cache: Cache) -> None:
    cache.put(b"small", answer(), TTL_S)
    cache.put(b"key", answer("old"), TTL_S)
    cache.put(b"key", answer("x" * LIMIT), TTL_S)
    assert cache.get(b"key") is None, "nor is the older one, which is not the answer any more"
    assert cache.get(b"small")


# In memory


def room_for(answers: int) -> int:
    """The bytes that so many usual answers take."""
    return answers * (len(pack(answer())) + ENTRY_BYTES)


def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(room_for(3))
    for key in (b"a", b"b", b"c"):
        cache.put(key, answer(), TTL_S)
    assert cache.get(b"a")
    cache.put(b"d", answer(), TTL_S)
    assert [bool(cache.get(key)) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_the_size_is_what_is_held() -> None:
    clock = Clock()
    cache = MemoryCache(room_for(3), clock)
    for number in range(10):
        cache.put(b"%d" % number, answer(), TTL_S)
        assert cache.size == room_for(min(number + 1, 3))
    cache.put(b"9", answer(), TTL_S)
    assert cache.size == room_for(3)
    clock.advance(TTL_S)
    for number in range(10):
        assert cache.get(b"%d" % number) is None
    assert cache.size == 0


def test_the_bound_holds_whoever_puts() -> None:
    cache = MemoryCache(LIMIT)

    def work(name: int) -> None:
        for number in range(200):
            cache.put(b"%d" % (number % 50), answer("x" * (name * number)), TTL_S)
            cache.get(b"%d" % (number % 7))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < cache.size <= LIMIT
