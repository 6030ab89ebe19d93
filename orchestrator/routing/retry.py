"""Whether a failed attempt is worth another one, at which target, and after how long a wait."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from orchestrator.backends.base import may_pass
from orchestrator.errors import RunError, UpstreamRejected, UpstreamTimeout

MOST_ATTEMPTS = 10
"""Attempts of one request, all targets together."""
BACKOFF_S = 0.25
BACKOFF_MAX_S = 8.0
"""The first wait between two attempts is up to BACKOFF_S; each next one up to twice as long."""
JITTER = 0.1
"""A wait that a provider asks for is longer by up to this share, so that not all come at once."""


class Verdict(Enum):
    """Who may be asked after a failure."""

    ANYONE = auto()
    ANOTHER = auto()
    NOBODY = auto()


def judge(error: RunError) -> Verdict:
    """Say who may be asked after ``error``.

    A fault that may pass by itself is worth a second try: a connection that isn't made or breaks,
    an overload, an answer that is cut, stalls or makes no sense. A target that stayed silent is
    not asked again, nor one that refused. Content that a provider refuses on principle is sent to
    no other provider.
    """
    if error.details.get("reason") == "content_policy":
        return Verdict.NOBODY
    if isinstance(error, UpstreamTimeout):
        silent = error.details.get("stage") != "idle"
        return Verdict.ANOTHER if silent else Verdict.ANYONE
    if isinstance(error, UpstreamRejected) or "reason" in error.details:
        return Verdict.ANOTHER
    status = error.details.get("status")
    return Verdict.ANYONE if status is None or may_pass(status) else Verdict.ANOTHER


def backoff(failures: int, rng: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after that many failures: exponential, with full jitter."""
    # No larger exponent than is needed: 2.0 ** 2000 is an error.
    return rng() * float(min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(failures - 1, 10)))


@dataclass(frozen=True, slots=True)
class Policy:
    """How persistent a route is. ``retries`` are per target, after its first attempt."""

    retries: int = 2
    retry_after_max_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """Ask the first of ``targets`` that has room, after ``wait_s`` seconds."""

    targets: Sequence[int]
    wait_s: float = 0.0


class Plan:
    """The attempts of one request over ``targets`` targets, of which number 0 is preferred.

    ``deadline`` and the times that it is compared with are on one clock, in seconds.
    """

    def __init__(
        self,
        policy: Policy,
        targets: int,
        deadline: float,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._deadline = deadline
        self._rng = rng
        self._left = list(range(targets))
        self._aside: dict[int, float] = {}
        self._failures = [0] * targets
        self._errors: list[tuple[int, RunError]] = []
        self._too_long = False

    @property
    def first(self) -> Step:
        """The step to begin with."""
        return Step(self._left)

    def after(self, target: int, error: RunError, now: float) -> Step | None:
        """Return what follows the failure of an attempt at ``target``; None where nothing does."""
        self._errors.append((target, error))
        self._failures[target] += 1
        others = [other for other in self._left if other != target]
        self._left = others
        verdict = self._judge(error)
        if len(self._errors) == MOST_ATTEMPTS or verdict is Verdict.NOBODY:
            return None
        if verdict is Verdict.ANYONE and self._may_try_again(target, others):
            wait_s = self._wait(target, error, now)
            if now + wait_s < self._deadline:
                if others and not self._is_long(error):
                    self._left = [target, *others]
                    return Step(self._left, wait_s)
                self._aside[target] = now + wait_s
        return Step(others) if others else self._return(now)

    def may_return_to(self, target: int) -> bool:
        """Return whether ``target`` may be asked once more."""
        return target in self._left or target in self._aside

    def verdict(self) -> RunError | None:
        """Return the error of the most telling attempt; None where there was none.

        What the client can mend comes first, then faults of the service, and what only its
        operator can mend last. Of equals, the preferred target's last one: a fallback must not
        hide why it was needed.
        """
        if not self._errors:
            return None
        return max(
            enumerate(self._errors), key=lambda item: (_weight(item[1][1]), -item[1][0], item[0])
        )[1][1]

    def _judge(self, error: RunError) -> Verdict:
        verdict = judge(error)
        if error.details.get("reason") == "context_length":
            # Once: the next target may hold more, but the third is no likelier to.
            if self._too_long:
                return Verdict.NOBODY
            self._too_long = True
        return verdict

    def _may_try_again(self, target: int, others: Sequence[int]) -> bool:
        """Whether ``target`` has an attempt left that no other target needs."""
        limit = self._policy.retries + 1
        if others:
            limit = min(limit, 2)
        attempts_left = MOST_ATTEMPTS - len(self._errors)
        return self._failures[target] < limit and attempts_left > len(others)

    def _is_long(self, error: RunError) -> bool:
        asked: float = error.details.get("retry_after") or 0.0
        return asked > self._policy.retry_after_max_s

    def _wait(self, target: int, error: RunError, now: float) -> float:
        """Return the seconds before ``target`` may be asked again."""
        asked: float = error.details.get("retry_after") or 0.0
        if not asked:
            return backoff(self._failures[target], self._rng)
        # Never past the deadline for the jitter alone.
        left_s = max(0.0, self._deadline - now - asked)
        return asked + JITTER * min(asked, left_s) * self._rng()

    def _return(self, now: float) -> Step | None:
        """Go back to the target set aside that may be asked first."""
        if not self._aside:
            return None
        target = min(self._aside, key=self._aside.__getitem__)
        wait_s = self._aside.pop(target) - now
        self._left = [target]
        return Step(self._left, max(0.0, wait_s))


def _weight(error: RunError) -> int:
    if judge(error) is Verdict.NOBODY:
        return 3
    if isinstance(error, UpstreamRejected):
        return 2
    return 1 if judge(error) is Verdict.ANYONE or isinstance(error, UpstreamTimeout) else 0
