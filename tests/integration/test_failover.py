"""Routes from a TOML file over real servers that fail: what the client gets, what they saw."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.bootstrap.service import build_service
from orchestrator.config import load
from orchestrator.errors import PipelineUnavailable
from orchestrator.events import Completed, Event, Failed, Restarted, Token, Usage
from orchestrator.job import Job, Status
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.nobody import Nobodys
from tests.fakes.upstream import Upstream, closed_port, start_upstream
from tests.served import BUSY

DEADLINE_S = 30.0
TOLERANCE_S = BUSY * 1.0
ANSWER, SPARE = ("".join(f"w{number} " for number in range(count)) for count in (5, 7))
"""What the first target says, and the second."""

TIMES = """
connect_timeout_s = 10
first_token_timeout_s = 10
idle_timeout_s = 1
timeout_s = 30
retry_after_max_s = 1
"""

OPENAI = 'kind = "openai"'
KINDS = {"claude": 'kind = "anthropic"\napi_key_env = "KEY"'}
"""What a backend's table says where it isn't OpenAI's."""


@pytest.fixture(scope="module")
def primary() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def spare() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}/v1"


@dataclass
class Ran:
    """A request that ended: its job, its log, and the seconds that it took."""

    prompt: str
    job: Job
    events: list[Event]
    seconds: float

    @property
    def restarts(self) -> list[Restarted]:
        return [event for event in self.events if isinstance(event, Restarted)]

    @property
    def text(self) -> str:
        """The answer as someone who follows the log has it in the end."""
        pieces: list[str] = []
        for event in self.events:
            if isinstance(event, Restarted):
                pieces.clear()
            elif isinstance(event, Token):
                assert event.chunk == len(pieces)
                pieces.append(event.text)
        return "".join(pieces)


class Routed:
    """A service whose only model has the given targets."""

    def __init__(self, folder: Path, backends: dict[str, str], targets: list[str], more: str = ""):
        tables = [
            f'[backends.{name}]\n{KINDS.get(name, OPENAI)}\nbase_url = "{url}"'
            + ("\nmax_concurrency = 1" if "one_at_a_time" in name else "")
            for name, url in backends.items()
        ]
        names = ", ".join(f'"{target}"' for target in targets)
        model = f"[models.default]\ntargets = [{names}]\n{more or TIMES}"
        path = folder / f"{uuid4()}.toml"
        path.write_text("\n".join([*tables, model]))
        settings = load({"ORCHESTRATOR_CONFIG": str(path), "KEY": "sk-1"})
        self.service = Nobodys(build_service(settings))
        self.service.start()

    def submit(self, prompt: str = "", **fields: Any) -> str:
        fields = {"timeout_s": DEADLINE_S, "session_id": str(uuid4())} | fields
        return self.service.submit(a_request(prompt or str(uuid4()), **fields)).request_id

    def log(self, job_id: str) -> list[Event]:
        return [event for _, event in self.service.read(job_id, -1, limit=100_000).events]

    def ask(self, prompt: str = "", **fields: Any) -> Ran:
        """Run a request to its end, which must be one, in time."""
        began = time.monotonic()
        job_id = self.submit(prompt, **fields)
        job = self.service.wait(job_id, DEADLINE_S + TOLERANCE_S)
        seconds = time.monotonic() - began
        assert job.status.is_terminal, "neither an answer nor an error in time"
        events = self.log(job_id)
        ran = Ran(job.request.prompt, job, events, seconds)
        assert sum(isinstance(event, Completed | Failed) for event in events) == 1
        if job.status is Status.COMPLETED:
            assert job.result == ran.text, "followers have what pollers have"
        else:
            assert job.result is None
        return ran


Route = Callable[..., Routed]


@pytest.fixture
def route(tmp_path: Path, primary: Upstream, spare: Upstream, nowhere: str) -> Route:
    """A function that makes a service of targets such as ``a/fault:cut/3``."""
    backends = {
        "a": primary.url,
        "b": spare.url,
        "claude": spare.url.removesuffix("/v1"),
        "dead": nowhere,
        "one_at_a_time": primary.url,
    }

    def make(*targets: str, more: str = "") -> Routed:
        used = {target.partition("/")[0] for target in targets}
        chosen = {name: url for name, url in backends.items() if name in used}
        return Routed(tmp_path, chosen, list(targets), more)

    return make


# Each single fault, with one target and with two, is e2e/test_faults.py's.


def test_a_server_that_is_not_there_is_passed_over(route: Route) -> None:
    alone = route("dead/big").ask()
    assert (alone.job.error_code, alone.job.attempts) == ("UPSTREAM_ERROR", 3)
    assert "refused" in (alone.job.error or "")
    assert route("dead/big", "b/fault:ok/7").ask().text == SPARE


def test_an_anthropic_target_takes_over(route: Route) -> None:
    ran = route("a/fault:cut/3", "claude/fault:ok/7").ask()
    assert (ran.text, ran.job.backend) == (SPARE, "claude/fault:ok/7")
    assert [event.backend for event in ran.restarts][-1] == "claude/fault:ok/7"


def test_another_takes_over_from_an_anthropic_target(route: Route) -> None:
    ran = route("claude/fault:cut/3", "a/fault:ok/7").ask()
    assert (ran.text, ran.job.backend) == (SPARE, "a/fault:ok/7")


@pytest.mark.parametrize("shared", ["", "cache_ttl_s = 60", "coalesce = true"])
def test_what_failed_attempts_cost_is_counted_apart(route: Route, shared: str) -> None:
    ran = route("claude/fault:cut/3", "a/fault:ok/7", more=TIMES + shared).ask()
    assert (ran.text, ran.job.usage, ran.job.failed_usage) == (SPARE, Usage(7, 7), Usage(14, 2))
    alone = route("claude/fault:cut/3", more=TIMES + shared).ask()
    assert (alone.job.usage, alone.job.failed_usage) == (None, Usage(21, 3))


@pytest.mark.parametrize("shared", ["", "cache_ttl_s = 60", "coalesce = true"])
def test_what_a_cancelled_answer_and_a_late_one_cost_is_counted(route: Route, shared: str) -> None:
    times = TIMES.replace("idle_timeout_s = 1", "idle_timeout_s = 10")
    routed = route("claude/fault:stall/3", more=times + shared)
    late = routed.ask(timeout_s=1.0).job
    assert (late.error_code, late.usage, late.failed_usage) == (
        "DEADLINE_EXCEEDED",
        None,
        Usage(7, 1),
    )
    cancelled = routed.submit()
    eventually(lambda: any(isinstance(event, Token) for event in routed.log(cancelled)))
    routed.service.cancel(cancelled)
    job = routed.service.wait(cancelled, WAIT_S)
    assert (job.status, job.failed_usage) == (Status.CANCELLED, Usage(7, 1))


def test_what_an_anthropic_target_refuses_on_principle_is_shown_to_no_other(
    route: Route, primary: Upstream
) -> None:
    ran = route("claude/fault:filter", "a/fault:ok/7").ask()
    assert ran.job.error_code == "UPSTREAM_REJECTED"
    assert primary.seen(ran.prompt)["calls"] == 0


def test_a_healthy_request_works_after_each_fault(route: Route) -> None:
    routed = route("a/big", "b/big")
    for fault in ("cut", "stall", "reset", "status 500", "policy"):
        routed.ask(f"fault:{fault}")
        assert routed.ask("all is well again").text == "all is well again"


def test_what_all_fail_with_is_the_preferred_targets_word(route: Route) -> None:
    ran = route("a/fault:status/503", "dead/big").ask()
    assert "HTTP status 503" in (ran.job.error or "")


def test_what_the_client_can_mend_is_told_before_all_else(route: Route) -> None:
    ran = route("a/fault:context", "b/fault:status/500").ask()
    assert ran.job.error_code == "UPSTREAM_REJECTED"
    assert "longer than I can read" in (ran.job.error or "")


def test_a_refusal_of_the_content_tells_its_reason(route: Route) -> None:
    assert "must not talk about that" in (route("a/fault:policy").ask().job.error or "")


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [
        ("status/429/1", 1.0, 1.1),
        ("status/503/0.5", 0.5, 0.55),
        ("busy_ms", 1.5, 1.65),
        # A date has no fractions of a second.
        ("busy_until/3", 2.0, 3.3),
    ],
)
def test_the_wait_that_a_provider_asks_for_is_kept(
    route: Route, primary: Upstream, fault: str, least: float, most: float
) -> None:
    ran = route(f"a/fault:first/1/{fault}").ask()
    assert ran.text == ANSWER
    first, second = primary.seen(ran.prompt)["times"]
    assert least <= second - first < most + BUSY * 0.5


def test_a_longer_wait_is_kept_too_once_there_is_no_other(
    route: Route, primary: Upstream, spare: Upstream
) -> None:
    ran = route("a/fault:first/1/status/429/2", "b/fault:status/401").ask()
    assert (ran.text, ran.job.attempts) == (ANSWER, 3)
    first, second = primary.seen(ran.prompt)["times"]
    assert 2.0 <= second - first < 2.2 + BUSY * 0.5
    assert spare.seen(ran.prompt)["times"][0] < second


def test_the_last_of_many_targets_is_asked_too(route: Route) -> None:
    down = [f"a/fault:status/500/0/{number}" for number in range(5)]
    assert route(*down, "b/fault:ok/7").ask().text == SPARE


def test_a_target_that_asks_for_a_long_wait_has_it_from_all(
    route: Route, primary: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    routed = route("a/fault:status/429/20")
    first = routed.submit("told to wait")
    eventually(lambda: "asks to be left alone" in caplog.text)
    others = [routed.submit(f"waits for it too {number}") for number in range(5)]
    assert routed.service.get(first).status is Status.PROCESSING
    assert {routed.service.get(other).status for other in others} == {Status.PENDING}
    assert sum(primary.seen(f"waits for it too {number}")["calls"] for number in range(5)) == 0


def test_retries_are_as_many_as_the_file_says(route: Route, primary: Upstream) -> None:
    ran = route("a/fault:status/500", more="retries = 0").ask()
    assert primary.seen(ran.prompt)["calls"] == ran.job.attempts == 1


def test_a_failure_after_a_restart_is_no_answer(route: Route) -> None:
    ran = route("a/fault:cut/40/60", "b/fault:status/401").ask()
    assert (ran.job.status, ran.job.error_code) == (Status.FAILED, "UPSTREAM_TRUNCATED")
    assert [restart.attempt for restart in ran.restarts] == [2, 3]
    assert ran.text == ""


def test_all_attempts_share_one_deadline(route: Route) -> None:
    ran = route("a/fault:stall/3", "b/fault:stall/3", more="retries = 9").ask(timeout_s=0.8)
    assert ran.job.error_code == "DEADLINE_EXCEEDED"
    assert ran.seconds < 0.8 + TOLERANCE_S


def test_a_cancel_ends_a_wait_between_attempts_at_once(route: Route, primary: Upstream) -> None:
    routed = route("a/fault:status/429/5")
    job_id = routed.submit("cancelled while waiting")
    eventually(lambda: primary.seen("cancelled while waiting")["calls"] == 1)
    began = time.monotonic()
    routed.service.cancel(job_id)
    assert routed.service.wait(job_id, WAIT_S).status is Status.CANCELLED
    assert time.monotonic() - began < BUSY * 1.0
    assert primary.seen("cancelled while waiting")["calls"] == 1


def test_a_target_that_keeps_failing_is_left_alone(
    route: Route, primary: Upstream, spare: Upstream
) -> None:
    routed = route("a/fault:status/500", "b/fault:ok/7")
    for number in range(7):
        assert routed.ask(f"left alone {number}").text == SPARE
    calls = [primary.seen(f"left alone {number}")["calls"] for number in range(7)]
    assert calls == [2, 2, 2, 2, 2, 0, 0]
    last = routed.ask("left alone")
    assert (last.job.attempts, last.job.backend) == (1, "b/fault:ok/7")


def test_a_silent_target_leaves_time_for_the_next_and_is_left_alone_then(
    route: Route, primary: Upstream
) -> None:
    routed = route("a/fault:silent", "b/fault:ok/7")
    hurried = 3.0
    first = [routed.submit(f"in a hurry {number}", timeout_s=hurried) for number in range(5)]
    for job_id in first:
        assert routed.service.wait(job_id, WAIT_S).result == SPARE
    for number in range(5, 12):
        ran = routed.ask(f"in a hurry {number}", timeout_s=hurried)
        assert (ran.text, ran.job.attempts) == (SPARE, 1)
    calls = [primary.seen(f"in a hurry {number}")["calls"] for number in range(12)]
    assert calls == [1] * 5 + [0] * 7


def test_silence_is_what_those_have_who_share_a_call(route: Route) -> None:
    routed = route("a/fault:silent", "b/fault:status/500", more=TIMES + "coalesce = true")
    ids = [routed.submit("a shared silence", timeout_s=3.0) for _ in range(2)]
    for job_id in ids:
        job = routed.service.wait(job_id, WAIT_S)
        assert (job.status, job.error_code) == (Status.FAILED, "UPSTREAM_TIMEOUT")
        assert "no part of an answer within 1.5 s" in (job.error or "")


def test_a_deadline_in_silence_counts_where_there_is_no_other(route: Route) -> None:
    routed = route("a/fault:silent")
    ids = [routed.submit(timeout_s=0.7) for _ in range(5)]
    for job_id in ids:
        assert routed.service.wait(job_id, WAIT_S).error_code == "DEADLINE_EXCEEDED"
    with pytest.raises(PipelineUnavailable, match="no part of an answer"):
        routed.submit()


@pytest.mark.parametrize("targets", [("a/big",), ("a/big", "b/big")])
def test_clients_in_too_much_of_a_hurry_leave_a_target_in_use(
    route: Route, targets: tuple[str, ...]
) -> None:
    routed = route(*targets)
    ids = [routed.submit(f"fault:silent number {number}", timeout_s=0.1) for number in range(12)]
    for job_id in ids:
        assert routed.service.wait(job_id, WAIT_S).error_code == "DEADLINE_EXCEEDED"
    ran = routed.ask("all is well")
    assert (ran.text, ran.job.attempts, ran.job.backend) == ("all is well", 1, "a/big")


def test_submits_are_refused_while_every_target_is_left_alone(route: Route) -> None:
    routed = route("a/fault:status/500", "dead/big", more="retries = 0")
    for _ in range(5):
        routed.ask()
    with pytest.raises(PipelineUnavailable) as caught:
        routed.submit()
    assert 1 <= caught.value.retry_after <= 5
    assert "HTTP status 500" in caught.value.message


def test_what_clients_get_wrong_leaves_a_target_in_use(route: Route) -> None:
    routed = route("a/fault:status/400")
    for _ in range(12):
        assert routed.ask().job.error_code == "UPSTREAM_REJECTED"


@pytest.mark.parametrize("fault", ["html 413", "html 400", "html 422", "reason tool_calls"])
def test_prompts_that_a_proxy_or_no_text_answers_leave_a_target_in_use(
    route: Route, fault: str
) -> None:
    routed = route("a/big")
    for number in range(5):
        assert routed.ask(f"fault:{fault} number {number}").job.attempts == 1
    assert routed.ask("all is well").text == "all is well"


def test_what_is_too_large_for_two_is_shown_to_no_third(route: Route, spare: Upstream) -> None:
    ran = route("a/fault:html/413", "a/fault:html/413/too", "b/fault:ok/7").ask()
    assert (ran.job.error_code, ran.job.attempts) == ("UPSTREAM_REJECTED", 2)
    assert spare.seen(ran.prompt)["calls"] == 0
    assert route("a/fault:html/413", "b/fault:ok/7").ask().text == SPARE


def test_prompts_with_answers_that_are_too_large_leave_a_target_in_use(route: Route) -> None:
    routed = route("a/big", more="retries = 0")
    for _ in range(5):
        assert "MiB" in (routed.ask("fault:endless").job.error or "")
    assert routed.ask("all is well").text == "all is well"


def test_prompts_that_a_callable_breaks_on_leave_it_in_use() -> None:
    settings = load({"ORCHESTRATOR_BACKEND": "tests.fakes.callables:picky"})
    service = Nobodys(build_service(settings))
    service.start()

    def ask(prompt: str) -> Job:
        asked = a_request(prompt, model=service.models[0].id, session_id=str(uuid4()))
        return service.wait(service.submit(asked).request_id, WAIT_S)

    for _ in range(6):
        assert ask("break").error_code == "UPSTREAM_ERROR"
    assert ask("hello").status is Status.COMPLETED


def test_a_full_backend_is_passed_by(route: Route, primary: Upstream) -> None:
    routed = route("one_at_a_time/fault:ok/5/0.1", "b/fault:ok/7")
    slow = routed.submit("slow")
    eventually(lambda: primary.seen("slow")["calls"] == 1)
    quick = routed.ask("quick")
    assert (quick.text, quick.job.backend, quick.job.attempts) == (SPARE, "b/fault:ok/7", 1)
    assert routed.service.wait(slow, WAIT_S).backend == "one_at_a_time/fault:ok/5/0.1"


def test_a_full_backend_is_waited_for_where_there_is_no_other(
    route: Route, primary: Upstream
) -> None:
    routed = route("one_at_a_time/fault:ok/5/0.02")
    ids = [routed.submit(f"in line {number}") for number in range(5)]
    for job_id in ids:
        assert routed.service.wait(job_id, WAIT_S).status is Status.COMPLETED
    times = [primary.seen(f"in line {number}")["times"][0] for number in range(5)]
    times.sort()
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert min(gaps) >= 0.09, "never two at once"


def test_a_cancel_ends_the_wait_for_a_place_at_once(route: Route, primary: Upstream) -> None:
    routed = route("one_at_a_time/fault:ok/5/0.2")
    running = routed.submit("holds the place")
    eventually(lambda: primary.seen("holds the place")["calls"] == 1)
    waiting = routed.submit("wants the place")
    assert routed.service.get(waiting).status is Status.PENDING
    routed.service.cancel(waiting)
    assert routed.service.wait(waiting, BUSY * 0.5).status is Status.CANCELLED
    assert routed.service.wait(running, WAIT_S).status is Status.COMPLETED
    assert primary.seen("wants the place")["calls"] == 0


def test_of_a_thousand_answers_cut_anywhere_none_is_torn(route: Route) -> None:
    # Here no timeout is to run out, however busy the machine.
    routed = route("a/big", more="timeout_s = 60")
    places = random.Random(7)
    ids = [
        routed.submit(
            f"fault:first 1 cut {places.randrange(1, 60)} 60 number {number}", timeout_s=60
        )
        for number in range(1_000)
    ]
    for job_id in ids:
        job = routed.service.wait(job_id, 60)
        ran = Ran(job.request.prompt, job, routed.log(job_id), 0)
        assert (job.status, job.attempts, len(ran.restarts)) == (Status.COMPLETED, 2, 1)
        assert job.result == ran.text == ANSWER
