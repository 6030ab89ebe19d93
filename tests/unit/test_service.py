"""The rules over a real store and a real pool: submit, follow, cancel, keep house, drain."""

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.backends.base import Backend
from orchestrator.dispatch.pool import Pool
from orchestrator.errors import NotFound, PipelineUnavailable, RateLimited, SessionBusy
from orchestrator.events import Cancelled, Completed, Event, Failed, Started, Token
from orchestrator.job import Job, OnBusy, Priority, Status
from orchestrator.runner import Runner
from orchestrator.service import BATCH, START, Model, Service
from orchestrator.stores.base import Idempotency, Submission
from orchestrator.stores.memory.store import MemoryStore
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.backends import Hangs, Says, Steps
from tests.fakes.nobody import Nobodys


def a_store() -> MemoryStore:
    return MemoryStore(queue_limit=10_000, retention_s=3600, memory_limit=256 * 1024 * 1024)


def a_service(backend: Backend, concurrency: int = 4, store: MemoryStore | None = None) -> Nobodys:
    store = store or a_store()
    pool = Pool(Runner(store, lambda _: backend), concurrency)
    return Nobodys(Service(store, pool, [Model("default", backend.name)]))


def submit(service: Nobodys, prompt: str = "hello", **fields: Any) -> str:
    fields.setdefault("session_id", f"session-{random.getrandbits(64)}")
    return service.submit(a_request(prompt, **fields)).request_id


def ended(service: Nobodys, request_id: str) -> Job:
    job = service.wait(request_id, WAIT_S)
    assert job.status.is_terminal, "the request does not end"
    return job


def followed(service: Nobodys, request_id: str, after: int = START) -> list[Event]:
    """Return all that a follower is told."""
    events: list[Event] = []
    for page in service.follow(request_id, after, pause=WAIT_S):
        assert page, "the log is silent"
        assert [seq for seq, _ in page.events] == list(
            range(after + 1 + len(events), after + 1 + len(events) + len(page.events))
        )
        events += [event for _, event in page.events]
    return events


# Submit and run


def test_what_is_submitted_runs_to_its_end() -> None:
    service = a_service(Says("Hello ", "world"))
    job = ended(service, submit(service))
    assert (job.status, job.result) == (Status.COMPLETED, "Hello world")


def test_a_submit_tells_the_request_and_its_session() -> None:
    service = a_service(Says())
    submission = service.submit(a_request(session_id="chat"))
    assert submission.session == "chat"
    assert service.get(submission.request_id).request.session_id == "chat"
    assert not submission.replayed


def test_a_replayed_submit_runs_once() -> None:
    backend = Says()
    service = a_service(backend)
    key = Idempotency("key", b"body")
    submissions: list[Submission] = [service.submit(a_request(), key) for _ in range(5)]
    assert [submission.replayed for submission in submissions] == [False, True, True, True, True]
    ended(service, submissions[0].request_id)
    assert len(backend.told) == 1


def test_a_replayed_submit_is_not_counted() -> None:
    service, counted = a_service(Says()), []

    def allow() -> None:
        counted.append(1)
        if len(counted) > 1:
            raise RateLimited("You have used up your calls.")

    key = Idempotency("key", b"body")
    first = service.submit(a_request(), key, allow=allow)
    assert service.submit(a_request(), key, allow=allow).request_id == first.request_id
    with pytest.raises(RateLimited):
        service.submit(a_request(), Idempotency("another", b"body"), allow=allow)
    assert len(counted) == 2


def test_a_replayed_submit_needs_nobody_who_answers() -> None:
    store, backend, down = a_store(), Says(), threading.Event()

    def check() -> None:
        if down.is_set():
            raise PipelineUnavailable("Nothing answers.")

    pool = Pool(Runner(store, lambda _: backend), 4)
    service = Nobodys(Service(store, pool, [Model("default", backend.name, check)]))
    key = Idempotency("key", b"body")
    first = service.submit(a_request(), key)
    down.set()
    assert service.submit(a_request(), key).request_id == first.request_id
    for another in (None, Idempotency("another", b"body")):
        with pytest.raises(PipelineUnavailable):
            service.submit(a_request(), another)


def test_the_requests_of_a_session_run_in_order_and_know_each_other() -> None:
    backend = Says("yes")
    service = a_service(backend)
    jobs = [submit(service, f"question {number}", session_id="chat") for number in range(5)]
    for request_id in jobs:
        ended(service, request_id)
    assert [len(told) for told in backend.told] == [1, 3, 5, 7, 9]
    assert [message.content for message in service.session("chat").history.messages][::2] == [
        f"question {number}" for number in range(5)
    ]


def test_an_interrupt_stops_what_runs_and_what_waits_and_runs_next() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    running = submit(service, "running", session_id="chat")
    eventually(lambda: steps.begun == ["running"])
    waiting = submit(service, "waiting", session_id="chat")
    last = submit(service, "last", session_id="chat", on_busy=OnBusy.INTERRUPT)
    assert [ended(service, name).status for name in (running, waiting)] == [Status.CANCELLED] * 2
    steps.let_all_go()
    assert ended(service, last).status is Status.COMPLETED
    assert steps.begun == ["running", "last"]


def test_an_interrupted_request_that_waits_for_a_slot_is_dropped_there() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    blocker = submit(service, "blocker")
    eventually(lambda: steps.running == 1)
    first = submit(service, "first", session_id="chat")
    last = submit(service, "last", session_id="chat", on_busy=OnBusy.INTERRUPT)
    assert service.get(first).status is Status.CANCELLED
    assert service.queue_position(service.get(last)) == 0
    steps.let_all_go()
    for request_id in (blocker, last):
        ended(service, request_id)
    assert steps.begun == ["blocker", "last"]


def test_a_busy_session_can_refuse() -> None:
    service = a_service(Hangs())
    first = submit(service, session_id="chat")
    with pytest.raises(SessionBusy):
        submit(service, session_id="chat", on_busy=OnBusy.REJECT)
    service.cancel(first)


def test_parallel_requests_of_a_session_run_at_once() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=3)
    jobs = [
        submit(service, str(number), session_id="chat", on_busy=OnBusy.PARALLEL)
        for number in range(3)
    ]
    eventually(lambda: steps.running == 3)
    steps.let_all_go()
    for request_id in jobs:
        ended(service, request_id)


# Queue positions


def test_a_place_in_the_queue_is_known_while_a_request_waits() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    running = submit(service, "running", session_id="chat")
    eventually(lambda: steps.running == 1)
    low = submit(service, priority=Priority.LOW)
    high = submit(service, priority=Priority.HIGH)
    behind = [submit(service, session_id="chat") for _ in range(2)]
    assert service.queue_position(service.get(running)) is None
    assert [service.queue_position(service.get(one)) for one in (high, low)] == [0, 1]
    assert [service.queue_position(service.get(one)) for one in behind] == [1, 2]
    turns = [submit(service, session_id="other", priority=Priority.LOW) for _ in range(3)]
    assert [service.queue_position(service.get(one)) for one in turns] == [2, 3, 4]
    steps.let_all_go()
    assert service.queue_position(ended(service, low)) is None


def test_a_request_that_was_just_deleted_has_no_place_but_breaks_no_list() -> None:
    service = a_service(Hangs(), concurrency=1)
    running = submit(service)
    waiting = submit(service)
    seen = service.get(waiting)
    service.cancel(waiting)
    service.delete(waiting)
    assert service.queue_position(seen) == 0
    service.cancel(running)


# Follow


def test_a_follower_is_told_everything_once_and_then_no_more() -> None:
    service = a_service(Says("Hello ", "world"))
    events = followed(service, submit(service))
    assert events[:3] == [Started("says"), Token(0, "Hello "), Token(1, "world")]
    assert isinstance(events[3], Completed)
    assert len(events) == 4


def test_a_log_longer_than_a_page_is_followed_to_its_end() -> None:
    words = [f"{number} " for number in range(3 * BATCH)]
    service = a_service(Says(*words))
    request_id = submit(service)
    ended(service, request_id)
    pages = [page for page in service.follow(request_id, START, pause=WAIT_S) if page]
    assert all(len(page.events) <= BATCH for page in pages)
    assert [page.complete for page in pages] == [False] * (len(pages) - 1) + [True]
    assert len(followed(service, request_id)) == len(words) + 2


@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3])
def test_a_follower_resumes_after_its_cursor(after: int) -> None:
    service = a_service(Says("Hello ", "world"))
    request_id = submit(service)
    ended(service, request_id)
    assert followed(service, request_id, after) == followed(service, request_id)[after + 1 :]


def test_a_silent_log_says_so_after_every_pause() -> None:
    service = a_service(Hangs("half"))
    request_id = submit(service)
    pages = service.follow(request_id, START, pause=0.02)
    seen: list[Event] = []
    empty = 0
    for page in pages:
        if page:
            seen += [event for _, event in page.events]
        else:
            empty += 1
            if empty == 2:
                service.cancel(request_id)
    assert seen == [Started("hangs"), Token(0, "half"), Cancelled()]
    assert empty >= 2


class AwayStore(MemoryStore):
    """Is out of reach while ``away`` is set."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.away = threading.Event()

    def read(self, *arguments: Any) -> Any:
        self._reach()
        return super().read(*arguments)

    def wait(self, *arguments: Any) -> Any:
        self._reach()
        return super().wait(*arguments)

    def session(self, *arguments: Any) -> Any:
        self._reach()
        return super().session(*arguments)

    def _reach(self) -> None:
        if self.away.is_set():
            raise PipelineUnavailable("The store can't be reached.")


def test_followers_outlast_a_store_that_is_out_of_reach() -> None:
    store = AwayStore(queue_limit=10, retention_s=3600, memory_limit=1024 * 1024)
    steps = Steps()
    service = a_service(steps, store=store)
    request_id = submit(service)
    eventually(lambda: len(service.read(request_id, START).events) == 1)
    store.away.set()
    pages = service.follow(request_id, START, pause=0.02)
    ends = service.await_end(request_id, pause=0.02)
    assert [next(pages), next(pages), next(ends), next(ends)] == [None] * 4
    with pytest.raises(PipelineUnavailable):
        service.read(request_id, START)
    steps.let_all_go()
    store.away.clear()
    told = [event for page in pages if page for _, event in page.events]
    assert told == followed(service, request_id)
    assert [job for job in ends if job] == [service.get(request_id)]


def test_what_was_accepted_is_run_though_kept_answers_are_out_of_reach() -> None:
    store = AwayStore(queue_limit=10, retention_s=3600, memory_limit=1024 * 1024)
    backend = Says("Hello")
    model = Model("default", "says", recall=lambda request, messages: None)
    service = Nobodys(Service(store, Pool(Runner(store, lambda _: backend), 1), [model]))
    store.away.set()
    request_id = submit(service)
    store.away.clear()
    assert ended(service, request_id).result == "Hello"


def test_many_followers_that_come_and_go_are_all_told_the_same() -> None:
    words = [f"{number} " for number in range(300)]
    service = a_service(Says(*words), concurrency=1)
    blocker = threading.Event()
    results: list[Sequence[Event]] = []

    def follow(number: int, request_id: str) -> None:
        chance = random.Random(number)
        events: list[Event] = []
        blocker.wait(WAIT_S)
        while True:
            page = service.read(request_id, len(events) - 1, chance.randrange(1, 50), WAIT_S)
            events += [event for _, event in page.events]
            if page.complete:
                results.append(events)
                return

    request_id = submit(service)
    threads = [
        threading.Thread(target=follow, args=(n, request_id), daemon=True) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    blocker.set()
    for thread in threads:
        thread.join(WAIT_S)
    whole = followed(service, request_id)
    assert len(whole) == 302
    assert results == [whole] * 20


def test_a_cursor_that_is_ahead_of_a_growing_log_starts_again() -> None:
    service = a_service(Hangs("a", "b"))
    request_id = submit(service)
    eventually(lambda: len(service.read(request_id, START).events) == 3)
    log = service.read(request_id, START).events
    for after in (-1, 0, 1, 2):
        resumed, page = service.resume(request_id, after, limit=2)
        assert (resumed, page.events, page.complete) == (after, log[after + 1 :][:2], False)
    for after in (3, 50):
        resumed, page = service.resume(request_id, after)
        assert (resumed, page.events) == (START, log)
    service.cancel(request_id)
    ended(service, request_id)
    for after in (3, 50):
        resumed, page = service.resume(request_id, after)
        assert (resumed, page.events, page.complete) == (after, [], True)


# Cancel


def test_a_waiting_request_is_cancelled_at_once() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    submit(service, "running")
    eventually(lambda: steps.running == 1)
    waiting = submit(service, "waiting")
    change = service.cancel(waiting)
    assert (change.job.status, change.changed) == (Status.CANCELLED, True)
    steps.let_all_go()
    eventually(lambda: steps.running == 0)
    assert steps.begun == ["running"]


def test_a_running_request_is_cancelled_as_soon_as_it_can_be_stopped() -> None:
    service = a_service(Hangs("half"), concurrency=1)
    request_id = submit(service)
    eventually(lambda: len(service.read(request_id, START).events) == 2)
    change = service.cancel(request_id)
    assert (change.job.status, change.changed) == (Status.PROCESSING, True)
    assert change.job.cancel_requested_at is not None
    job = ended(service, request_id)
    assert (job.status, job.result) == (Status.CANCELLED, "half")
    again = service.cancel(request_id)
    assert (again.job, again.changed) == (job, False)


def test_cancelling_what_runs_lets_the_next_of_its_session_run() -> None:
    steps = Steps()
    service = a_service(steps)
    first, second = (submit(service, name, session_id="chat") for name in ("one", "two"))
    eventually(lambda: steps.begun == ["one"])
    service.cancel(first)
    eventually(lambda: steps.begun == ["one", "two"])
    steps.let_all_go()
    assert ended(service, second).status is Status.COMPLETED


def test_cancelling_the_first_that_waits_lets_the_next_of_its_session_run() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    submit(service, "blocker")
    eventually(lambda: steps.running == 1)
    first, second = (submit(service, name, session_id="chat") for name in ("one", "two"))
    service.cancel(first)
    steps.let_all_go()
    assert ended(service, second).status is Status.COMPLETED
    assert steps.begun == ["blocker", "two"]


def test_an_unknown_request_cannot_be_cancelled() -> None:
    with pytest.raises(NotFound):
        a_service(Says()).cancel("unknown")


# Housekeeping


def test_a_request_that_waits_too_long_fails_by_itself_and_the_next_one_goes() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    service.start()
    submit(service, "blocker")
    eventually(lambda: steps.running == 1)
    late = submit(service, "late", session_id="chat", queue_timeout_s=0.05)
    patient = submit(service, "patient", session_id="chat")
    job = ended(service, late)
    assert (job.status, job.error_code, job.error_stage) == (
        Status.FAILED,
        "DEADLINE_EXCEEDED",
        "queue",
    )
    steps.let_all_go()
    assert ended(service, patient).status is Status.COMPLETED
    assert steps.begun == ["blocker", "patient"]


def test_a_run_past_its_time_limit_fails_by_itself() -> None:
    service = a_service(Hangs("half"))
    service.start()
    job = ended(service, submit(service, timeout_s=0.05))
    assert (job.status, job.error_code, job.error_stage) == (
        Status.FAILED,
        "DEADLINE_EXCEEDED",
        "run",
    )


class StumblingStore(MemoryStore):
    """Fails at its first sweep."""

    stumbled = False

    def sweep(self) -> Any:
        if not self.stumbled:
            self.stumbled = True
            raise OSError("for once")
        return super().sweep()


def test_the_housekeeping_outlives_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    store = StumblingStore(queue_limit=10, retention_s=3600, memory_limit=1024 * 1024)
    service = a_service(Hangs(), concurrency=1, store=store)
    blocker = submit(service)
    late = submit(service, queue_timeout_s=0.01)
    service.start()
    assert ended(service, late).error_stage == "queue"
    assert "for once" in caplog.text
    service.cancel(blocker)


# Drain


def test_a_drain_takes_nothing_new_and_lets_everything_end() -> None:
    steps = Steps()
    service = a_service(steps, concurrency=1)
    jobs = [submit(service, str(number)) for number in range(3)]
    eventually(lambda: steps.running == 1)
    drain = threading.Thread(target=service.drain, args=(WAIT_S,), daemon=True)
    drain.start()
    eventually(lambda: service.is_draining)
    with pytest.raises(PipelineUnavailable) as caught:
        submit(service)
    assert caught.value.retry_after >= 1
    steps.let_all_go()
    drain.join(WAIT_S)
    assert not drain.is_alive()
    assert {service.get(request_id).status for request_id in jobs} == {Status.COMPLETED}


def test_a_drain_of_an_idle_service_is_over_at_once() -> None:
    service = a_service(Says())
    ended(service, submit(service))
    service.drain(timeout=WAIT_S * 10)
    assert service.is_draining


def test_what_answers_here_is_closed_once_nothing_runs_any_more() -> None:
    store, backend = a_store(), Hangs()
    pool = Pool(Runner(store, lambda _: backend), 1)
    running: list[int] = []
    service = Nobodys(
        Service(
            store,
            pool,
            [Model("default", backend.name)],
            close=lambda: running.append(len(store.live())),
        )
    )
    submit(service)
    service.drain(timeout=0.05)
    assert running == [0]


def test_what_is_left_at_the_end_of_a_drain_is_ended_by_it() -> None:
    store = a_store()
    backend = Hangs("half")
    service = a_service(backend, concurrency=2, store=store)
    jobs = [submit(service, session_id=f"chat-{number % 4}") for number in range(12)]
    eventually(lambda: len(service.jobs(Status.PROCESSING).items) == 2)
    service.drain(timeout=0.05)
    assert store.live() == []
    assert {service.get(request_id).error_code for request_id in jobs} == {"SHUTDOWN"}
    for request_id in jobs:
        last = followed(service, request_id)[-1]
        assert isinstance(last, Failed)
        assert last.code == "SHUTDOWN"
    eventually(lambda: backend.closed >= 2)


def test_who_asked_for_a_cancel_before_a_drain_gets_one() -> None:
    service = a_service(Steps(), concurrency=1)
    store = service._store
    request_id = submit(service)
    eventually(lambda: service.get(request_id).status is Status.PROCESSING)
    store.cancel(request_id)
    service.drain(timeout=0)
    assert service.get(request_id).status is Status.CANCELLED


class LateStore(MemoryStore):
    """Lists as live what ended and was deleted meanwhile, until one tries to end it."""

    gone: Job | None = None

    def live(self) -> Any:
        return [*([self.gone] if self.gone else []), *super().live()]

    def finish(self, job_id: str, event: Any, run: int = 1) -> Any:
        if self.gone and self.gone.id == job_id:
            self.gone = None
        return super().finish(job_id, event, run)


def test_a_drain_is_not_stopped_by_a_request_that_is_deleted_meanwhile() -> None:
    store = LateStore(queue_limit=10, retention_s=3600, memory_limit=1024 * 1024)
    service = a_service(Hangs(), concurrency=1, store=store)
    gone = submit(service)
    left = submit(service)
    seen = service.get(gone)
    service.cancel(gone)
    ended(service, gone)
    service.delete(gone)
    store.gone = seen
    service.drain(timeout=0)
    assert service.get(left).error_code == "SHUTDOWN"


class LeavingStore(MemoryStore):
    """Goes out of reach as soon as it is asked to end a request."""

    asked = 0

    def finish(self, job_id: str, event: Any, run: int = 1) -> Any:
        self.asked += 1
        raise PipelineUnavailable("The store can't be reached.")


def test_a_drain_comes_to_its_end_though_the_store_is_out_of_reach() -> None:
    store, backend = LeavingStore(queue_limit=10, retention_s=60, memory_limit=10**6), Hangs()
    pool = Pool(Runner(store, lambda _: backend), 1)
    closed: list[bool] = []
    service = Nobodys(
        Service(store, pool, [Model("default", "hangs")], close=lambda: closed.append(True))
    )
    waiting = [submit(service) for _ in range(3)]
    assert service.drain(timeout=0)
    assert store.asked >= len(waiting)
    assert closed == [True]


def test_a_drain_under_load_leaves_no_accepted_request_without_an_end() -> None:
    service = a_service(Says(*["word "] * 20), concurrency=8)
    accepted: list[str] = []
    refused = threading.Event()

    def load() -> None:
        while not refused.is_set():
            try:
                accepted.append(submit(service))
            except PipelineUnavailable:
                refused.set()
            time.sleep(0)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(accepted) > 100)
    service.drain(timeout=WAIT_S)
    for thread in threads:
        thread.join(WAIT_S)
    eventually(lambda: all(service.get(one).status.is_terminal for one in accepted))


def test_what_lists_and_forgets_goes_through() -> None:
    service = a_service(Says())
    request_id = submit(service, session_id="chat")
    ended(service, request_id)
    assert [job.id for job in service.jobs().items] == [request_id]
    assert [session.name for session in service.sessions().items] == ["chat"]
    service.delete(request_id)
    service.delete_session("chat")
    assert service.jobs().items == []
    assert service.sessions().items == []
