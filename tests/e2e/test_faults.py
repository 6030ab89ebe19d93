"""Each fault of a provider as deployed, through every view: what the client got, what it saw.

All cases run beside one another on one server, each with a model of its own, so that none feels
another's circuit breaker, and each begins on a connection that is kept from a request before it.
Every test here is a case.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.client import Json, status, until
from tests.e2e.faults import ANSWER, FAULTS, REFUSE, SPARE, SPARE_FAULT, Fault, Then
from tests.e2e.views import VIEWS, End
from tests.fakes.upstream import Upstream, closed_port, start_upstream
from tests.served import BUSY, Served, serve

AT_ONCE = 16
"""Cases that run at once."""
DEADLINE_S = 20.0
TOLERANCE_S = BUSY * 1.0
HASTY_S = 1.0
"""The timeouts of those that are to run out."""
BACKOFF_S = 0.5
"""The longest wait before a third attempt."""


@dataclass(frozen=True)
class Case:
    """A fault, the view it is seen through, and whether there is a second target."""

    fault: Fault
    view: str
    spare: bool

    def __str__(self) -> str:
        return f"{self.fault}-{self.view}-{'two-targets' if self.spare else 'one-target'}"

    @property
    def target(self) -> str:
        """The first target; words after the fault's are ignored, and make it unique."""
        if self.fault.name == REFUSE:
            return f"nowhere/{self}"
        return f"a/fault:{self.fault.name}/{self}"

    @property
    def table(self) -> str:
        """The model in the routes file."""
        targets = [self.target, *([f"b/fault:{SPARE_FAULT}/{self}"] if self.spare else [])]
        seconds = 60.0 if self.fault.patient else HASTY_S
        return (
            f'[models."{self}"]\ntargets = {targets}\nretry_after_max_s = 3\n'
            f"first_token_timeout_s = {seconds}\nidle_timeout_s = {seconds}\n"
        )


@dataclass(frozen=True)
class Outcome:
    """A case that has ended: what came of it, how long it took, and the request after it."""

    prompt: str
    end: End
    job: Json
    seconds: float
    after: End


# One fault's cases are far apart: several answers without end at once would take all there is.
CASES = [Case(fault, view, spare) for spare in (False, True) for view in VIEWS for fault in FAULTS]


@dataclass(frozen=True)
class Stage:
    """The server with a model for each case, and both providers."""

    served: Served
    primary: Upstream
    spare: Upstream

    def play(self, case: Case) -> Outcome:
        """Run a case, and a healthy request at the same provider after it."""
        prompt, see = str(uuid4()), VIEWS[case.view]
        timeout_s = case.fault.timeout_s or DEADLINE_S
        if case.fault.name != REFUSE:
            assert see(self.served, warm_up(prompt), model=str(case)).text == ANSWER
        began = time.monotonic()
        end = see(self.served, prompt, model=str(case), timeout_s=timeout_s)
        seconds = time.monotonic() - began
        after = see(self.served, f"all is well after {prompt}")
        return Outcome(prompt, end, status(self.served, end.request_id), seconds, after)


def warm_up(prompt: str) -> str:
    """The request before, which leaves a connection; the prompt's fault goes before the model's."""
    return f"fault:ok warm up {prompt}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        primary, spare = (stack.enter_context(start_upstream()) for _ in range(2))
        nowhere = stack.enter_context(closed_port())
        urls = {"a": primary.url, "b": spare.url, "nowhere": f"http://127.0.0.1:{nowhere}/v1"}
        path = tmp_path_factory.mktemp("routes") / "routes.toml"
        path.write_text(routes(urls))
        served = stack.enter_context(serve(ORCHESTRATOR_CONFIG=str(path)))
        yield Stage(served, primary, spare)


def routes(urls: dict[str, str]) -> str:
    """The routes file: ``default`` for healthy requests, and a model for each case."""
    backends = [
        f'[backends.{name}]\nkind = "openai"\nbase_url = "{url}"' for name, url in urls.items()
    ]
    default = '[models.default]\ntargets = ["a/big"]'
    return "\n".join([*backends, default, *(case.table for case in CASES)])


@pytest.fixture(scope="module")
def outcomes(stage: Stage, request: pytest.FixtureRequest) -> dict[Case, Future[Outcome]]:
    """Every case that this run has selected, played to its end.

    All in here: between tests pytest writes to os.environ, which requests reads in every thread.
    """
    here = (item for item in request.session.items if item.path == Path(__file__))
    selected = [item.callspec.params["case"] for item in here if isinstance(item, pytest.Function)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {case: pool.submit(stage.play, case) for case in selected}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_is_overcome_or_is_one_clean_error(
    case: Case, stage: Stage, outcomes: dict[Case, Future[Outcome]]
) -> None:
    fault, outcome = case.fault, outcomes[case].result()
    end, job = outcome.end, outcome.job
    calls = fault.calls[case.spare]
    taken_over = case.spare and fault.then is not Then.NOTHING

    assert outcome.seconds < (fault.timeout_s or DEADLINE_S) + TOLERANCE_S
    if taken_over:
        assert (end.text, end.code) == (SPARE, None)
    else:
        assert (end.text, end.code) == (None if fault.code else ANSWER, fault.code)
    assert (job["result"], job["error_code"]) == (end.text, end.code)
    assert job["status"] == ("failed" if end.code else "completed")
    assert bool(job["error"]) is bool(end.code)
    assert job["attempts"] == calls + taken_over
    assert job["backend"] == (f"b/fault:{SPARE_FAULT}/{case}" if taken_over else case.target)
    if taken_over and case.view != "poll":
        assert (end.restarts[-1:] == (calls + 1,)) is (fault.then is Then.RESTARTS)
    if not case.spare and fault.then is Then.RESTARTS and case.view != "poll":
        assert end.restarts == tuple(range(2, calls + 1)), "one before each further attempt"
    check_calls(case, stage, outcome, taken_over)
    assert outcome.after.text == f"all is well after {outcome.prompt}"


def check_calls(case: Case, stage: Stage, outcome: Outcome, taken_over: bool) -> None:
    """Hold what the providers saw: how many calls, when, and the end of each connection."""
    fault, second = case.fault, stage.spare.seen(outcome.prompt)
    assert second["calls"] == taken_over
    if fault.name == REFUSE:
        assert stage.primary.seen(outcome.prompt)["calls"] == 0
        return
    until(lambda: stage.primary.seen(outcome.prompt)["open"] == 0)
    first = stage.primary.seen(outcome.prompt)
    assert first["calls"] == fault.calls[case.spare] + fault.mute
    assert first["connections"][:1] == stage.primary.seen(warm_up(outcome.prompt))["connections"]
    assert first["client_closed"] == (first["calls"] if fault.holds else 0)
    longest = fault.waits_s + BACKOFF_S + HASTY_S + TOLERANCE_S
    if fault.name == "endless":
        # It is given up at a size, which takes a busy machine a while to read.
        longest = DEADLINE_S
    for earlier, later in pairwise(first["times"] + second["times"]):
        assert later - earlier < longest
    for earlier, later in pairwise(first["times"]):
        assert later - earlier >= fault.waits_s
