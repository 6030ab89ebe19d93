"""What every cache owes, and what those in memory and in Redis may hold."""

import threading
from collections.abc import Callable, Iterator

import pytest

from orchestrator.events import FinishReason, Usage
from orchestrator.stores.cache import Answer, Cache, pack
from orchestrator.stores.memory.cache import ENTRY_BYTES, MemoryCache
from orchestrator.stores.redis import cache as redis_cache
from orchestrator.stores.redis import names
from orchestrator.stores.redis.cache import RedisCache
from tests.fakes.clock import Clock
from tests.redis_server import RedisServer

TTL_S = 60.0
LIMIT = 100_000


def answer(text: str = "Hello") -> Answer:
    return Answer((text, " world"), FinishReason.STOP, Usage(1, 2), "primary/big")


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeRedisCache = Callable[..., RedisCache]


@pytest.fixture
def make_redis_cache(redis: RedisServer) -> Iterator[MakeRedisCache]:
    """What makes caches over one Redis, each as a process of its own would."""
    caches: list[RedisCache] = []

    def make(limit: int = LIMIT, clock: Clock | None = None, url: str = redis.url) -> RedisCache:
        caches.append(RedisCache(url, limit, clock))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, clock: Clock) -> Cache:
    """A cache of each kind."""
    if request.param == "memory":
        return MemoryCache(LIMIT, clock)
    make: MakeRedisCache = request.getfixturevalue("make_redis_cache")
    return make(clock=clock)


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


# In Redis


def room_in_redis(answers: int) -> int:
    """The bytes that so many usual answers take in Redis."""
    return answers * (len(pack(answer())) + redis_cache.ENTRY_BYTES)


def test_what_one_process_keeps_another_finds(make_redis_cache: MakeRedisCache) -> None:
    make_redis_cache().put(b"key", answer(), TTL_S)
    assert make_redis_cache().get(b"key") == answer()


def test_the_least_recently_used_in_redis_goes_first(make_redis_cache: MakeRedisCache) -> None:
    cache = make_redis_cache(room_in_redis(3))
    for key in (b"a", b"b", b"c"):
        cache.put(key, answer(), TTL_S)
    assert make_redis_cache().get(b"a")
    cache.put(b"d", answer(), TTL_S)
    assert [bool(cache.get(key)) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_what_is_too_old_goes_before_what_is_not(make_redis_cache: MakeRedisCache) -> None:
    clock = Clock()
    cache = make_redis_cache(room_in_redis(2), clock)
    cache.put(b"lasts", answer(), 2 * TTL_S)
    cache.put(b"passes", answer(), TTL_S)
    clock.advance(TTL_S)
    cache.put(b"new", answer(), TTL_S)
    assert cache.get(b"lasts")
    assert cache.get(b"new")


def test_redis_holds_no_more_than_it_may(
    make_redis_cache: MakeRedisCache, redis: RedisServer
) -> None:
    cache = make_redis_cache(room_in_redis(5))
    for number in range(50):
        cache.put(b"%d" % (number % 20), answer(), TTL_S)
    assert int(redis.client.get(names.CACHE_TOTAL)) == room_in_redis(5)
    assert len(redis.client.keys(names.CACHED + "*")) == 5
    for index in (names.CACHE_USED, names.CACHE_UNTIL):
        assert redis.client.zcard(index) == 5
    assert redis.client.hlen(names.CACHE_SIZES) == 5


def test_an_answer_in_redis_costs_what_it_counts(
    make_redis_cache: MakeRedisCache, redis: RedisServer
) -> None:
    cache = make_redis_cache(10_000_000)
    before = redis.client.info("memory")["used_memory_dataset"]
    count = 5_000
    for number in range(count):
        cache.put(number.to_bytes(32, "big"), answer(), TTL_S)
    cost = (redis.client.info("memory")["used_memory_dataset"] - before) / count
    assert 0.5 * cost < room_in_redis(1) < 2 * cost


def test_while_redis_is_away_nothing_is_found_and_nothing_raised(
    make_redis_cache: MakeRedisCache,
) -> None:
    cache = make_redis_cache(url="redis://127.0.0.1:1")
    cache.put(b"key", answer(), TTL_S)
    assert cache.get(b"key") is None


def test_an_answer_that_another_version_packed_is_none(
    make_redis_cache: MakeRedisCache, redis: RedisServer
) -> None:
    cache = make_redis_cache()
    cache.put(b"key", answer(), TTL_S)
    redis.client.set(names.CACHED.encode() + b"key", b"[1]")
    assert cache.get(b"key") is None
