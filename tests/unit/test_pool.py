"""The pool: bounded, by priority with ageing, and never without its next request."""

import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import pytest

from orchestrator.backends.base import Backend
from orchestrator.dispatch.pool import Pool
from orchestrator.errors import UpstreamError
from orchestrator.job import GenerateRequest, Job, Priority, Status
from orchestrator.routing.base import Admission, Gate
from orchestrator.runner import Runner
from orchestrator.stores.memory.store import MemoryStore
from tests.fakes.asking import WAIT_S, eventually
from tests.fakes.backends import Hangs, Raises, Says, Steps
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job, position

AGEING_S = 30.0
"""What a low request waits at most behind an endless stream of high ones."""


class Bench:
    """A pool over a real store and a real runner."""

    def __init__(self, backend: Backend, concurrency: int, gate: Gate | None = None) -> None:
        self.clock = Clock()
        self.store = MemoryStore(
            queue_limit=100_000, retention_s=3600, memory_limit=512 * 1024 * 1024
        )
        self.runner = Runner(self.store, lambda _: backend)
        gates = {"default": gate} if gate else {}
        self.pool = Pool(self.runner, concurrency, self.clock, gates)

    def submit(self, prompt: str = "hello", **fields: Any) -> Job:
        job = a_job(prompt, **fields)
        for ready in self.store.submit(job).ready:
            self.pool.put(ready)
        return job

    def cancel(self, job: Job) -> None:
        change = self.store.cancel(job.id)
        self.pool.cancel(job.id)
        for ready in change.ready:
            self.pool.put(ready)

    def status(self, job: Job) -> Status:
        return self.store.get(job.id).status

    def await_end(self, *jobs: Job) -> None:
        for job in jobs:
            assert self.store.wait(job.id, WAIT_S).status.is_terminal, "a request does not end"


class Door:
    """A gate that is opened by hand, and tells of it or doesn't."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._wake: Callable[[], None] = lambda: None
        self.open = False
        self.left = 0

    def has_room(self) -> bool:
        return self.open

    def admit(self) -> Admission | None:
        return Admission(self._backend, self._leave)

    def alike(self, request: GenerateRequest) -> Hashable | None:
        return None

    def watch(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def tell(self) -> None:
        self._wake()

    def _leave(self) -> None:
        self.left += 1


@pytest.fixture
def steps() -> Steps:
    """A backend whose requests run until they are let go."""
    return Steps()


def blocked(steps: Steps, concurrency: int = 1) -> Bench:
    """Return a pool whose slots are all taken."""
    bench = Bench(steps, concurrency)
    for number in range(concurrency):
        bench.submit(f"blocker {number}")
    eventually(lambda: steps.running == concurrency)
    steps.begun.clear()
    return bench


def test_what_is_put_runs(steps: Steps) -> None:
    bench = Bench(Says(), 4)
    jobs = [bench.submit() for _ in range(50)]
    bench.await_end(*jobs)
    assert {bench.status(job) for job in jobs} == {Status.COMPLETED}


def test_no_more_run_at_once_than_there_are_slots(steps: Steps) -> None:
    bench = Bench(steps, 3)
    jobs = [bench.submit(str(number)) for number in range(20)]
    eventually(lambda: steps.running == 3)
    assert len(steps.begun) == 3
    assert sum(bench.status(job) is Status.PENDING for job in jobs) == 17
    steps.let_all_go()
    bench.await_end(*jobs)
    assert steps.most_running == 3


def test_all_slots_are_used_whoever_puts(steps: Steps) -> None:
    bench = Bench(steps, 8)
    threads = [
        threading.Thread(target=bench.submit, args=(f"{number}",), daemon=True)
        for number in range(30)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: steps.running == 8)
    steps.let_all_go()
    for thread in threads:
        thread.join(WAIT_S)
    bench.await_end(*bench.store.live())
    assert steps.most_running == 8


def test_slots_are_used_again_after_the_pool_was_idle(steps: Steps) -> None:
    bench = Bench(Says(), 2)
    for _ in range(20):
        bench.await_end(*[bench.submit() for _ in range(3)])


def test_higher_priorities_run_first_and_each_in_order(steps: Steps) -> None:
    bench = blocked(steps)
    for number in range(3):
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
            bench.submit(f"{priority} {number}", priority=priority)
    steps.let_all_go()
    bench.await_end(*bench.store.live())
    assert steps.begun == [
        *["high 0", "high 1", "high 2"],
        *["normal 0", "normal 1", "normal 2"],
        *["low 0", "low 1", "low 2"],
    ]


def served_in_turn(bench: Bench, steps: Steps, seconds: int) -> list[str]:
    """Let one request a second end while a high one is always waiting; return what began."""
    for second in range(seconds):
        bench.submit(f"high {second}", priority=Priority.HIGH)
        begun = len(steps.begun)
        steps.let_go(steps.begun[-1] if steps.begun else "blocker 0")
        eventually(lambda begun=begun: len(steps.begun) > begun)
        bench.clock.advance(1)
    return steps.begun


@pytest.mark.parametrize("priority", [Priority.LOW, Priority.NORMAL])
def test_an_endless_stream_of_high_requests_keeps_no_other_waiting_for_long(
    steps: Steps, priority: Priority
) -> None:
    bench = blocked(steps)
    bench.submit("patient", priority=priority)
    bench.submit("high", priority=Priority.HIGH)
    begun = served_in_turn(bench, steps, seconds=40)
    assert 15 <= begun.index("patient") <= AGEING_S
    steps.let_all_go()


def test_an_old_backlog_of_high_requests_keeps_no_other_waiting_for_longer(steps: Steps) -> None:
    bench = blocked(steps)
    for number in range(60):
        bench.submit(f"old {number}", priority=Priority.HIGH)
    bench.submit("patient", priority=Priority.LOW)
    begun = served_in_turn(bench, steps, seconds=40)
    assert 15 <= begun.index("patient") <= AGEING_S
    steps.let_all_go()


def test_overdue_requests_and_high_ones_take_turns(steps: Steps) -> None:
    bench = blocked(steps)
    for number in range(20):
        bench.submit(f"low {number}", priority=Priority.LOW)
    bench.clock.advance(25)
    bench.submit("high", priority=Priority.HIGH)
    begun = served_in_turn(bench, steps, seconds=20)
    low = [prompt for prompt in begun if prompt.startswith("low")]
    assert low == [f"low {number}" for number in range(10)]
    steps.let_all_go()


def test_the_most_overdue_goes_first_of_those_overdue(steps: Steps) -> None:
    bench = blocked(steps)
    bench.submit("low", priority=Priority.LOW)
    bench.clock.advance(1)
    bench.submit("normal", priority=Priority.NORMAL)
    bench.submit("high", priority=Priority.HIGH)
    bench.clock.advance(25)
    begun = served_in_turn(bench, steps, seconds=6)
    assert begun.index("low") < begun.index("normal")
    steps.let_all_go()


def test_a_place_in_the_queue_counts_all_that_go_first(steps: Steps) -> None:
    bench = blocked(steps)
    jobs = {
        f"{priority} {number}": bench.submit(f"{priority} {number}", priority=priority)
        for priority in (Priority.LOW, Priority.HIGH, Priority.NORMAL)
        for number in range(2)
    }
    places = {name: position(bench.pool, job) for name, job in jobs.items()}
    assert places == {
        "high 0": 0,
        "high 1": 1,
        "normal 0": 2,
        "normal 1": 3,
        "low 0": 4,
        "low 1": 5,
    }
    bench.cancel(jobs["high 0"])
    bench.cancel(jobs["normal 1"])
    assert position(bench.pool, jobs["low 1"]) == 3
    steps.let_all_go()


def test_places_are_right_whatever_was_put_taken_and_cancelled(steps: Steps) -> None:
    bench = blocked(steps)
    chance = random.Random(11)
    waiting: list[Job] = []
    for step in range(300):
        if waiting and chance.random() < 0.3:
            bench.cancel(waiting.pop(chance.randrange(len(waiting))))
        elif waiting and chance.random() < 0.3:
            begun = len(steps.begun)
            steps.let_go(steps.begun[-1] if begun else "blocker 0")
            eventually(lambda begun=begun: len(steps.begun) > begun)
            assert steps.begun[-1] == waiting.pop(0).request.prompt
        else:
            waiting.append(bench.submit(f"job {step}"))
        assert [position(bench.pool, job) for job in waiting] == list(range(len(waiting)))
    steps.let_all_go()


def test_what_does_not_wait_has_nobody_ahead_of_its_like(steps: Steps) -> None:
    bench = blocked(steps)
    bench.submit("waits")
    assert position(bench.pool, a_job()) == 0
    steps.let_all_go()


def test_a_cancelled_request_that_waits_never_runs(steps: Steps) -> None:
    bench = blocked(steps)
    job, other = bench.submit("cancelled"), bench.submit("other")
    bench.cancel(job)
    assert bench.status(job) is Status.CANCELLED
    steps.let_all_go()
    bench.await_end(other)
    assert steps.begun == ["other"]


def test_a_cancelled_request_that_runs_frees_its_slot() -> None:
    backend = Hangs("half")
    bench = Bench(backend, 1)
    first, second = bench.submit(), bench.submit()
    for job in (first, second):
        eventually(lambda job=job: bench.status(job) is Status.PROCESSING)
        bench.cancel(job)
        bench.await_end(job)
    assert [bench.status(job) for job in (first, second)] == [Status.CANCELLED] * 2
    eventually(lambda: backend.closed == 2)


def test_a_cancel_of_what_the_pool_does_not_know_is_ignored() -> None:
    bench = Bench(Says(), 1)
    bench.pool.cancel("unknown")
    bench.await_end(bench.submit())


def test_a_request_that_waits_for_its_session_holds_no_slot(steps: Steps) -> None:
    bench = Bench(steps, 2)
    chat = [bench.submit(f"chat {number}", session_id="chat") for number in range(5)]
    eventually(lambda: steps.begun == ["chat 0"])
    other = bench.submit("other")
    eventually(lambda: steps.begun == ["chat 0", "other"])
    steps.let_all_go()
    bench.await_end(*chat, other)
    assert [prompt for prompt in steps.begun if prompt != "other"] == [
        f"chat {number}" for number in range(5)
    ]


@pytest.mark.parametrize(
    "error", [ValueError("fault"), UpstreamError("down"), SystemExit(), GeneratorExit()]
)
def test_the_pool_outlives_whatever_a_backend_raises(error: BaseException) -> None:
    bench = Bench(Raises(error), 2)
    jobs = [bench.submit() for _ in range(10)]
    bench.await_end(*jobs)
    assert {bench.status(job) for job in jobs} == {Status.FAILED}


def test_a_deadline_ends_a_run_by_itself() -> None:
    bench = Bench(Hangs(), 1)
    bench.pool.start()
    late, following = bench.submit(timeout_s=0.01), bench.submit(timeout_s=0.01)
    bench.await_end(late, following)
    for job in (late, following):
        assert bench.store.get(job.id).error_stage == "run"


def test_stop_all_ends_what_runs_and_not_what_waits(steps: Steps) -> None:
    bench = blocked(steps)
    (running,) = bench.store.live()
    waiting = bench.submit("waits")
    bench.pool.stop_all()
    bench.await_end(running)
    assert bench.store.get(running.id).error_code == "SHUTDOWN"
    eventually(lambda: bench.status(waiting) is Status.PROCESSING)
    steps.let_all_go()


def test_what_has_no_room_starts_when_it_is_told_of_some() -> None:
    door = Door(Says())
    bench = Bench(Says(), 2, door)
    jobs = [bench.submit() for _ in range(5)]
    assert {bench.status(job) for job in jobs} == {Status.PENDING}
    bench.await_end(bench.submit(model="other"))
    door.open = True
    door.tell()
    bench.await_end(*jobs)
    eventually(lambda: door.left == 5)


def test_what_has_no_room_is_looked_at_now_and_then() -> None:
    door = Door(Says())
    bench = Bench(Says(), 2, door)
    bench.pool.start()
    job = bench.submit()
    door.open = True
    bench.await_end(job)


def test_an_admission_is_given_back_where_its_request_is_over_already(steps: Steps) -> None:
    door = Door(steps)
    bench = Bench(steps, 1, door)
    job = bench.submit()
    bench.store.cancel(job.id)
    door.open = True
    door.tell()
    eventually(lambda: door.left == 1)
    assert steps.begun == []


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_whatever_is_put_and_cancelled_when_everything_ends(concurrency: int) -> None:
    bench = Bench(Says(), concurrency)
    jobs: list[Job] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        for step in range(40):
            job = bench.submit(
                f"{number} {step}",
                session_id=f"chat-{chance.randrange(30)}",
                priority=chance.choice(list(Priority)),
            )
            jobs.append(job)
            if chance.random() < 0.5:
                bench.cancel(chance.choice(jobs))
            if chance.random() < 0.2:
                time.sleep(0)

    in_threads(10, work)
    bench.await_end(*jobs)
    assert len(jobs) == 400
    assert bench.store.live() == []
    assert {bench.status(job) for job in jobs} <= {Status.COMPLETED, Status.CANCELLED}
    bench.await_end(*[bench.submit() for _ in range(concurrency * 3)])


def test_cancels_at_random_moments_leave_every_slot_free(steps: Steps) -> None:
    bench = Bench(Hangs("half"), 8)

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(20):
            job = bench.submit()
            time.sleep(chance.choice([0, 0, 0.001, 0.003]))
            bench.cancel(job)
            assert bench.store.wait(job.id, WAIT_S).status is Status.CANCELLED

    in_threads(15, work)
    assert bench.store.live() == []
    jobs = [bench.submit() for _ in range(8)]
    eventually(lambda: all(bench.status(job) is Status.PROCESSING for job in jobs))
    for job in jobs:
        bench.cancel(job)
    bench.await_end(*jobs)
