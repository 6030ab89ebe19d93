"""Answers given again and calls that are shared, over a real server that counts its calls."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.bootstrap.service import build_service
from orchestrator.config import load
from orchestrator.errors import PipelineUnavailable
from orchestrator.events import Completed, Event, FinishReason, Restarted, Started, Token
from orchestrator.job import Job, OnBusy, Reuse, Status
from orchestrator.service import Service
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.nobody import Nobodys
from tests.fakes.upstream import Upstream, start_upstream

WORDS = [f"w{number} " for number in range(60)]
CACHE = "cache_ttl_s = 60"
SHARE = "coalesce = true"
BOTH = f"{CACHE}\n{SHARE}"

Make = Callable[..., "Asked"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


class Asked:
    """A service with one model, and what its server saw of a prompt."""

    def __init__(self, service: Service, upstream: Upstream) -> None:
        self.service = Nobodys(service)
        self._upstream = upstream
        service.start()

    def submit(self, prompt: str, **fields: Any) -> str:
        fields = {"session_id": str(uuid4())} | fields
        return self.service.submit(a_request(prompt, **fields)).request_id

    def ended(self, job_id: str) -> Job:
        job = self.service.wait(job_id, WAIT_S)
        assert job.status.is_terminal, "the request does not end"
        return job

    def ask(self, prompt: str, **fields: Any) -> Job:
        return self.ended(self.submit(prompt, **fields))

    def submit_all(self, count: int, prompt: str, **fields: Any) -> list[str]:
        """Submit many, and wait until all of them run."""
        ids = [self.submit(prompt, **fields) for _ in range(count)]
        eventually(lambda: all(self.log(job_id) for job_id in ids))
        return ids

    def log(self, job_id: str) -> Sequence[Event]:
        return [event for _, event in self.service.read(job_id, -1, limit=1000).events]

    def seen(self, prompt: str, what: str = "calls") -> Any:
        return self._upstream.seen(prompt)[what]


@pytest.fixture
def asked(tmp_path: Path, upstream: Upstream) -> Make:
    """A function that makes a service of lines for its model, targets and environment."""

    def make(lines: str, *targets: str, **environ: str) -> Asked:
        path = tmp_path / "routes.toml"
        names = ", ".join(f'"{target}"' for target in targets or ("a/big",))
        path.write_text(
            f'[backends.a]\nkind = "openai"\nbase_url = "{upstream.url}"\nmax_concurrency = 8\n'
            f"[models.default]\ntargets = [{names}]\n{lines}\n"
        )
        return Asked(build_service(load({"ORCHESTRATOR_CONFIG": str(path)} | environ)), upstream)

    return make


# Answers given again


def test_an_identical_request_is_answered_by_the_submit_itself(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"say this again {uuid4()}"
    first = service.ask(prompt)
    again = service.service.get(service.submit(prompt))
    assert again.status is Status.COMPLETED
    assert (again.cached, again.attempts, again.backend) == (True, 0, "a/big")
    assert (again.result, again.usage) == (first.result, first.usage)
    assert (first.cached, first.attempts) == (False, 1)
    assert service.log(again.id) == service.log(first.id)
    assert service.seen(prompt) == 1


def test_without_a_line_in_the_file_nothing_is_kept(asked: Make) -> None:
    service = asked("cache_ttl_s = 0")
    prompt = f"keep nothing {uuid4()}"
    assert [service.ask(prompt).attempts for _ in range(2)] == [1, 1]
    assert not service.service.caches("default")


def test_an_answer_is_asked_for_again_after_its_time(asked: Make) -> None:
    service = asked("cache_ttl_s = 0.3")
    prompt = f"for a moment {uuid4()}"
    service.ask(prompt)
    eventually(lambda: not service.ask(prompt).cached)
    assert service.seen(prompt) == 2


def test_other_sampling_is_another_question(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"so many questions {uuid4()}"
    others: list[dict[str, Any]] = [
        {},
        {"max_tokens": 7},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"stop": ("x",)},
        {"seed": 7},
        {"system": "Be short."},
    ]
    for fields in others:
        assert not service.ask(prompt, **fields).cached
    for fields in others:
        assert service.ask(prompt, **fields).cached
    assert service.seen(prompt) == len(others)


def test_the_conversation_before_is_part_of_the_question(asked: Make) -> None:
    service = asked(CACHE)
    one, two = f"one {uuid4()}", f"two {uuid4()}"
    talks = [[service.ask(prompt, session_id=name) for prompt in (one, two, two)] for name in "ab"]
    assert [job.cached for job in talks[0]] == [False, False, False]
    assert [job.cached for job in talks[1]] == [True, True, True]
    assert not service.ask(two).cached, "nothing was said before it"
    histories = [service.service.session(name).history for name in "ab"]
    assert histories[0] == histories[1]
    assert len(histories[1].messages) == 6


def test_one_that_waits_for_its_turn_finds_the_answer_when_it_runs(asked: Make) -> None:
    service = asked(CACHE)
    slow = f"fault:ok 5 0.1 {uuid4()}"
    after = f"after the slow one {uuid4()}"
    session = str(uuid4())
    service.ask(slow, session_id=session)
    service.ask(after, session_id=session)
    other = str(uuid4())
    first = service.submit(slow, session_id=other, reuse=Reuse.REFRESH)
    waiting = service.submit(after, session_id=other)
    assert service.service.get(waiting).status is Status.PENDING
    assert not service.ended(first).cached
    assert service.ended(waiting).cached
    assert (service.seen(slow), service.seen(after)) == (2, 1)


def test_it_waits_for_no_slot_and_no_place(asked: Make) -> None:
    service = asked(CACHE, ORCHESTRATOR_CONCURRENCY="1")
    prompt = f"at once {uuid4()}"
    service.ask(prompt)
    held = f"fault:silent {uuid4()}"
    busy = [service.submit(held) for _ in range(3)]
    eventually(lambda: service.seen(held) == 1)
    again = service.service.get(service.submit(prompt))
    assert (again.status, again.cached) == (Status.COMPLETED, True)
    for job_id in busy:
        service.service.cancel(job_id)


@pytest.mark.parametrize("on_busy", [OnBusy.PARALLEL, OnBusy.INTERRUPT])
def test_a_busy_session_is_no_hindrance(asked: Make, on_busy: OnBusy) -> None:
    service = asked(CACHE)
    prompt = f"beside it {uuid4()}"
    service.ask(prompt)
    session = str(uuid4())
    running = service.submit(f"fault:silent {uuid4()}", session_id=session)
    assert service.ask(prompt, session_id=session, on_busy=on_busy).cached
    service.service.cancel(running)
    assert service.ended(running).status is Status.CANCELLED


def test_a_refresh_asks_and_keeps_what_it_is_told(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"refresh {uuid4()}"
    service.ask(prompt)
    assert not service.ask(prompt, reuse=Reuse.REFRESH).cached
    assert service.ask(prompt).cached
    assert service.seen(prompt) == 2


def test_a_request_that_wants_no_part_in_it_is_asked_and_not_kept(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"no part {uuid4()}"
    for _ in range(2):
        assert not service.ask(prompt, reuse=Reuse.NEVER).cached
    assert not service.ask(prompt).cached
    assert service.seen(prompt) == 3


def test_a_failure_and_half_an_answer_are_not_kept(asked: Make) -> None:
    service = asked(f"{CACHE}\nretries = 0")
    for fault in ("status 500", "cut", "filter", "context"):
        prompt = f"fault:first 1 {fault} {uuid4()}"
        jobs = [service.ask(prompt) for _ in range(3)]
        assert [job.status for job in jobs] == [Status.FAILED, *[Status.COMPLETED] * 2]
        assert [job.cached for job in jobs] == [False, False, True]
        assert service.seen(prompt) == 2


def test_a_cancelled_answer_is_not_kept(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"fault:ok 5 0.1 {uuid4()}"
    job_id = service.submit(prompt)
    eventually(lambda: len(service.log(job_id)) > 1)
    service.service.cancel(job_id)
    service.ended(job_id)
    assert not service.ask(prompt).cached


def test_an_answer_that_a_limit_cut_is_kept_as_that(asked: Make) -> None:
    service = asked(CACHE)
    prompt = f"fault:length {uuid4()}"
    assert service.ask(prompt).finish_reason is FinishReason.LENGTH
    again = service.ask(prompt)
    assert (again.cached, again.finish_reason) == (True, FinishReason.LENGTH)


def test_of_an_answer_with_a_restart_only_the_whole_one_is_said_again(asked: Make) -> None:
    service = asked(f"{CACHE}\nretries = 0", "a/fault:cut/3", "a/fault:ok/7")
    prompt = f"begun anew {uuid4()}"
    first = service.submit(prompt)
    assert service.ended(first).attempts == 2
    again = service.ask(prompt)
    assert (again.cached, again.backend) == (True, "a/fault:ok/7")
    assert [type(event) for event in service.log(again.id)] == [Started, *[Token] * 7, Completed]
    assert again.result == "".join(WORDS[:7])


def test_what_is_kept_is_given_while_the_model_is_down(asked: Make) -> None:
    service = asked(f"{CACHE}\nretries = 0")
    known = f"known {uuid4()}"
    service.ask(known)
    for _ in range(5):
        service.ask(f"fault:status 500 {uuid4()}")
    with pytest.raises(PipelineUnavailable):
        service.submit(f"unknown {uuid4()}")
    assert service.ask(known).cached
    with pytest.raises(PipelineUnavailable):
        service.submit(known, reuse=Reuse.REFRESH)


# Calls that are shared


def test_identical_requests_in_flight_are_one_call(asked: Make) -> None:
    service = asked(SHARE)
    prompt = f"fault:ok 20 0.05 {uuid4()}"
    ids = service.submit_all(20, prompt)
    eventually(lambda: len(service.log(ids[0])) > 5)
    ids.append(service.submit(prompt))
    for job_id in ids:
        job = service.ended(job_id)
        assert (job.status, job.result) == (Status.COMPLETED, "".join(WORDS[:20]))
        assert (job.attempts, job.cached) == (1, False)
        chunks = [event for event in service.log(job_id) if isinstance(event, Token)]
        assert chunks == [Token(chunk, word) for chunk, word in enumerate(WORDS[:20])]
    assert service.seen(prompt) == 1


def test_a_shared_call_takes_one_place_at_its_backend(asked: Make) -> None:
    service = asked(SHARE)
    prompts = [f"fault:silent no{number} {uuid4()}" for number in range(8)]
    ids = [job_id for prompt in prompts for job_id in service.submit_all(3, prompt)]
    eventually(lambda: [service.seen(prompt, "open") for prompt in prompts] == [1] * 8)
    for job_id in ids:
        service.service.cancel(job_id)
    eventually(lambda: [service.seen(prompt, "open") for prompt in prompts] == [0] * 8)


def test_all_readers_of_a_shared_call_see_its_restart(asked: Make) -> None:
    service = asked(f"{SHARE}\nidle_timeout_s = 0.3", "a/fault:stall/3", "a/fault:ok/7/0.05")
    prompt = f"torn {uuid4()}"
    ids = service.submit_all(3, prompt)
    eventually(lambda: any(isinstance(event, Restarted) for event in service.log(ids[0])))
    ids.append(service.submit(prompt))
    for job_id in ids:
        assert service.ended(job_id).result == "".join(WORDS[:7])
        assert service.log(job_id) == service.log(ids[0])


def test_a_shared_failure_is_everybodys(asked: Make) -> None:
    service = asked(f"{SHARE}\nretries = 1\nidle_timeout_s = 0.5")
    prompt = f"fault:stall 3 {uuid4()}"
    jobs = [service.ended(job_id) for job_id in service.submit_all(5, prompt)]
    assert {job.error_code for job in jobs} == {"UPSTREAM_TIMEOUT"}
    assert {job.error for job in jobs} == {jobs[0].error}
    assert service.seen(prompt) == 2, "one call with its retry"
    # Five failures in a row would open its breaker.
    assert service.ask(f"all is well {uuid4()}").status is Status.COMPLETED


def test_the_call_is_closed_when_the_last_one_leaves_it(asked: Make) -> None:
    service = asked(SHARE)
    prompt = f"fault:ok 60 0.1 {uuid4()}"
    ids = service.submit_all(3, prompt)
    eventually(lambda: service.seen(prompt, "open") == 1)
    for job_id in ids[:2]:
        service.service.cancel(job_id)
        assert service.ended(job_id).status is Status.CANCELLED
    assert service.seen(prompt, "open") == 1
    said = len(service.log(ids[2]))
    eventually(lambda: len(service.log(ids[2])) > said + 2)
    service.service.cancel(ids[2])
    began = time.monotonic()
    eventually(lambda: service.seen(prompt, "client_closed") == 1)
    assert time.monotonic() - began < 1.0
    assert service.seen(prompt) == 1


def test_one_that_runs_out_of_time_leaves_alone(asked: Make) -> None:
    service = asked(SHARE)
    prompt = f"fault:ok 60 0.105 {uuid4()}"
    early = service.submit(prompt, timeout_s=6.0)
    # Late enough to have it whole, and before half of the time, when nobody joins any more.
    eventually(lambda: len(service.log(early)) > 20)
    late = service.submit(prompt, timeout_s=6.0)
    assert service.ended(early).error_code == "DEADLINE_EXCEEDED"
    assert service.ended(late).result == "".join(WORDS)
    assert service.seen(prompt) == 1


def test_requests_with_another_time_limit_have_calls_of_their_own(asked: Make) -> None:
    service = asked(SHARE)
    prompt = f"fault:ok 10 0.03 {uuid4()}"
    ids = [service.submit(prompt, timeout_s=seconds) for seconds in (30.0, 20.0)]
    for job_id in ids:
        assert service.ended(job_id).status is Status.COMPLETED
    assert service.seen(prompt) == 2


@pytest.mark.parametrize("reuse", [Reuse.REFRESH, Reuse.NEVER])
def test_a_request_that_wants_its_own_answer_shares_no_call(asked: Make, reuse: Reuse) -> None:
    service = asked(BOTH)
    prompt = f"fault:ok 10 0.03 {uuid4()}"
    ids = [*service.submit_all(2, prompt), service.submit(prompt, reuse=reuse)]
    for job_id in ids:
        assert service.ended(job_id).status is Status.COMPLETED
    assert service.seen(prompt) == 2


def test_a_shared_answer_is_kept(asked: Make) -> None:
    service = asked(BOTH)
    prompt = f"fault:ok 10 0.05 {uuid4()}"
    for job_id in service.submit_all(5, prompt):
        assert not service.ended(job_id).cached
    assert service.ask(prompt).cached
    assert service.seen(prompt) == 1


def test_however_many_ask_at_any_time_it_is_one_call(asked: Make) -> None:
    service = asked(BOTH)
    prompt = f"fault:ok 5 0.01 {uuid4()}"
    ids = []
    for _ in range(100):
        ids.append(service.submit(prompt))
        time.sleep(0.001)
    for job_id in ids:
        assert service.ended(job_id).result == "".join(WORDS[:5])
    assert service.seen(prompt) == 1


def test_a_restart_of_the_server_ends_all_and_the_call(asked: Make) -> None:
    service = asked(SHARE)
    prompt = f"fault:ok 60 0.1 {uuid4()}"
    ids = service.submit_all(3, prompt)
    eventually(lambda: service.seen(prompt, "open") == 1)
    service.service.drain(0)
    for job_id in ids:
        assert service.ended(job_id).error_code == "SHUTDOWN"
    eventually(lambda: service.seen(prompt, "client_closed") == 1, within_s=1.0)
