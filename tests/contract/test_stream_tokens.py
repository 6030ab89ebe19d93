"""Stream tokens, wherever they wait: one request, once, within a minute."""

from collections.abc import Iterator

import pytest

from orchestrator.auth import tickets
from orchestrator.auth.tickets import MOST_EACH, TTL_S, MemoryTickets, Tickets
from orchestrator.caller import Caller, Scope
from orchestrator.errors import PipelineUnavailable, Unauthorized
from orchestrator.stores.redis.credentials import RedisTickets
from tests.fakes.clock import Clock

CALLER = Caller("acme", "key", frozenset({Scope.INFER}), "5/minute", 12.5, "key")


@pytest.fixture(params=["memory", "redis"])
def kept(request: pytest.FixtureRequest) -> Iterator[Tickets]:
    if request.param == "memory":
        yield MemoryTickets()
        return
    redis = RedisTickets(request.getfixturevalue("redis").url)
    yield redis
    redis.close()


def redeem(kept: Tickets, token: str, request_id: str) -> Caller:
    """What opens a stream."""
    holder = tickets.holder(kept, token, request_id)
    tickets.use(kept, token)
    return holder


def test_a_token_stands_for_its_caller_who_may_only_read(kept: Tickets) -> None:
    token = tickets.issue(kept, "id", CALLER)
    assert redeem(kept, token, "id") == CALLER._replace(scopes=frozenset({Scope.READ}))


def test_a_token_is_good_once(kept: Tickets) -> None:
    token = tickets.issue(kept, "id", CALLER)
    redeem(kept, token, "id")
    with pytest.raises(Unauthorized):
        redeem(kept, token, "id")


def test_a_token_is_good_until_it_is_used(kept: Tickets) -> None:
    token = tickets.issue(kept, "id", CALLER)
    for _ in range(3):
        assert tickets.holder(kept, token, "id")
    tickets.use(kept, token)
    with pytest.raises(Unauthorized):
        tickets.holder(kept, token, "id")


def test_of_two_that_use_a_token_at_once_one_is_refused(kept: Tickets) -> None:
    token = tickets.issue(kept, "id", CALLER)
    for _ in range(2):
        tickets.holder(kept, token, "id")
    tickets.use(kept, token)
    with pytest.raises(Unauthorized):
        tickets.use(kept, token)


def test_a_token_that_was_tried_on_another_request_is_good_for_none(kept: Tickets) -> None:
    token = tickets.issue(kept, "id", CALLER)
    for request_id in ("other", "id"):
        with pytest.raises(Unauthorized):
            redeem(kept, token, request_id)


def test_a_token_expires_and_makes_room() -> None:
    clock = Clock()
    kept = MemoryTickets(clock)
    token = tickets.issue(kept, "id", CALLER)
    clock.advance(TTL_S)
    with pytest.raises(Unauthorized):
        redeem(kept, token, "id")


@pytest.mark.parametrize("token", ["", "x", "\udc80", "a" * 100_000])
def test_what_is_no_token_is_refused(kept: Tickets, token: str) -> None:
    with pytest.raises(Unauthorized):
        redeem(kept, token, "id")


def test_of_one_caller_so_many_wait_and_the_oldest_makes_room(kept: Tickets) -> None:
    other = CALLER._replace(name="other", key_id="other")
    others = tickets.issue(kept, "id", other)
    first, *rest = [tickets.issue(kept, "id", CALLER) for _ in range(MOST_EACH + 1)]
    with pytest.raises(Unauthorized):
        redeem(kept, first, "id")
    assert redeem(kept, others, "id").name == "other"
    for token in rest:
        assert redeem(kept, token, "id").name == CALLER.name


def test_room_that_was_made_by_use_is_room(kept: Tickets) -> None:
    for _ in range(2 * MOST_EACH):
        redeem(kept, tickets.issue(kept, "id", CALLER), "id")
    tokens = [tickets.issue(kept, "id", CALLER) for _ in range(MOST_EACH)]
    for token in tokens:
        assert redeem(kept, token, "id")


def test_those_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST", 3)
    clock = Clock()
    kept = MemoryTickets(clock)
    for _ in range(3):
        tickets.issue(kept, "id", CALLER)
    with pytest.raises(PipelineUnavailable) as refusal:
        tickets.issue(kept, "id", CALLER)
    assert refusal.value.retry_after
    clock.advance(TTL_S)
    tickets.issue(kept, "id", CALLER)
