"""Stream tokens: one request, once, within a minute."""

import pytest

from orchestrator.auth import tickets
from orchestrator.auth.tickets import TTL_S, MemoryTickets
from orchestrator.caller import Caller, Scope
from orchestrator.errors import PipelineUnavailable, Unauthorized
from tests.fakes.clock import Clock

CALLER = Caller("acme", "key", frozenset({Scope.INFER}), "5/minute", 12.5, "key")


def test_a_token_stands_for_its_caller_who_may_only_read() -> None:
    kept = MemoryTickets()
    token = tickets.issue(kept, "id", CALLER)
    assert tickets.redeem(kept, token, "id") == CALLER._replace(scopes=frozenset({Scope.READ}))


def test_a_token_is_good_once() -> None:
    kept = MemoryTickets()
    token = tickets.issue(kept, "id", CALLER)
    tickets.redeem(kept, token, "id")
    with pytest.raises(Unauthorized):
        tickets.redeem(kept, token, "id")


def test_a_token_that_was_tried_on_another_request_is_good_for_none() -> None:
    kept = MemoryTickets()
    token = tickets.issue(kept, "id", CALLER)
    for request_id in ("other", "id"):
        with pytest.raises(Unauthorized):
            tickets.redeem(kept, token, request_id)


def test_a_token_expires_and_makes_room() -> None:
    clock = Clock()
    kept = MemoryTickets(clock)
    token = tickets.issue(kept, "id", CALLER)
    clock.advance(TTL_S)
    with pytest.raises(Unauthorized):
        tickets.redeem(kept, token, "id")


@pytest.mark.parametrize("token", ["", "x", "\udc80", "a" * 100_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        tickets.redeem(MemoryTickets(), token, "id")


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
