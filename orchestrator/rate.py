"""Rates as settings, files and keys say them: how many in how long."""

import re
from functools import lru_cache
from typing import NamedTuple

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
"""In seconds."""
_RATE = re.compile(rf"([1-9][0-9]{{0,8}})\s*/\s*({'|'.join(PERIODS)})s?", re.ASCII)


class Rate(NamedTuple):
    """No more than ``amount`` in any ``period_s`` seconds."""

    amount: int
    period_s: int

    def __str__(self) -> str:
        """Return it as ``parse`` takes it."""
        names = {seconds: name for name, seconds in PERIODS.items()}
        return f"{self.amount}/{names[self.period_s]}"


@lru_cache(maxsize=1000)
def parse(text: str) -> tuple[Rate, ...]:
    """a rate such as 1000/minute (second, minute, hour or day), or several separated by commas"""
    rates = []
    for part in re.split("[,;]", text):
        found = _RATE.fullmatch(part.strip())
        if not found:
            raise ValueError
        rates.append(Rate(int(found[1]), PERIODS[found[2]]))
    if len({rate.period_s for rate in rates}) < len(rates):
        raise ValueError
    return tuple(sorted(rates, key=lambda rate: rate.period_s))
