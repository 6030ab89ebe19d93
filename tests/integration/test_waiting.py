"""Requests that wait for a full backend: they keep no other waiting, and go in their order."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.bootstrap.service import build_service
from orchestrator.config import load
from orchestrator.job import Job, Priority, Status
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.nobody import Nobodys
from tests.fakes.upstream import Upstream, start_upstream

MODELS = """
[backends.one]
kind = "openai"
base_url = "{url}"
max_concurrency = 1

[backends.free]
kind = "openai"
base_url = "{url}"

[models.default]
targets = ["one/big"]

[models.sibling]
targets = ["one/small"]

[models.sharing]
targets = ["one/big"]
coalesce = true

[models.keeping]
targets = ["one/big"]
cache_ttl_s = 60

[models.both]
targets = ["one/big", "free/big"]

[models.quick]
targets = ["free/big"]
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


class Served:
    """A service of the models above with two slots, whose only place at ``one`` is taken."""

    def __init__(self, path: Path, upstream: Upstream, concurrency: int = 2) -> None:
        path.write_text(MODELS.format(url=upstream.url))
        environ = {
            "ORCHESTRATOR_CONFIG": str(path),
            "ORCHESTRATOR_CONCURRENCY": str(concurrency),
            "ORCHESTRATOR_FIRST_TOKEN_TIMEOUT_S": "60",
        }
        self.service = Nobodys(build_service(load(environ)))
        self.service.start()
        self._upstream = upstream
        self._holder = self.submit("fault:silent")
        eventually(lambda: self.status(self._holder) is Status.PROCESSING)

    def submit(self, prompt: str = "", **fields: Any) -> str:
        asked = a_request(prompt or str(uuid4()), **({"session_id": str(uuid4())} | fields))
        return self.service.submit(asked).request_id

    def status(self, job_id: str) -> Status:
        return self.service.get(job_id).status

    def ended(self, job_id: str) -> Job:
        job = self.service.wait(job_id, WAIT_S)
        assert job.status.is_terminal
        return job

    def ask(self, prompt: str = "", **fields: Any) -> Job:
        return self.ended(self.submit(prompt, **fields))

    def let_go(self) -> None:
        """Free the place."""
        self.service.cancel(self._holder)

    def asked_at(self, job_id: str) -> float:
        """When the upstream was asked for it."""
        prompt = self.service.get(job_id).request.prompt
        (at,) = self._upstream.seen(prompt)["times"]
        return float(at)


Make = Callable[..., Served]


@pytest.fixture
def served(tmp_path: Path, upstream: Upstream) -> Served:
    return Served(tmp_path / "routes.toml", upstream)


def test_a_full_model_keeps_no_other_waiting(served: Served) -> None:
    waiting = [served.submit() for _ in range(50)]
    for _ in range(3):
        assert served.ask(model="quick").status is Status.COMPLETED
    assert {served.status(job_id) for job_id in waiting} == {Status.PENDING}
    last = served.service.get(waiting[-1])
    assert served.service.queue_position(last) == 49
    served.let_go()
    for job_id in waiting:
        assert served.ended(job_id).status is Status.COMPLETED


def test_a_place_goes_to_the_highest_priority_of_all_models_that_share_it(served: Served) -> None:
    low = served.submit(priority=Priority.LOW)
    normal = served.submit(model="sibling")
    later = served.submit()
    high = served.submit(model="sibling", priority=Priority.HIGH)
    served.let_go()
    for job_id in (low, normal, later, high):
        assert served.ended(job_id).status is Status.COMPLETED
    assert sorted((low, normal, later, high), key=served.asked_at) == [high, normal, later, low]


def test_a_model_has_room_where_any_of_its_targets_has(served: Served) -> None:
    served.submit()
    job = served.ask(model="both")
    assert (job.status, job.backend) == (Status.COMPLETED, "free/big")


def test_its_time_in_the_queue_runs_out_and_not_its_time_to_run(served: Served) -> None:
    late = served.submit(queue_timeout_s=0.2)
    patient = served.submit(timeout_s=0.5)
    assert (served.ended(late).error_code, served.ended(late).error_stage) == (
        "DEADLINE_EXCEEDED",
        "queue",
    )
    time.sleep(0.5)
    assert served.status(patient) is Status.PENDING
    served.service.cancel(patient)
    assert served.ended(patient).status is Status.CANCELLED


def test_those_that_ask_the_same_are_one_call_and_wait_once(
    served: Served, upstream: Upstream
) -> None:
    prompt = f"fault:ok 5 0.1 {uuid4()}"
    first = served.submit(prompt, model="sharing")
    other = served.submit(model="sharing")
    second = served.submit(prompt, model="sharing")
    served.let_go()
    eventually(lambda: served.status(second) is Status.PROCESSING)
    assert served.status(other) is Status.PENDING
    answers = {served.ended(job_id).result for job_id in (first, second)}
    assert answers == {"".join(f"w{number} " for number in range(5))}
    assert upstream.seen(prompt)["calls"] == 1
    assert served.ended(other).status is Status.COMPLETED


def test_who_joins_a_call_that_runs_needs_no_place(served: Served, upstream: Upstream) -> None:
    served.let_go()
    prompt = f"fault:ok 5 0.2 {uuid4()}"
    first = served.submit(prompt, model="sharing")
    eventually(lambda: upstream.seen(prompt)["calls"] == 1)
    second = served.submit(prompt, model="sharing")
    eventually(lambda: served.status(second) is not Status.PENDING)
    assert served.status(first) is Status.PROCESSING
    assert served.ended(second).result == served.ended(first).result
    assert upstream.seen(prompt)["calls"] == 1


def test_a_place_is_free_again_when_a_kept_answer_came_first(
    served: Served, upstream: Upstream
) -> None:
    prompt = f"keep this {uuid4()}"
    ids = [served.submit(prompt, model="keeping") for _ in range(5)]
    last = served.submit()
    served.let_go()
    answers = [served.ended(job_id) for job_id in ids]
    assert {answer.result for answer in answers} == {prompt}
    assert sum(answer.cached for answer in answers) == 4
    assert upstream.seen(prompt)["calls"] == 1
    assert served.ended(last).status is Status.COMPLETED


def test_a_drain_ends_those_that_still_wait(served: Served) -> None:
    waiting = [served.submit() for _ in range(5)]
    assert served.service.drain(0.1)
    for job_id in waiting:
        assert served.ended(job_id).error_code == "SHUTDOWN"


def test_cancels_at_any_moment_lose_no_place(tmp_path: Path, upstream: Upstream) -> None:
    served = Served(tmp_path / "routes.toml", upstream, concurrency=8)
    served.let_go()
    models = ("default", "sibling", "sharing", "keeping", "both", "quick")
    prompts = [str(uuid4()) for _ in range(20)]
    ids = [
        served.submit(prompts[number % 20], model=models[number % 6], stream=bool(number % 2))
        for number in range(240)
    ]
    for job_id in ids[::3]:
        served.service.cancel(job_id)
    assert {served.ended(job_id).status for job_id in ids} <= {
        Status.COMPLETED,
        Status.CANCELLED,
    }
    for model in models:
        assert served.ask(model=model).status is Status.COMPLETED
