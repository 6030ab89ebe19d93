"""What judges callers: what it counts, what it remembers, and what it says."""

from collections.abc import Sequence

import pytest

from orchestrator.allowance import Allowance, Budget
from orchestrator.errors import PipelineUnavailable, RateLimited
from orchestrator.limits.accounts import Account
from orchestrator.limits.base import Standing
from orchestrator.limits.known import MOST
from orchestrator.limits.limiter import Left, Limiter
from orchestrator.limits.memory import MemoryPlaces, MemoryWindows
from orchestrator.limits.rules import ModelRules, Rules
from orchestrator.limits.shared import ALONE_S, Company, PlacesOfAll, WindowsOfAll
from orchestrator.rate import Rate, parse
from tests.fakes.asking import a_request, eventually
from tests.fakes.clock import Clock

ACCOUNT = Account("key:a")
OTHER = Account("key:b")


class Counted(MemoryWindows):
    """Windows that know how often they were asked."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked = 0

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        self.asked += 1
        return super().hit(account, rates)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def windows(clock: Clock) -> Counted:
    return Counted(clock)


def limiter(windows: MemoryWindows, clock: Clock, rules: Rules) -> Limiter:
    return Limiter(rules, windows, MemoryPlaces(), clock=clock)


def refused(limiter: Limiter, account: Account = ACCOUNT) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        limiter.call(account)
    return caught.value


# Calls


def test_a_caller_is_told_what_is_left_and_when_to_call_again(
    windows: Counted, clock: Clock
) -> None:
    judge = limiter(windows, clock, Rules(parse("2/minute")))
    judge.call(ACCOUNT)
    left = judge.left(ACCOUNT)
    assert left
    assert (left.limit, left.remaining) == (2, 1)
    judge.call(ACCOUNT)
    error = refused(judge)
    assert error.retry_after
    assert 59 <= error.retry_after <= 62
    assert error.message == (
        f"You have used up your 2/minute calls. Call again in {error.retry_after} seconds."
    )
    judge.call(OTHER)


def test_who_was_refused_is_refused_again_without_a_count(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(parse("2/minute")))
    judge.call(ACCOUNT)
    judge.call(ACCOUNT)
    again = refused(judge).retry_after
    assert again
    asked = windows.asked
    for _ in range(1_000):
        refused(judge)
    assert windows.asked == asked
    clock.advance(again)
    judge.call(ACCOUNT)


def test_the_rates_of_a_key_win_over_those_of_the_settings(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(parse("1/minute")))
    own = Account("key:a", parse("3/minute"))
    for _ in range(3):
        judge.call(own)
    refused(judge, own)
    judge.call(OTHER)
    refused(judge, OTHER)


def test_another_rate_of_a_key_holds_at_once(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules())
    judge.call(Account("key:a", parse("1/minute")))
    refused(judge, Account("key:a", parse("1/minute")))
    judge.call(Account("key:a", parse("2/minute")))
    judge.call(ACCOUNT)
    assert judge.left(ACCOUNT) is None


def test_nothing_is_left_to_tell_of_a_caller_without_a_rate(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(requests=3))
    judge.call(ACCOUNT)
    assert judge.left(ACCOUNT) is None
    assert windows.asked == 0


def test_all_is_left_to_one_that_has_not_called_for_long(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(parse("5/minute, 2/second")))
    before = judge.left(ACCOUNT)
    assert before
    assert (before.limit, before.remaining) == (2, 2)
    judge.call(ACCOUNT)
    clock.advance(200)
    after = judge.left(ACCOUNT)
    assert isinstance(after, Left)
    assert after.remaining == after.limit


def test_a_model_has_rates_of_its_own_for_each_caller(windows: Counted, clock: Clock) -> None:
    rules = Rules(models={"dear": ModelRules(parse("1/minute"))})
    judge = limiter(windows, clock, rules)
    dear = a_request(model="dear")
    judge.allow(ACCOUNT, dear)
    with pytest.raises(RateLimited, match="calls of model 'dear'"):
        judge.allow(ACCOUNT, dear)
    judge.allow(ACCOUNT, a_request(model="cheap"))
    judge.allow(OTHER, dear)


def test_no_more_is_remembered_than_is_bounded(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(parse("1/day")))
    for number in range(MOST + 10):
        judge.call(Account(f"address:{number}"))
    assert len(windows) == MOST
    refused(judge, Account(f"address:{MOST}"))


def test_who_has_very_many_addresses_makes_no_caller_forgotten(
    windows: Counted, clock: Clock
) -> None:
    judge = limiter(windows, clock, Rules(parse("1/day")))
    judge.call(ACCOUNT)
    for number in range(MOST + 10):
        judge.call(Account(f"address:{number}"))
    asked = windows.asked
    refused(judge)
    refused(judge)
    assert windows.asked == asked + 1


# What goes with a submit


def test_nothing_goes_with_a_submit_where_nothing_is_limited(
    windows: Counted, clock: Clock
) -> None:
    assert limiter(windows, clock, Rules(parse("9/minute"))).allow(ACCOUNT, a_request()) is None


def test_what_a_request_may_cost_goes_with_its_submit(windows: Counted, clock: Clock) -> None:
    rules = Rules(
        requests=7,
        tokens_a_day=1_000,
        answer_tokens=50,
        models={"dear": ModelRules(tokens_a_day=100)},
    )
    judge = limiter(windows, clock, rules)
    dear = a_request("12345678", model="dear", system="é", max_tokens=5)
    assert judge.allow(ACCOUNT, dear) == Allowance(
        "key:a",
        live=7,
        budgets=(Budget("key:a", 1_000), Budget("model:dear/key:a", 100, "dear")),
        input_tokens=3,
        answer_tokens=5,
    )
    other = judge.allow(ACCOUNT, a_request("1234", model="other"))
    assert other
    assert other.budgets == (Budget("key:a", 1_000),)
    assert (other.input_tokens, other.answer_tokens) == (1, 50)


# Streams


def test_a_place_given_back_twice_is_free_once(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(streams=2))
    first, _ = judge.open(ACCOUNT), judge.open(ACCOUNT)
    with pytest.raises(RateLimited, match="2 streams and sockets open") as caught:
        judge.open(ACCOUNT)
    assert caught.value.retry_after
    judge.open(OTHER)
    first()
    first()
    judge.open(ACCOUNT)
    with pytest.raises(RateLimited):
        judge.open(ACCOUNT)


def test_a_long_poll_is_told_whether_it_may_wait(windows: Counted, clock: Clock) -> None:
    judge = limiter(windows, clock, Rules(streams=1))
    with judge.waiting(ACCOUNT) as first, judge.waiting(ACCOUNT) as second:
        assert (first, second) == (True, False)
    with judge.waiting(ACCOUNT) as third:
        assert third


# Where the count of all is away


class Away:
    """What all processes share, while ``is_away`` out of reach."""

    def __init__(self, clock: Clock) -> None:
        self.is_away = False
        self.asked = 0
        self.processes = 4
        self.windows = MemoryWindows(clock)
        self.places = MemoryPlaces()
        self.renewed: list[Sequence[tuple[str, str]]] = []

    def look(self) -> None:
        self.asked += 1
        if self.is_away:
            raise PipelineUnavailable("It is away.")

    def hit(self, account: str, rates: Sequence[Rate]) -> Standing:
        self.look()
        return self.windows.hit(account, rates)

    def take(self, account: str, limit: int) -> str | None:
        self.look()
        return self.places.take(account, limit)

    def give_back(self, account: str, place: str) -> None:
        if not self.is_away:
            self.places.give_back(account, place)

    def renew(self, places: Sequence[tuple[str, str]]) -> int:
        self.look()
        self.renewed.append(places)
        return self.processes


def admitted(windows: WindowsOfAll, times: int, rate: str = "100/minute") -> int:
    return sum(windows.hit("a", parse(rate)).is_admitted for _ in range(times))


def test_a_process_that_is_cut_off_keeps_to_its_share(clock: Clock) -> None:
    away = Away(clock)
    company = Company(2, clock)
    windows = WindowsOfAll(away, company)
    assert admitted(windows, 10) == 10
    company.note(4)
    away.is_away = True
    assert admitted(windows, 100) == 25
    away.is_away = False
    clock.advance(ALONE_S)
    assert admitted(windows, 100) == 90


def test_who_is_out_of_reach_is_not_asked_at_every_call(clock: Clock) -> None:
    away = Away(clock)
    away.is_away = True
    windows = WindowsOfAll(away, Company(1, clock))
    admitted(windows, 50)
    assert away.asked == 1
    clock.advance(ALONE_S)
    admitted(windows, 50)
    assert away.asked == 2


def test_a_share_is_one_at_least_and_never_of_fewer_processes_than_are_set_up(
    clock: Clock,
) -> None:
    company = Company(3, clock)
    company.note(1)
    assert company.share(9) == 3
    company.note(100)
    assert company.share(9) == 1


def test_places_are_a_share_too_while_others_are_away(clock: Clock) -> None:
    away = Away(clock)
    places = PlacesOfAll(away, Company(2, clock))
    held = places.take("a", 4)
    assert held
    away.is_away = True
    assert places.take("a", 4), "of a share of two, one is held"
    assert places.take("a", 4) is None
    away.is_away = False
    clock.advance(ALONE_S)
    places.give_back("a", held)
    assert [bool(places.take("a", 4)) for _ in range(5)] == [True] * 4 + [False]


def test_what_is_held_is_renewed_and_the_company_is_counted() -> None:
    clock = Clock()
    away = Away(clock)
    company = Company(1, clock)
    places = PlacesOfAll(away, company)
    place = places.take("a", 4)
    places.start()
    eventually(lambda: away.renewed)
    assert away.renewed[0] == [("a", place)]
    eventually(lambda: company.size == 4)
