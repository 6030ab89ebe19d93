"""Rates as people write them."""

import pytest

from orchestrator.rate import Rate, parse


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("1/second", [Rate(1, 1)]),
        ("600/minute", [Rate(600, 60)]),
        ("5 / hours", [Rate(5, 3600)]),
        ("999999999/day", [Rate(999_999_999, 86_400)]),
        ("1000/minute, 10/second", [Rate(10, 1), Rate(1000, 60)]),
        ("1000/minute;10/second", [Rate(10, 1), Rate(1000, 60)]),
    ],
)
def test_a_rate_is_how_many_in_how_long(text: str, rates: list[Rate]) -> None:
    assert list(parse(text)) == rates


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1000",
        "0/minute",
        "-1/minute",
        "1.5/minute",
        "1e3/minute",
        "10/fortnight",
        "10/minute,",
        "10/minute, 20/minute",
        "1000000000/day",
        "٣/minute",
        "10/minute\n10/second",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_rate_is_shown_as_it_is_written() -> None:
    assert [str(rate) for rate in parse("1000/minute, 10/second")] == ["10/second", "1000/minute"]
