"""What doors ask before they do anything for a caller: whether it may, and what it has left."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from orchestrator.allowance import Allowance, Budget, tokens_of
from orchestrator.errors import RateLimited
from orchestrator.job import GenerateRequest
from orchestrator.limits.accounts import Account
from orchestrator.limits.base import Places, Standing, Windows
from orchestrator.limits.known import Known
from orchestrator.limits.rules import Rules
from orchestrator.rate import Rate

STREAM_AGAIN_S = 2
"""When to ask again for a stream: nobody knows how soon another one closes."""


class Left(NamedTuple):
    """How many of its ``limit`` calls a caller has left; more come at ``reset_at``, a Unix time."""

    limit: int
    remaining: int
    reset_at: int


class _Seen(NamedTuple):
    """How an account was judged, and when that is out of date, in monotonic seconds."""

    standing: Standing
    rates: tuple[Rate, ...]
    until: float

    def holds(self, rates: tuple[Rate, ...], now: float) -> bool:
        """Whether a refusal by these rates still holds; one by a share of them never does."""
        is_refusal = not self.standing.is_admitted and self.standing.rate in rates
        return is_refusal and self.rates == rates and now < self.until


class Limiter:
    """Judges callers by the rules. ``clock`` gives monotonic seconds.

    A caller that was refused is refused again, without being counted, until the time it was told:
    a client that ignores that costs nothing.
    """

    def __init__(
        self,
        rules: Rules,
        windows: Windows,
        places: Places,
        start: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = rules
        self.start = start
        self._windows = windows
        self._places = places
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = Known[_Seen]()

    def call(self, account: Account) -> None:
        """Count one call. Raises RateLimited."""
        rates = self.rules.rates if account.rates is None else account.rates
        if rates:
            self._hit(account.name, rates, "")

    def left(self, account: Account) -> Left | None:
        """Return what was left to a caller after its last call here; None without a rate."""
        rates = self.rules.rates if account.rates is None else account.rates
        if not rates:
            return None
        seen = self._seen.get(account.name)
        wait_s = seen.until - self._clock() if seen and seen.rates == rates else -math.inf
        if seen is None or wait_s < -seen.standing.rate.period_s:
            least = min(rates)
            return Left(least.amount, least.amount, math.ceil(time.time()))
        reset_at = math.ceil(time.time() + max(0.0, wait_s))
        return Left(seen.standing.rate.amount, seen.standing.remaining, reset_at)

    def allow(self, account: Account, request: GenerateRequest) -> Allowance | None:
        """Count a submit for its model; return what goes with it, or None. Raises RateLimited."""
        model = self.rules.models.get(request.model)
        # A model's name has no slash, so no caller's name makes this another's.
        of_model = f"model:{request.model}/{account.name}"
        if model and model.rates:
            self._hit(of_model, model.rates, f" of model {request.model!r}")
        budgets = []
        if self.rules.tokens_a_day:
            budgets.append(Budget(account.name, self.rules.tokens_a_day))
        if model and model.tokens_a_day:
            budgets.append(Budget(of_model, model.tokens_a_day, request.model))
        if not budgets and not self.rules.requests:
            return None
        said = len(request.prompt.encode()) + len((request.system or "").encode())
        return Allowance(
            account.name,
            self.rules.requests,
            tuple(budgets),
            input_tokens=tokens_of(said),
            answer_tokens=request.max_tokens or self.rules.answer_tokens,
        )

    def open(self, account: Account) -> Callable[[], None]:
        """Take a place for a stream; return what gives it back, once. Raises RateLimited."""
        limit = self.rules.streams
        if not limit:
            return _nothing
        place = self._places.take(account.name, limit)
        if place is None:
            raise RateLimited(
                f"You have {limit} streams and sockets open, and may not have more at once. Close "
                "one, or poll instead.",
                retry_after=STREAM_AGAIN_S,
            )
        return _Once(lambda: self._places.give_back(account.name, place))

    @contextmanager
    def waiting(self, account: Account) -> Iterator[bool]:
        """Take a place for a long poll while inside. Gives whether there is one."""
        try:
            close = self.open(account)
        except RateLimited:
            yield False
            return
        try:
            yield True
        finally:
            close()

    def _hit(self, name: str, rates: tuple[Rate, ...], about: str) -> None:
        seen = self._seen.get(name)
        if not seen or not seen.holds(rates, self._clock()):
            standing = self._windows.hit(name, rates)
            seen = _Seen(standing, rates, self._clock() + standing.reset_s)
            with self._lock:
                self._seen.put(name, seen)
        if not seen.standing.is_admitted:
            again = max(1, math.ceil(seen.until - self._clock()))
            raise RateLimited(
                f"You have used up your {seen.standing.rate} calls{about}. Call again in "
                f"{again} second{'s' if again > 1 else ''}.",
                retry_after=again,
            )


class _Once:
    """Calls a function the first time it is called, and never again."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._acts = [act]

    def __call__(self) -> None:
        """Call it, unless that was done."""
        act = _nothing
        with suppress(IndexError):
            act = self._acts.pop()
        act()


def _nothing() -> None:
    pass
