"""The SSE reader against the WHATWG's rules, however the bytes are cut."""

import random

import pytest

from orchestrator.backends.sse_reader import SSEReader
from orchestrator.errors import UpstreamError


def read(data: bytes, size: int | None = None) -> list[str]:
    reader, size = SSEReader(), size or len(data)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_every_line_end_is_read_however_it_is_cut(end: bytes, size: int) -> None:
    stream = end.join([b"data: a", b"", b"data: b", b"", b""])

    assert read(stream, size) == ["a", "b"]


def test_a_lone_cr_ends_an_event_without_waiting_for_what_follows() -> None:
    assert SSEReader().feed(b"data: a\r\r") == ["a"]


def test_a_line_feed_after_a_cut_crlf_is_no_line_of_its_own() -> None:
    reader = SSEReader()

    assert reader.feed(b"data: a\r") == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"data: b\r\n\r\n") == ["a\nb"]


def test_mixed_line_ends_are_all_line_ends() -> None:
    assert read(b"data: a\r\ndata: b\rdata: c\n\r\n") == ["a\nb\nc"]


def test_data_lines_are_joined_with_line_feeds() -> None:
    assert read(b"data: a\ndata:\ndata: b\n\n") == ["a\n\nb"]


def test_one_space_after_the_colon_is_taken_away_and_no_more() -> None:
    assert read(b"data:a\n\ndata: b\n\ndata:  c\n\n") == ["a", "b", " c"]


def test_an_events_name_is_left_out() -> None:
    assert read(b"event: error\ndata: a\n\ndata: b\nevent: x\n\n") == ["a", "b"]


def test_comments_other_fields_and_events_without_data_are_no_events() -> None:
    stream = b": ping\n\nid: 1\nretry: 5\nwhatever\ndatax: 1\n\nevent: start\n\ndata: a\n\n"

    assert read(stream) == ["a"]


def test_a_field_without_a_colon_has_an_empty_value() -> None:
    assert read(b"data\n\ndata\ndata\n\n") == ["", "\n"]


def test_an_event_that_no_blank_line_ended_is_dropped() -> None:
    assert read(b"data: a\n\ndata: b\n") == ["a"]


@pytest.mark.parametrize("size", [1, 2, 4, 1000])
def test_a_byte_order_mark_at_the_start_is_skipped(size: int) -> None:
    assert read(b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n", size) == ["a", "\ufeffb"]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_characters_survive_being_cut(size: int) -> None:
    assert read("data: aé€😀\n\n".encode(), size) == ["aé€😀"]


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    assert read(b"data: a\xff\xc3(\n\n") == ["a\ufffd\ufffd("]


def test_every_way_to_cut_a_stream_gives_the_same_events() -> None:
    stream = (
        "\ufeffevent: x\r\ndata: é\r: note\ndata: 😀\r\n\r\n:\n\ndata: b\r\rdata: €\n\r\n"
    ).encode()
    whole = read(stream)
    chance = random.Random(7)

    for _ in range(300):
        reader, events, at = SSEReader(), [], 0
        while at < len(stream):
            size = chance.randint(0, 6)
            events += reader.feed(stream[at : at + size])
            at += size
        assert events == whole

    assert whole == ["é\n😀", "b", "€"]


def test_each_ended_line_counts_as_a_sign_of_life() -> None:
    reader = SSEReader()

    reader.feed(b": pi")
    assert reader.lines == 0
    reader.feed(b"ng\n")
    assert reader.lines == 1
    reader.feed(b"\r\ndata: a\n\n")
    assert reader.lines == 4


def test_an_event_up_to_the_limit_is_read() -> None:
    line = b"data: " + b"x" * 90

    assert [len(event) for event in SSEReader(100).feed(line + b"\n\n")] == [90]


@pytest.mark.parametrize(
    "piece", [b"data: " + b"x" * 60, b"data: x\n" * 7, b":" * 64, b"data: " + b"x" * 60 + b"\n"]
)
def test_a_line_or_an_event_over_the_limit_is_an_error(piece: bytes) -> None:
    reader = SSEReader(100)

    with pytest.raises(UpstreamError, match="over 100 bytes"):
        for _ in range(10):
            reader.feed(piece)


def test_many_events_may_exceed_the_limit_together() -> None:
    reader = SSEReader(100)

    assert sum(len(reader.feed(b"data: " + b"x" * 50 + b"\n\n")) for _ in range(10)) == 10
