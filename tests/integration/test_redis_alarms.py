"""Which targets fail, told from process to process over a real Redis."""

from collections.abc import Iterator

import pytest

from orchestrator.errors import UpstreamError
from orchestrator.routing.breaker import FAILURES, OPEN_S, Breaker
from orchestrator.stores.redis.alarms import WELL_EVERY_S, RedisAlarms
from tests.fakes.asking import eventually
from tests.fakes.clock import Clock
from tests.redis_server import RedisServer

DOWN = UpstreamError("The provider is down; try again later.", status=503)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alarms(redis: RedisServer, clock: Clock) -> Iterator[list[RedisAlarms]]:
    """Those of three processes."""
    made = [RedisAlarms(redis.url, clock) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def test_an_alarm_is_everybodys_and_ends_with_its_time(alarms: list[RedisAlarms]) -> None:
    one, _, web = alarms
    one.note("a/big", 0.3, DOWN)
    alarm = web.of(["a/big"])
    assert alarm
    assert 0 < alarm.seconds <= 0.3
    assert alarm.message == DOWN.message
    eventually(lambda: web.of(["a/big"]) is None)


def test_there_is_none_while_one_of_the_targets_answers(alarms: list[RedisAlarms]) -> None:
    one, other, web = alarms
    one.note("a/big", 60, DOWN)
    assert web.of(["a/big", "b/big"]) is None
    other.note("b/big", 5, UpstreamError("Another reason."))
    alarm = web.of(["a/big", "b/big"])
    assert alarm
    assert 4 < alarm.seconds <= 5, "the first that may be asked again"
    assert alarm.message == DOWN.message, "the preferred one's"


def test_one_answer_anywhere_ends_it(alarms: list[RedisAlarms], clock: Clock) -> None:
    sick, well, web = alarms
    well.note("a/big", 0)
    sick.note("a/big", 60, DOWN)
    well.note("a/big", 0)
    assert web.of(["a/big"]), "not each answer is told"
    clock.advance(WELL_EVERY_S)
    well.note("a/big", 0)
    assert web.of(["a/big"]) is None


def test_breakers_tell_of_what_they_open_and_close_for(
    alarms: list[RedisAlarms], clock: Clock
) -> None:
    worker, _, web = alarms
    breaker = Breaker(
        "a/big", clock, tell=lambda seconds, error: worker.note("a/big", seconds, error)
    )
    for _ in range(FAILURES):
        assert web.of(["a/big"]) is None
        permit = breaker.enter()
        assert permit
        permit.failed(DOWN)
    alarm = web.of(["a/big"])
    assert alarm
    assert alarm.seconds == pytest.approx(OPEN_S, abs=2)
    clock.advance(OPEN_S)
    probe = breaker.enter()
    assert probe
    probe.alive()
    assert web.of(["a/big"]) is None


def test_without_a_redis_there_is_no_alarm(clock: Clock) -> None:
    nowhere = RedisAlarms("redis://127.0.0.1:1/0", clock)
    nowhere.note("a/big", 60, DOWN)
    assert nowhere.of(["a/big"]) is None
    nowhere.close()
