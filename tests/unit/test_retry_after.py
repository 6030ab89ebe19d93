"""When a provider wants to be asked again: only what is meant so counts."""

import time
from email.utils import formatdate

import pytest

from orchestrator.backends.retry_after import retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"Retry-After": "7", "Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After": formatdate(0, usegmt=True)}, 0.0),
        ({}, None),
    ],
)
def test_seconds_milliseconds_and_dates_are_read(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


def test_a_date_is_so_many_seconds_away() -> None:
    date = formatdate(time.time() + 3600, usegmt=True)
    assert retry_after({"Retry-After": date}) == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    "text", ["1_0", "-1", "1e3", "infinity", "nan", "0x10", "٣", "soon", "", "9" * 16, "1 2"]
)
def test_anything_else_says_nothing(text: str) -> None:
    assert retry_after({"Retry-After": text, "Retry-After-Ms": text}) is None
