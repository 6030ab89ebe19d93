"""The short form of `make fuzz`."""

from pathlib import Path

import pytest

from tests.fuzz import openapi, sockets
from tests.fuzz.frames import TEXT, Case, close, frame, question, replay
from tests.fuzz.life import RETENTION_S, MemoryLife
from tests.fuzz.lives import LIVES, live
from tests.needs import needs
from tests.served import Served

SEED = 1


def test_the_api_answers_whatever_is_sent_as_its_document_says(
    server: Served, tmp_path: Path
) -> None:
    verdict = openapi.judge(openapi.Target(server), SEED, examples=5, folder=tmp_path, seconds=120)
    assert not verdict.found, verdict.found
    assert verdict.cases >= 300


@pytest.mark.parametrize("kind", LIVES)
def test_requests_live_as_the_model_says_whatever_happens(kind: str) -> None:
    if kind == "redis":
        needs("redis-server")
    assert live(kind, SEED, lives=25) >= 1_000


def test_a_store_that_breaks_a_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(MemoryLife):
        """Its store keeps what has ended for a second too long."""

        retention_s = RETENTION_S + 1.0

    monkeypatch.setitem(LIVES, "late", Late)
    with pytest.raises(AssertionError):
        live("late", SEED, lives=100)


def test_every_case_of_rfc_6455_is_answered_by_the_protocol(server: Served) -> None:
    logged = len(server.log)
    sent, failed = sockets.judge(server.port, SEED, random_cases=30)
    assert not failed, failed[:5]
    assert sent >= 2_000
    assert "Traceback" not in server.log[logged:], server.log[logged:]


@pytest.mark.parametrize(
    "case",
    [
        Case("another code", [close(1001)], code=1000),
        Case("another answer", [frame(TEXT, question("a"))], ["b"]),
        Case("no answer", [frame(TEXT, question("a"))]),
        Case("not over", [frame(TEXT, question("a")), close()], code=1002),
        Case("not alive", [frame(3)]),
        Case("a ping without a pong", [frame(9, b"x")], pongs=[b"y"]),
    ],
    ids=lambda case: case.name,
)
def test_a_case_that_is_answered_otherwise_is_found_out(server: Served, case: Case) -> None:
    assert replay(server.port, case, case.sent)
