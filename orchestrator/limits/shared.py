"""What is counted for callers over all processes; while those are out of reach, a share of it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from orchestrator.errors import OrchestratorError, PipelineUnavailable
from orchestrator.limits.base import Places, Standing, Windows
from orchestrator.limits.memory import MemoryPlaces, MemoryWindows
from orchestrator.rate import Rate

ALONE_S = 1.0
"""For how long the others are not asked once they were out of reach."""
RENEW_S = 5.0
"""How often places are renewed, which also says that this process is there."""

logger = logging.getLogger("orchestrator")


class SharedPlaces(Places, Protocol):
    """Places that all processes see, and which processes there are."""

    def renew(self, places: Sequence[tuple[str, str]]) -> int:
        """Keep places for a while longer; return how many processes there are, with this one."""
        ...


class Company:
    """How many processes serve, and whether what they share can be asked.

    ``least`` is how many there are at least. ``clock`` gives monotonic seconds.
    """

    def __init__(self, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._least = least
        self._clock = clock
        self._known = least
        self._alone_until = float("-inf")

    @property
    def size(self) -> int:
        """How many processes there are, as far as is known."""
        return self._known

    def note(self, size: int) -> None:
        """Note how many there are."""
        self._known = max(self._least, size)

    @property
    def is_alone(self) -> bool:
        """Whether the others were out of reach a moment ago."""
        return self._clock() < self._alone_until

    def leave(self) -> None:
        """Note that they are."""
        self._alone_until = self._clock() + ALONE_S

    def share(self, amount: int) -> int:
        """Return what of an amount is this process's; one at least."""
        return max(1, amount // self._known)


class WindowsOfAll:
    """See limits.base.Windows: shared ones, and while those are away a share of each rate here."""

    def __init__(self, shared: Windows, company: Company) -> None:
        self._shared = shared
        self._company = company
        self._own = MemoryWindows()

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        if not self._company.is_alone:
            try:
                return self._shared.hit(account, rates)
            except PipelineUnavailable:
                self._company.leave()
        shares = [Rate(self._company.share(rate.amount), rate.period_s) for rate in rates]
        return self._own.hit(account, shares)


class PlacesOfAll:
    """See limits.base.Places: shared ones, and while those are away a share of the limit here."""

    def __init__(self, shared: SharedPlaces, company: Company) -> None:
        self._shared = shared
        self._company = company
        self._own = MemoryPlaces()

    def take(self, account: str, limit: int) -> str | None:
        if not self._company.is_alone:
            try:
                place = self._shared.take(account, limit)
            except PipelineUnavailable:
                self._company.leave()
            else:
                if place:
                    self._own.hold(account, place)
                return place
        return self._own.take(account, self._company.share(limit))

    def give_back(self, account: str, place: str) -> None:
        self._own.give_back(account, place)
        if not self._company.is_alone:
            self._shared.give_back(account, place)

    def start(self) -> None:
        """Renew what is held here, from now on."""
        threading.Thread(target=self._keep, name="limits", daemon=True).start()

    def _keep(self) -> None:
        while True:
            try:
                self._renew()
            except OrchestratorError as error:
                logger.debug("limits are not renewed now: %s", error.message)
            except Exception:
                logger.exception("renewing limits failed; it goes on")
            time.sleep(RENEW_S)

    def _renew(self) -> None:
        held = self._own.all()
        self._company.note(self._shared.renew(held))
        # What was given back in this moment may just have been renewed.
        for account, place in set(held) - set(self._own.all()):
            self._shared.give_back(account, place)
