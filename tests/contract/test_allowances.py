"""What a caller may have of requests at once and tokens a day, in every store."""

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.allowance import DAY_S, Allowance, Budget
from orchestrator.errors import OrchestratorError, RateLimited, SessionBusy
from orchestrator.events import (
    Cancelled,
    Completed,
    Failed,
    FinishReason,
    Restarted,
    Terminal,
    Token,
    Usage,
)
from orchestrator.job import Job, OnBusy, Status
from orchestrator.stores.base import Idempotency, Store
from orchestrator.stores.memory.store import MemoryStore
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job
from tests.redis_server import RedisServer

DONE = Completed(FinishReason.STOP, Usage(30, 12))
UNCOUNTED = Completed(FinishReason.STOP)
FAILED = Failed("UPSTREAM_ERROR", "The provider is down.")
LATE = Failed("DEADLINE_EXCEEDED", "The request ran into its time limit.", "run")
ENOUGH = 1_000_000
RACERS = 30


@pytest.fixture
def clock() -> Clock:
    """Noon, so that midnight is far."""
    clock = Clock()
    clock.advance(DAY_S / 2 - clock() % DAY_S)
    return clock


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Store:
    limits: dict[str, Any] = {"queue_limit": 1_000, "retention_s": 3600.0, "clock": clock}
    if request.param == "redis":
        made: Store = request.getfixturevalue("redis_store")(**limits)
        return made
    return MemoryStore(memory_limit=1 << 28, **limits)


def crowd(limit: int, account: str = "key:a") -> Allowance:
    """Return the allowance of a caller that may have so many requests at once."""
    return Allowance(account, live=limit)


def tokens(limit: int, answer: int = 10, said: int = 0, account: str = "key:a") -> Allowance:
    """Return the allowance of a caller that may use so many tokens a day."""
    return Allowance(account, 0, (Budget(account, limit),), said, answer)


def submitted(store: Store, allowance: Allowance | None, **fields: Any) -> Job:
    job = a_job(**fields)
    store.submit(job, None, allowance)
    return job


def running(store: Store, allowance: Allowance | None, *said: str, **fields: Any) -> Job:
    job = submitted(store, allowance, **fields)
    assert store.claim(job.id, "echo")
    for chunk, text in enumerate(said):
        assert store.append(job.id, Token(chunk, text))
    return job


def refused(store: Store, allowance: Allowance, **fields: Any) -> RateLimited:
    job = a_job(**fields)
    with pytest.raises(RateLimited) as caught:
        store.submit(job, None, allowance)
    with pytest.raises(OrchestratorError):
        store.get(job.id)
    return caught.value


def left(store: Store, limit: int) -> int:
    """Return how many tokens of ``limit`` are left, asking with requests that end at once."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            store.cancel(submitted(store, tokens(limit, middle)).id)
        except RateLimited:
            high = middle
        else:
            low = middle
    return low


# Requests at once


def test_no_more_wait_or_run_than_a_caller_may_have(store: Store) -> None:
    submitted(store, crowd(3))
    running(store, crowd(3))
    running(store, crowd(3))
    error = refused(store, crowd(3))
    assert error.retry_after == 1
    assert "3 requests" in error.message
    submitted(store, crowd(3, "key:b"))
    submitted(store, crowd(4))
    submitted(store, None)


@pytest.mark.parametrize("end", [DONE, FAILED, Cancelled()])
def test_any_end_of_a_request_makes_room(store: Store, end: Terminal) -> None:
    job = running(store, crowd(1), "hello")
    refused(store, crowd(1))
    store.finish(job.id, end)
    store.finish(job.id, end)
    running(store, crowd(1))
    refused(store, crowd(1))


def test_an_interrupt_may_have_what_it_gives_back(store: Store) -> None:
    one = Allowance("key:a", 2, (Budget("key:a", 20),), 0, 10)
    running(store, one, session_id="a")
    waiting = submitted(store, one, session_id="b")
    refused(store, one, session_id="a", on_busy=OnBusy.INTERRUPT)
    refused(store, one, session_id="b", on_busy=OnBusy.ENQUEUE)
    last = submitted(store, one, session_id="b", on_busy=OnBusy.INTERRUPT)
    assert store.get(waiting.id).status is Status.CANCELLED
    assert store.get(last.id).status is Status.PENDING
    refused(store, one)


def test_an_interrupt_gives_back_nothing_of_another_account(store: Store) -> None:
    submitted(store, crowd(1, "key:b"), session_id="chat")
    submitted(store, crowd(1))
    refused(store, crowd(1), session_id="chat", on_busy=OnBusy.INTERRUPT)
    submitted(store, tokens(10, account="key:d"), session_id="talk")
    submitted(store, tokens(10, account="key:c"))
    refused(store, tokens(10, account="key:c"), session_id="talk", on_busy=OnBusy.INTERRUPT)


def test_a_cancel_in_the_queue_makes_room(store: Store) -> None:
    job = submitted(store, crowd(1))
    store.cancel(job.id)
    store.cancel(job.id)
    submitted(store, crowd(1))
    refused(store, crowd(1))


def test_a_request_that_waited_in_vain_makes_room(store: Store, clock: Clock) -> None:
    job = submitted(store, crowd(1), queue_timeout_s=5.0)
    clock.advance(6)
    store.finish(job.id, FAILED)
    submitted(store, crowd(1))


def test_the_line_of_a_session_counts_each_of_its_requests(store: Store) -> None:
    for _ in range(3):
        submitted(store, crowd(3), session_id="one")
    refused(store, crowd(3), session_id="one")
    refused(store, crowd(3))


def test_a_refused_request_leaves_no_trace(store: Store) -> None:
    submitted(store, crowd(1))
    refused(store, crowd(1), session_id="new")
    with pytest.raises(OrchestratorError):
        store.session("new")
    running_one = submitted(store, None, session_id="busy")
    assert store.claim(running_one.id, "echo")
    with pytest.raises(SessionBusy):
        store.submit(a_job(session_id="busy", on_busy=OnBusy.REJECT), None, crowd(2))
    submitted(store, crowd(2))
    refused(store, crowd(2))


def test_the_same_request_again_is_answered_however_many_there_are(store: Store) -> None:
    key = Idempotency("key", b"f" * 32)
    job = a_job()
    store.submit(job, key, crowd(1))
    again = store.submit(a_job(), key, crowd(1))
    assert again.replayed
    assert again.request_id == job.id
    store.cancel(job.id)
    submitted(store, crowd(1))


def test_a_race_admits_as_many_as_there_may_be(store: Store) -> None:
    admitted: list[str] = []
    start = threading.Barrier(RACERS)

    def race() -> None:
        start.wait()
        with contextlib.suppress(RateLimited):
            admitted.append(submitted(store, crowd(7)).id)

    racers = [threading.Thread(target=race) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(admitted) == 7


@pytest.mark.parametrize("seed", range(3))
def test_room_is_neither_lost_nor_won_in_a_long_life(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    ends: list[Terminal] = [DONE, FAILED]
    live: list[Job] = []
    for _ in range(150):
        if chance.random() < 0.6:
            try:
                live.append(submitted(store, crowd(5), session_id=chance.choice("abc")))
            except RateLimited:
                assert len(live) == 5
        elif live:
            job = live.pop(chance.randrange(len(live)))
            if chance.random() < 0.5 and store.claim(job.id, "echo"):
                store.finish(job.id, chance.choice(ends))
            else:
                store.cancel(job.id)
            if not store.get(job.id).status.is_terminal:
                store.finish(job.id, Cancelled())
    assert len(live) <= 5
    for _ in range(5 - len(live)):
        submitted(store, crowd(5))
    refused(store, crowd(5))


# Tokens a day


def test_what_a_request_may_cost_is_reserved_until_it_ends(store: Store) -> None:
    job = running(store, tokens(100, answer=60))
    error = refused(store, tokens(100, answer=41))
    assert error.message == (
        "You may use 100 tokens a day. 60 are used or reserved, and this request may need 41. "
        "Submit it with fewer max_tokens, or after midnight, UTC."
    )
    assert error.retry_after == DAY_S / 2
    submitted(store, tokens(100, answer=41, account="key:b"))
    submitted(store, tokens(100, answer=40))
    store.finish(job.id, DONE)
    assert left(store, 100) == 100 - 40 - 42


@pytest.mark.parametrize(
    ("said", "end", "cost"),
    [
        (["hello"], DONE, 42),
        (["12345678", "9"], UNCOUNTED, 5 + 3),
        ([], FAILED, 0),
        ([], LATE, 5),
        (["12345678"], FAILED, 5 + 2),
        (["12345678"], Cancelled(), 5 + 2),
        ([], Cancelled(), 5),
        (["1234"], Cancelled(Usage(6, 3)), 9),
        (["1234"] * 20, Cancelled(Usage(6, 1)), 5 + 20),
        (["1234"] * 20, Failed("X", "x", failed_usage=Usage(6, 1)), 5 + 20),
        ([], Failed("X", "x", failed_usage=Usage(4, 0)), 4),
        (["1234"], Failed("X", "x", failed_usage=Usage(6, 3)), 9),
        (["1234"], Completed(FinishReason.STOP, Usage(3, 4), Usage(20, 0)), 27),
        (["1234"], Completed(FinishReason.STOP, None, Usage(20, 0)), 20 + 5 + 1),
    ],
)
def test_the_end_counts_what_was_reported_or_else_what_was_said(
    store: Store, said: list[str], end: Terminal, cost: int
) -> None:
    job = running(store, tokens(ENOUGH, answer=50, said=5), *said)
    store.finish(job.id, end)
    assert left(store, ENOUGH) == ENOUGH - cost


def test_what_was_never_begun_costs_nothing(store: Store) -> None:
    store.cancel(submitted(store, tokens(ENOUGH)).id)
    store.finish(submitted(store, tokens(ENOUGH)).id, FAILED)
    assert left(store, ENOUGH) == ENOUGH


def test_an_answer_that_came_after_a_cancel_costs_what_it_did(store: Store) -> None:
    job = running(store, tokens(ENOUGH), "hello")
    store.cancel(job.id)
    store.finish(job.id, DONE)
    assert store.get(job.id).status is Status.CANCELLED
    assert left(store, ENOUGH) == ENOUGH - 42


def test_an_answer_begun_anew_costs_what_is_left_of_it(store: Store) -> None:
    job = running(store, tokens(ENOUGH, said=5), "12345678")
    store.append(job.id, Restarted(2, "The provider is down."))
    store.append(job.id, Token(0, "1234"))
    store.finish(job.id, UNCOUNTED)
    assert left(store, ENOUGH) == ENOUGH - 6


def test_what_a_session_remembers_is_paid_for_again(store: Store) -> None:
    first = running(store, None, "1234", prompt="12345678", session_id="one")
    store.finish(first.id, DONE)
    refused(store, tokens(12, answer=10), session_id="one")
    job = running(store, tokens(13, answer=10), session_id="one")
    store.cancel(job.id)
    store.finish(job.id, Cancelled())
    assert left(store, ENOUGH) == ENOUGH - 3


def test_a_day_begins_at_midnight_and_owes_nothing_to_the_last(store: Store, clock: Clock) -> None:
    running(store, tokens(100, answer=100), session_id="over midnight", timeout_s=DAY_S)
    refused(store, tokens(100, answer=1))
    clock.advance(DAY_S / 2 - 1)
    assert refused(store, tokens(100, answer=1)).retry_after == 1
    clock.advance(1)
    assert left(store, 100) == 100


def test_a_request_is_counted_on_the_day_it_was_submitted(store: Store, clock: Clock) -> None:
    clock.advance(DAY_S / 2 - 10)
    job = running(store, tokens(100, answer=60))
    clock.advance(20)
    store.finish(job.id, DONE)
    assert left(store, 100) == 100


def test_every_budget_must_have_enough_and_the_one_that_has_not_is_named(store: Store) -> None:
    both = Allowance("a", 0, (Budget("a", 100), Budget("model:dear a", 30, "dear")), 0, 20)
    submitted(store, both)
    assert "30 tokens of model 'dear' a day. 20 are used" in refused(store, both).message
    submitted(store, Allowance("a", 0, (Budget("a", 100),), 0, 80))
    assert "100 tokens a day. 100 are used" in refused(store, both).message


def test_a_refused_request_spends_of_no_budget(store: Store) -> None:
    both = Allowance("a", 0, (Budget("a", 100), Budget("model:dear a", 10, "dear")), 0, 20)
    for _ in range(20):
        refused(store, both)
    submitted(store, Allowance("a", 0, (Budget("a", 100),), 0, 100))


def test_a_race_for_tokens_spends_no_more_than_there_are(store: Store) -> None:
    admitted: list[str] = []
    start = threading.Barrier(RACERS)

    def race() -> None:
        start.wait()
        with contextlib.suppress(RateLimited):
            admitted.append(submitted(store, tokens(99, answer=10)).id)

    racers = [threading.Thread(target=race) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(admitted) == 9


def test_a_number_as_large_as_a_setting_allows_is_counted_exactly(store: Store) -> None:
    most = 10**12
    submitted(store, tokens(most, answer=most - 1))
    refused(store, tokens(most, answer=2))
    submitted(store, tokens(most, answer=1))
    refused(store, tokens(most, answer=1))


def test_all_processes_spend_of_one_budget(
    redis: RedisServer, redis_store: Callable[..., Store]
) -> None:
    one, other = redis_store(), redis_store()
    submitted(one, Allowance("a", 2, (Budget("a", 100),), 0, 40))
    job = submitted(other, Allowance("a", 2, (Budget("a", 100),), 0, 40))
    refused(one, crowd(2, "a"))
    refused(other, tokens(100, answer=21, account="a"))
    one.cancel(job.id)
    submitted(one, Allowance("a", 2, (Budget("a", 100),), 0, 60))


def test_a_request_that_was_lost_does_not_hold_its_place_forever(
    redis: RedisServer, redis_store: Callable[..., Store]
) -> None:
    store = redis_store()
    lost = submitted(store, crowd(1))
    redis.client.delete(f"o:job:{lost.id}")
    submitted(store, crowd(1))


def test_what_redis_keeps_of_callers_ends_by_itself(
    redis: RedisServer, redis_store: Callable[..., Store]
) -> None:
    submitted(redis_store(), Allowance("a", 2, (Budget("a", 100),), 0, 40))
    keys = [*redis.client.keys("o:live:*"), *redis.client.keys("o:spent:*")]
    assert len(keys) == 2
    assert all(redis.client.ttl(key) > 0 for key in keys)
