"""The newest tokens of a log: what a reader is told at once, and when Redis has to be asked."""

import pytest

from orchestrator.events import Token
from orchestrator.job import Job, Status
from orchestrator.stores.base import LogPage
from orchestrator.stores.redis import codec
from orchestrator.stores.redis.tail import TAIL_BYTES, LogTail
from tests.fakes.jobs import a_job


@pytest.fixture
def job() -> Job:
    return a_job()


@pytest.fixture
def tail(job: Job) -> LogTail:
    """A tail that knows the log up to seq 10, of which seq 0 is the start."""
    tail = LogTail()
    tail.set_live(True)
    tail.note(job, 10, tail.version)
    return tail


def said(tail: LogTail, first: int, *texts: str, begin: int = 0) -> None:
    """Publish tokens as emit.lua does."""
    payload = codec.dump_texts(texts)
    tail.receive(b"%d %d %d " % (first, len(texts), begin) + payload)


def told(tail: LogTail, after: int, limit: int = 100) -> list[tuple[int, object]] | None:
    """Return what a reader at a cursor is told; None where it has to ask."""
    page = tail.look(after, limit).page
    return None if page is None else list(page.events)


def test_a_reader_at_the_end_has_nothing_to_ask(tail: LogTail, job: Job) -> None:
    assert tail.look(10, 5).page == LogPage((), job, False)
    assert told(tail, 11) == []


def test_a_reader_behind_has_to_ask(tail: LogTail) -> None:
    assert told(tail, 9) is None
    said(tail, 11, "a")
    assert told(tail, 9) is None
    assert told(tail, 10) == [(11, Token(10, "a"))]


def test_a_reader_is_told_what_was_published_after_its_cursor(tail: LogTail) -> None:
    said(tail, 11, "a", "b")
    said(tail, 13, "c")
    whole = [(11, Token(10, "a")), (12, Token(11, "b")), (13, Token(12, "c"))]
    for after in (10, 11, 12, 13):
        assert told(tail, after) == whole[after - 10 :]
        assert told(tail, after, limit=1) == whole[after - 10 :][:1]


def test_the_end_of_what_has_ended_is_read_from_the_log(job: Job) -> None:
    """Only there it is said that nothing follows."""
    tail = LogTail()
    tail.set_live(True)
    tail.note(job._replace(status=Status.COMPLETED), 10, tail.version)
    assert told(tail, 10) is None


def test_every_message_wakes(tail: LogTail) -> None:
    version = tail.look(10, 1).version
    tail.wait(version, 0)
    said(tail, 11, "a")
    assert tail.version != version
    tail.wait(version, 1_000)


def test_a_gap_is_asked_for(tail: LogTail) -> None:
    said(tail, 11, "a")
    said(tail, 13, "c")
    assert told(tail, 10) is None
    assert told(tail, 11) is None
    assert told(tail, 12) == [(13, Token(12, "c"))]


def test_a_message_that_came_before_is_passed_over(tail: LogTail) -> None:
    said(tail, 11, "a")
    said(tail, 11, "a")
    said(tail, 10, "0")
    assert told(tail, 10) == [(11, Token(10, "a"))]


def test_what_changes_the_request_makes_all_void(tail: LogTail, job: Job) -> None:
    said(tail, 11, "a")
    tail.receive(b"!")
    assert told(tail, 10) is None
    assert told(tail, 11) is None
    tail.note(job, 12, tail.version)
    said(tail, 13, "first", begin=12)
    assert told(tail, 12) is None, "the first token sets its time"


@pytest.mark.parametrize("is_live", [True, False])
def test_a_subscription_that_was_lost_makes_all_void(tail: LogTail, is_live: bool) -> None:
    said(tail, 11, "a")
    tail.set_live(is_live)
    assert told(tail, 10) is None
    assert told(tail, 11) is None


def test_what_was_read_before_a_message_came_is_not_taken_for_news(tail: LogTail, job: Job) -> None:
    tail.receive(b"!")
    version = tail.version
    said(tail, 11, "a")
    tail.note(job, 10, version)
    assert told(tail, 10) is None


def test_what_was_read_makes_up_for_a_message_that_never_came(tail: LogTail, job: Job) -> None:
    said(tail, 11, "a")
    tail.note(job, 14, tail.version)
    assert told(tail, 11) is None
    assert told(tail, 14) == []
    said(tail, 15, "e")
    assert told(tail, 14) == [(15, Token(14, "e"))]


def test_what_is_told_is_looked_at_again_after_a_while(
    tail: LogTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(tail, 11, "a")
    monkeypatch.setattr("orchestrator.stores.redis.tail.RECHECK_S", 0.0)
    assert told(tail, 10) is None


def test_what_is_kept_is_bounded(tail: LogTail) -> None:
    for seq in range(11, 1_011):
        said(tail, seq, "x" * 1_000)
    kept = next(after for after in range(10, 1_011) if told(tail, after) is not None)
    assert 1_010 - TAIL_BYTES // 1_000 <= kept < 1_010
    said(tail, 1_011, "y" * 2 * TAIL_BYTES)
    assert told(tail, 1_010) == [(1_011, Token(1_010, "y" * 2 * TAIL_BYTES))]
