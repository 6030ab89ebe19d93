"""What every count of callers owes: one suite, over this process's own and over Redis."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from orchestrator.errors import PipelineUnavailable
from orchestrator.limits.base import SLICES, Places, Standing, Windows
from orchestrator.limits.memory import MemoryPlaces, MemoryWindows
from orchestrator.limits.shared import SharedPlaces
from orchestrator.rate import Rate, parse
from orchestrator.stores.redis.limits import LEASE_S, RedisLimits
from tests.fakes.clock import Clock
from tests.redis_server import RedisServer

RACERS = 40


class Shared(Windows, SharedPlaces, Protocol):
    """Both counts, as Redis has them."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(redis: RedisServer, clock: Clock) -> Iterator[Callable[[], Shared]]:
    """What makes counts over one Redis, each as a process of its own would."""
    made: list[RedisLimits] = []

    def make() -> Shared:
        made.append(RedisLimits(redis.url, clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=["memory", "redis"])
def windows(request: pytest.FixtureRequest, clock: Clock) -> Windows:
    if request.param == "memory":
        return MemoryWindows(clock)
    made: Windows = request.getfixturevalue("counts")()
    return made


@pytest.fixture(params=["memory", "redis"])
def places(request: pytest.FixtureRequest) -> Places:
    if request.param == "memory":
        return MemoryPlaces()
    made: Places = request.getfixturevalue("counts")()
    return made


# Windows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("text", ["7/second", "10/minute", "25/minute, 4/second", "30/day, 9/hour"])
def test_in_no_period_is_more_let_through_than_a_rate_says(
    windows: Windows, clock: Clock, text: str, seed: int
) -> None:
    chance = random.Random(seed)
    rates = parse(text)
    least = min(rate.period_s / rate.amount for rate in rates)
    admitted: list[float] = []
    for _ in range(250):
        clock.advance(
            chance.choice([0, 0, 0, chance.uniform(0, least), chance.uniform(0, 9 * least)])
        )
        if windows.hit("a", rates).is_admitted:
            admitted.append(clock())
    for rate in rates:
        for first, last in zip(admitted, admitted[rate.amount :], strict=False):
            assert last - first >= rate.period_s


@pytest.mark.parametrize("text", ["6/second", "60/minute", "24/day"])
def test_who_keeps_to_its_rate_is_never_refused(windows: Windows, clock: Clock, text: str) -> None:
    (rate,) = parse(text)
    # A call counts for a slice longer than the period, at most.
    pace = rate.period_s * (1 + 1 / SLICES) / rate.amount + 0.001
    for _ in range(4 * rate.amount):
        assert windows.hit("a", [rate]).is_admitted
        clock.advance(pace)


def test_a_burst_up_to_the_amount_is_let_through_and_counted_down(windows: Windows) -> None:
    standings = [windows.hit("a", parse("5/minute")) for _ in range(7)]
    assert [standing.is_admitted for standing in standings] == [True] * 5 + [False] * 2
    assert [standing.remaining for standing in standings] == [4, 3, 2, 1, 0, 0, 0]


def test_what_was_told_holds(windows: Windows, clock: Clock) -> None:
    rates = parse("3/minute")
    for _ in range(3):
        windows.hit("a", rates)
        clock.advance(7)
    told = windows.hit("a", rates)
    assert not told.is_admitted
    clock.advance(told.reset_s - 0.05)
    assert not windows.hit("a", rates).is_admitted
    clock.advance(0.1)
    assert windows.hit("a", rates).is_admitted
    assert not windows.hit("a", rates).is_admitted, "one came back, as one was over"


def test_a_refused_call_counts_in_no_window(windows: Windows, clock: Clock) -> None:
    rates = parse("5/minute, 2/second")
    for _ in range(2):
        windows.hit("a", rates)
    for _ in range(20):
        assert not windows.hit("a", rates).is_admitted
    clock.advance(1.1)
    standing = windows.hit("a", rates)
    assert standing.is_admitted
    minute = windows.hit("a", parse("5/minute"))
    assert (minute.is_admitted, minute.remaining) == (True, 1)


def test_the_rate_that_leaves_the_least_is_told(windows: Windows, clock: Clock) -> None:
    rates = parse("3/minute, 2/second")
    assert windows.hit("a", rates).rate == Rate(2, 1)
    assert windows.hit("a", rates).rate == Rate(2, 1)
    clock.advance(1.1)
    standing = windows.hit("a", rates)
    assert (standing.rate, standing.remaining) == (Rate(3, 60), 0)
    assert 58 < standing.reset_s <= 61


def test_accounts_have_windows_of_their_own(windows: Windows) -> None:
    rates = parse("1/minute")
    names = ["a", "b", "a ", "A", "é", "a\x00", "key:a", "60:a"]
    assert all(windows.hit(name, rates).is_admitted for name in names)
    assert not any(windows.hit(name, rates).is_admitted for name in names)


def test_a_race_lets_through_as_many_as_the_rate_says(windows: Windows) -> None:
    rates = parse("100/minute, 30/second")
    judged: list[Standing] = []
    start = threading.Barrier(RACERS)

    def call() -> None:
        start.wait()
        judged.extend([windows.hit("a", rates) for _ in range(5)])

    racers = [threading.Thread(target=call) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(judged) == 5 * RACERS
    assert sum(standing.is_admitted for standing in judged) == 30


def test_all_processes_count_in_one_window(counts: Callable[[], Shared]) -> None:
    rates = parse("10/minute")
    processes = [counts() for _ in range(3)]
    assert sum(one.hit("a", rates).is_admitted for _ in range(5) for one in processes) == 10


def test_nothing_stays_of_a_caller_that_is_gone(
    counts: Callable[[], Shared], redis: RedisServer
) -> None:
    counts().hit("a", parse("10/second"))
    (key,) = redis.client.keys("o:rate:*")
    assert 0 < redis.client.pttl(key) <= 1_100
    counts().take("a", 1)
    (key,) = redis.client.keys("o:places:*")
    assert 0 < redis.client.pttl(key) <= LEASE_S * 1000


def test_a_redis_that_is_away_is_said_to_be() -> None:
    nobody = RedisLimits("redis://127.0.0.1:1/0")
    with pytest.raises(PipelineUnavailable):
        nobody.hit("a", parse("10/second"))
    with pytest.raises(PipelineUnavailable):
        nobody.take("a", 1)
    nobody.give_back("a", "place")


def test_a_key_of_another_kind_is_no_reason_to_fail_a_call(
    counts: Callable[[], Shared], redis: RedisServer
) -> None:
    redis.client.set("o:rate:1:a", "x")
    with pytest.raises(PipelineUnavailable):
        counts().hit("a", parse("10/second"))


# Places


def test_there_are_as_many_places_as_the_limit_says(places: Places) -> None:
    taken = [places.take("a", 3) for _ in range(5)]
    assert len(set(taken[:3]) - {None}) == 3
    assert taken[3:] == [None, None]
    assert places.take("b", 3)
    assert taken[0]
    places.give_back("a", taken[0])
    places.give_back("a", taken[0])
    places.give_back("a", "never taken")
    places.give_back("never seen", taken[0])
    assert places.take("a", 3)
    assert places.take("a", 3) is None


def test_a_lower_limit_holds_for_what_comes(places: Places) -> None:
    taken = [places.take("a", 5) for _ in range(5)]
    assert places.take("a", 2) is None
    for place in taken[:4]:
        assert place
        places.give_back("a", place)
    assert places.take("a", 2)
    assert places.take("a", 2) is None


def test_a_race_takes_as_many_places_as_there_are(places: Places) -> None:
    taken: list[str | None] = []
    start = threading.Barrier(RACERS)

    def take() -> None:
        start.wait()
        taken.append(places.take("a", 7))

    racers = [threading.Thread(target=take) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(taken) == RACERS
    assert len({place for place in taken if place}) == 7


def test_places_of_a_process_that_died_are_free_after_their_lease(
    counts: Callable[[], Shared], clock: Clock
) -> None:
    dead, alive = counts(), counts()
    kept = alive.take("a", 2)
    assert kept
    assert dead.take("a", 2)
    assert alive.take("a", 2) is None
    clock.advance(LEASE_S / 2)
    alive.renew([("a", kept)])
    clock.advance(LEASE_S / 2)
    assert alive.take("a", 2)
    assert alive.take("a", 2) is None


def test_processes_are_counted_while_they_show_up(
    counts: Callable[[], Shared], clock: Clock
) -> None:
    first, second = counts(), counts()
    assert (first.renew([]), second.renew([]), first.renew([])) == (1, 2, 2)
    clock.advance(LEASE_S / 2)
    assert first.renew([]) == 2
    clock.advance(LEASE_S / 2)
    assert first.renew([]) == 1


def test_thousands_of_places_are_renewed(
    counts: Callable[[], Shared], clock: Clock, redis: RedisServer
) -> None:
    process = counts()
    held = [(f"account {number % 7}", f"place {number}") for number in range(1_234)]
    assert process.renew(held) == 1
    assert sum(redis.client.zcard(key) for key in redis.client.keys("o:places:*")) == len(held)
    clock.advance(LEASE_S - 1)
    process.renew(held)
    clock.advance(LEASE_S - 1)
    assert process.take("account 0", 1) is None


def test_the_count_goes_on_when_redis_has_forgotten_the_scripts(
    counts: Callable[[], Shared], redis: RedisServer
) -> None:
    process = counts()
    assert process.hit("a", parse("2/minute")).is_admitted
    redis.client.script_flush()
    assert process.hit("a", parse("2/minute")).is_admitted
    assert not process.hit("a", parse("2/minute")).is_admitted
