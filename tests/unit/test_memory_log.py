"""The log in memory: seq without gaps, chunks that begin again, pages from any cursor."""

import random

import pytest

from orchestrator.events import Completed, Event, FinishReason, Restarted, Started, Token
from orchestrator.stores.memory.log import EventLog

DONE = Completed(FinishReason.STOP)


def a_log(*events: Event) -> EventLog:
    log = EventLog()
    for event in events:
        log.append(event)
    return log


RESTARTED = [
    Started("a"),
    Token(0, "one "),
    Token(1, "two "),
    Restarted(2),
    Token(0, "three "),
    Restarted(3),
    Token(0, "four "),
    Token(1, "five"),
    DONE,
]


def test_an_empty_log_has_nothing() -> None:
    log = a_log()
    assert (len(log), log.text(), log.read(-1, 10)) == (0, "", [])


def test_seq_counts_from_0_without_gaps() -> None:
    events = a_log(*RESTARTED).read(-1, 100)
    assert [seq for seq, _ in events] == list(range(len(RESTARTED)))


def test_what_was_appended_is_read_chunk_numbers_included() -> None:
    assert [event for _, event in a_log(*RESTARTED).read(-1, 100)] == RESTARTED


@pytest.mark.parametrize("after", range(-1, len(RESTARTED)))
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_page_from_any_cursor_is_a_piece_of_the_whole(after: int, limit: int) -> None:
    whole = list(enumerate(RESTARTED))
    assert a_log(*RESTARTED).read(after, limit) == whole[after + 1 : after + 1 + limit]


@pytest.mark.parametrize("after", [8, 9, 100, 2**60])
def test_nothing_is_past_the_end(after: int) -> None:
    assert a_log(*RESTARTED).read(after, 10) == []


@pytest.mark.parametrize("after", [-2, -5, -100])
def test_a_cursor_before_the_start_is_the_start(after: int) -> None:
    assert a_log(*RESTARTED).read(after, 3) == list(enumerate(RESTARTED))[:3]


def test_the_text_is_all_tokens_since_the_start() -> None:
    assert a_log(Started("a"), Token(0, "one "), Token(1, "two")).text() == "one two"


def test_a_restart_voids_the_text_so_far() -> None:
    assert a_log(*RESTARTED[:4]).text() == ""
    assert a_log(*RESTARTED[:-1]).text() == "four five"


def test_an_empty_token_keeps_its_place() -> None:
    log = a_log(Started("a"), Token(0, ""), Token(1, "x"))
    assert log.read(0, 10) == [(1, Token(0, "")), (2, Token(1, "x"))]


def test_each_append_says_what_it_costs() -> None:
    log = a_log()
    assert log.append(Started("a")) > 0
    assert log.append(Token(0, "x" * 10_000)) > 10_000


def test_random_pages_put_together_are_the_log() -> None:
    chance = random.Random(1)
    events: list[Event] = [Started("a")]
    chunk = 0
    for attempt in range(2, 200):
        for _ in range(chance.randrange(5)):
            events.append(Token(chunk, f"{attempt}-{chunk} "))
            chunk += 1
        events.append(Restarted(attempt))
        chunk = 0
    log = a_log(*events)
    read: list[Event] = []
    while len(read) < len(events):
        page = log.read(len(read) - 1, chance.randrange(1, 9))
        assert [seq for seq, _ in page] == list(range(len(read), len(read) + len(page)))
        read += [event for _, event in page]
    assert read == events
