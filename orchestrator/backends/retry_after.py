"""Reads from a provider's headers when it wants to be asked again."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until then; None where they don't say."""
    milliseconds = _number(headers.get("Retry-After-Ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After", "")
    seconds = _number(text)
    return _seconds_until(text) if seconds is None else seconds


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _seconds_until(date: str) -> float | None:
    try:
        return max(0.0, round(parsedate_to_datetime(date).timestamp() - time.time(), 3))
    except (ValueError, OverflowError):
        return None
