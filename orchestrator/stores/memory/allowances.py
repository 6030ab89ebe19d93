"""How much of their allowances callers have used: requests at once, tokens a day. In memory."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orchestrator.allowance import DAY_S, Allowance, tokens_of
from orchestrator.errors import DeadlineExceeded
from orchestrator.events import Usage
from orchestrator.job import Job, Status
from orchestrator.stores import refusals

MOST_SPENT = 100_000
"""How many accounts are remembered by day; the one that spent nothing for longest is forgotten."""


class _Taken(NamedTuple):
    """What one request has of its allowance."""

    account: str
    names: tuple[str, ...]
    day: int
    reserved: int
    input_tokens: int


class Allowances:
    """What live requests hold of their callers' allowances. To be used inside a store's lock.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: Counter[str] = Counter()
        self._spent: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._taken: dict[str, _Taken] = {}

    def check(self, allowance: Allowance, history_bytes: int, freed: Iterable[str] = ()) -> None:
        """Raise RateLimited where an account may not have one more request.

        What the ``freed`` requests hold counts as given back: this one ends them before they began.
        """
        given_back = [self._taken[job_id] for job_id in freed if job_id in self._taken]
        live = self._live[allowance.account]
        live -= sum(taken.account == allowance.account for taken in given_back)
        if allowance.live and live >= allowance.live:
            raise refusals.crowded(allowance.live)
        now = self._clock()
        day = int(now // DAY_S)
        needed = allowance.reserve(history_bytes)
        for budget in allowance.budgets:
            spent = self._spent.get((day, budget.name), 0)
            spent -= sum(
                taken.reserved
                for taken in given_back
                if taken.day == day and budget.name in taken.names
            )
            if spent + needed > budget.limit:
                raise refusals.spent(budget, spent, needed, (day + 1) * DAY_S - now)

    def take(self, job_id: str, allowance: Allowance, history_bytes: int) -> None:
        """Reserve what a request may come to need."""
        day = int(self._clock() // DAY_S)
        needed = allowance.reserve(history_bytes)
        names = tuple(budget.name for budget in allowance.budgets)
        read = allowance.input_tokens + tokens_of(history_bytes)
        self._taken[job_id] = _Taken(allowance.account, names, day, needed, read)
        self._live[allowance.account] += 1
        for name in names:
            self._spend(day, name, needed)

    def settle(self, job: Job, answer: str, usage: Usage | None) -> None:
        """Count what an ended request has used, in place of what was reserved for it.

        ``usage`` is what was reported of its last attempt, even where it was cancelled since.
        """
        taken = self._taken.pop(job.id, None)
        if taken is None:
            return
        self._live[taken.account] -= 1
        if not self._live[taken.account]:
            del self._live[taken.account]
        cost = _cost(job, answer, usage, taken.input_tokens)
        for name in taken.names:
            self._spend(taken.day, name, cost - taken.reserved)

    def _spend(self, day: int, name: str, tokens: int) -> None:
        spent = self._spent.pop((day, name), 0)
        self._spent[day, name] = max(0, spent + tokens)
        while len(self._spent) > MOST_SPENT:
            self._spent.popitem(last=False)


def _cost(job: Job, answer: str, usage: Usage | None, input_tokens: int) -> int:
    if job.attempts == 0:
        return 0
    reported = sum(one.input_tokens + one.output_tokens for one in (usage, job.failed_usage) if one)
    # Whose time limit ends a silence may have had its model think all the while.
    is_broken = job.status is Status.FAILED and job.error_code != DeadlineExceeded.code
    if usage or (is_broken and not answer):
        return reported
    guessed = input_tokens + tokens_of(len(answer.encode("utf-8", "replace")))
    if job.status is Status.COMPLETED:
        return reported + guessed
    # Of an answer that broke off its provider may have said no more than how it began.
    return max(reported, guessed)
