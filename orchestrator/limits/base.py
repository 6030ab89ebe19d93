"""The ports to what is counted for callers, and what they say.

A caller is an account here, by name: see limits.accounts. What is out of reach raises
PipelineUnavailable.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from orchestrator.rate import Rate

SLICES = 60
"""A window is counted in so many slices, of which the oldest counts until it is over as a whole:
never too much is let through, and what was used comes back a sixtieth of the period late at most.
"""


class Standing(NamedTuple):
    """How a call was judged, by the one of its rates that leaves the least.

    ``reset_s`` is in how many seconds that rate leaves more than now.
    """

    is_admitted: bool
    rate: Rate
    remaining: int
    reset_s: float


class Windows(Protocol):
    """Calls in sliding windows: in any period, however it lies, no more than a rate says."""

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        """Count one call in the windows of all these rates, or in none where one is full.

        There is at least one rate, and no two have the same period.
        """
        ...


class Places(Protocol):
    """What a caller holds open: each has a place until it gives it back, or its process dies."""

    def take(self, account: str, limit: int) -> str | None:
        """Return a place; None where the account has ``limit`` of them already."""
        ...

    def give_back(self, account: str, place: str) -> None:
        """Give a place back. It raises nothing: one that nobody renews ends by itself."""
        ...
