"""What every store owes: one suite, run over each of them through the port alone."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import pytest

from orchestrator.errors import (
    IdempotencyKeyReused,
    InProgress,
    NotFound,
    PipelineUnavailable,
    ResultExpired,
    SessionBusy,
)
from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Terminal,
    Token,
    Usage,
)
from orchestrator.ids import new_id
from orchestrator.job import Job, OnBusy, Status
from orchestrator.session import SessionHead
from orchestrator.stores.base import Change, Idempotency, Listing, Place, Store, Submission
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.store import RedisStore
from tests.fakes.asking import WAIT_S, eventually
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job, as_listed, as_read

RETENTION_S = 3600.0
DONE = Completed(FinishReason.STOP, Usage(3, 4))
FAILED = Failed("UPSTREAM_ERROR", "The provider is down.")
RACERS = 50

T = TypeVar("T")
MakeStore = Callable[..., Store]


@pytest.fixture
def clock() -> Clock:
    """The clock that stores are made with."""
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def make_store(request: pytest.FixtureRequest, clock: Clock) -> Iterator[MakeStore]:
    """What makes a store of each kind, with other limits where a test says so."""
    stack = contextlib.ExitStack()

    def make_memory(queue_limit: int = 1_000, retention_s: float = RETENTION_S) -> Store:
        return MemoryStore(
            queue_limit=queue_limit,
            retention_s=retention_s,
            memory_limit=512 * 1024 * 1024,
            clock=clock,
        )

    def make_redis(queue_limit: int = 1_000, retention_s: float = RETENTION_S) -> Store:
        url = request.getfixturevalue("redis").url
        store = RedisStore(url, queue_limit=queue_limit, retention_s=retention_s, clock=clock)
        stack.callback(store.close)
        return store

    with stack:
        yield make_memory if request.param == "memory" else make_redis


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """A store with nothing in it."""
    return make_store()


# What tests do with a store


def submitted(store: Store, **fields: Any) -> Job:
    """Submit a request and return it."""
    job = a_job(**fields)
    store.submit(job)
    return job


def claimed(store: Store, **fields: Any) -> Job:
    """Submit a request, start it and return it."""
    job = submitted(store, **fields)
    assert store.claim(job.id, "echo")
    return job


def ended(store: Store, *tokens: str, end: Terminal = DONE, **fields: Any) -> Job:
    """Submit a request, run it to its end and return it as it was submitted."""
    job = claimed(store, **fields)
    say(store, job, *tokens)
    assert store.finish(job.id, end).changed
    return job


def say(store: Store, job: Job, *tokens: str) -> None:
    """Append tokens from chunk 0 on."""
    for chunk, text in enumerate(tokens):
        assert store.append(job.id, Token(chunk, text))


def log(store: Store, job: Job) -> list[Event]:
    """Return all events, and see to it that their seq has no gap."""
    page = store.read(job.id, after=-1, limit=10_000)
    assert [seq for seq, _ in page.events] == list(range(len(page.events)))
    return [event for _, event in page.events]


def told(store: Store, session_id: str) -> list[tuple[str, str]]:
    """Return what a session remembers."""
    return [(turn.role, turn.content) for turn in store.session(session_id).history.messages]


def alive(store: Store) -> list[Job]:
    """Return the requests that have not ended."""
    statuses = (Status.PENDING, Status.PROCESSING)
    return [
        job for status in statuses for job in store.jobs(status, None, 1_000, None, tenant="").items
    ]


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def pages(list_page: Callable[[str | None], Listing[T]]) -> Iterator[Sequence[T]]:
    """Give page after page of a list, up to its end."""
    cursor = None
    for _ in range(1_000):
        listing = list_page(cursor)
        yield listing.items
        cursor = listing.next_cursor
        if cursor is None:
            return
    pytest.fail("the list has no end")


def listed(store: Store, limit: int = 3, **filters: Any) -> list[str]:
    """Return the ids that a list gives, page after page."""
    wanted = {"status": None, "session": None} | filters
    found = pages(lambda cursor: store.jobs(**wanted, limit=limit, cursor=cursor, tenant=""))
    return [job.id for page in found for job in page]


def sessions_listed(store: Store, limit: int = 3) -> list[str]:
    """Return the session ids that a list gives, page after page."""
    found = pages(lambda cursor: store.sessions(limit=limit, cursor=cursor, tenant=""))
    return [session.name for page in found for session in page]


def race(act: Callable[[int], T], racers: int = RACERS) -> list[T]:
    """Call ``act`` with each number at once, and return what came of it."""
    barrier = threading.Barrier(racers)
    results: list[T] = []

    def run(number: int) -> None:
        barrier.wait(WAIT_S)
        results.append(act(number))

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(results) == racers, "a racer failed or hangs"
    return results


class Waiting:
    """A call under way in a thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        self.result = call()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> Any:
        """Return what the call returned."""
        self._thread.join(WAIT_S)
        assert self.is_over, "the call hangs"
        return self.result


# Submit and claim


def test_a_submitted_request_is_pending_and_ready_to_run(store: Store) -> None:
    job = a_job()
    assert store.submit(job) == Submission(job.id, job.request.session_id, ready=(job,))
    assert store.get(job.id) == job
    assert log(store, job) == []


def test_a_claim_starts_a_request(store: Store, clock: Clock) -> None:
    job = submitted(store)
    clock.advance(2)
    claim = store.claim(job.id, "echo")
    assert claim
    assert claim[0] == store.get(job.id)
    assert claim[0].status is Status.PROCESSING
    assert (claim[0].backend, claim[0].attempts, claim[0].started_at) == ("echo", 1, clock())
    assert log(store, job) == [Started("echo")]


def test_a_request_is_claimed_once(store: Store) -> None:
    job = claimed(store)
    assert store.claim(job.id, "echo") is None
    store.finish(job.id, DONE)
    assert store.claim(job.id, "echo") is None


def test_of_fifty_racing_claims_one_gets_the_request(store: Store) -> None:
    job = submitted(store)
    claims = race(lambda number: store.claim(job.id, f"worker {number}"))
    (won,) = [claim for claim in claims if claim]
    assert won[0] == store.get(job.id)
    assert log(store, job) == [Started(str(won[0].backend))]


def test_what_was_never_submitted_or_is_gone_cannot_be_claimed(store: Store) -> None:
    job = ended(store)
    store.delete(job.id)
    assert store.claim(job.id, "echo") is None
    assert store.claim(new_id(), "echo") is None
    assert store.claim("nonsense", "echo") is None


# The log


def test_tokens_are_numbered_in_the_log_and_in_the_answer(store: Store) -> None:
    job = ended(store, "a", "b", "c")
    assert log(store, job) == [Started("echo"), Token(0, "a"), Token(1, "b"), Token(2, "c"), DONE]
    assert store.get(job.id).result == "abc"


def test_a_restart_voids_the_answer_but_not_the_log(store: Store) -> None:
    job = claimed(store)
    say(store, job, "old ", "words")
    assert store.append(job.id, Restarted(2))
    say(store, job, "new")
    store.finish(job.id, DONE)
    assert log(store, job) == [
        Started("echo"),
        Token(0, "old "),
        Token(1, "words"),
        Restarted(2),
        Token(0, "new"),
        DONE,
    ]
    assert (store.get(job.id).result, store.get(job.id).attempts) == ("new", 2)


def test_a_restart_says_who_is_asked_now(store: Store) -> None:
    job = claimed(store)
    assert store.append(job.id, Restarted(2, "spare"))
    assert (store.get(job.id).attempts, store.get(job.id).backend) == (2, "spare")
    assert store.append(job.id, Restarted(3))
    assert (store.get(job.id).attempts, store.get(job.id).backend) == (3, "spare")
    assert log(store, job)[1:] == [Restarted(2, "spare"), Restarted(3)]


def test_an_attempt_without_a_restart_is_noted_and_leaves_the_log_alone(store: Store) -> None:
    job = claimed(store)
    assert store.attempt(job.id, 2, "spare")
    say(store, job, "one")
    noted = store.get(job.id)
    assert (noted.status, noted.attempts, noted.backend) == (Status.PROCESSING, 2, "spare")
    assert log(store, job) == [Started("echo"), Token(0, "one")]


def test_an_attempt_of_a_request_that_is_not_to_go_on_is_refused(store: Store) -> None:
    waiting, stopping, over = submitted(store), claimed(store), ended(store)
    store.cancel(stopping.id)
    for job in (waiting, stopping, over):
        before = store.get(job.id)
        assert not store.attempt(job.id, 2, "spare")
        assert store.get(job.id) == before


def test_text_of_every_kind_is_kept_to_the_letter(store: Store) -> None:
    texts = ["", " ", "\n\r\n", "\x00", "é\u2028😀", "x" * 100_000, '"\\', "data: x\n\n"]
    job = ended(store, *texts)
    assert log(store, job)[1:-1] == [Token(chunk, text) for chunk, text in enumerate(texts)]
    assert store.get(job.id).result == "".join(texts)


def test_the_time_of_the_first_token_is_kept(store: Store, clock: Clock) -> None:
    job = claimed(store)
    assert store.get(job.id).first_token_at is None
    clock.advance(1)
    first = clock()
    say(store, job, "a")
    clock.advance(1)
    say(store, job, "b")
    assert store.get(job.id).first_token_at == first


def test_a_log_is_read_from_any_cursor_in_pages_of_any_size(store: Store) -> None:
    job = ended(store, "a", "b", "c")
    whole = list(enumerate(log(store, job)))
    for after in range(-1, 6):
        for limit in (1, 2, 3, 10):
            page = store.read(job.id, after, limit)
            assert list(page.events) == whole[after + 1 : after + 1 + limit]
            assert page.complete == (after + limit >= 4)
            shown = as_read(store.get(job.id), page.complete)
            assert as_read(page.job, page.complete) == shown


def test_a_page_of_a_growing_log_is_never_complete(store: Store) -> None:
    job = claimed(store)
    say(store, job, "a")
    for after in (-1, 0, 1, 5):
        assert not store.read(job.id, after, 10).complete
    assert not store.read(submitted(store).id, -1, 10).complete


def test_a_cursor_before_the_start_is_the_start(store: Store) -> None:
    job = ended(store, "a")
    assert store.read(job.id, -2, 10) == store.read(job.id, -1, 10)


def test_a_read_waits_for_the_next_event(store: Store) -> None:
    job = claimed(store)
    reader = Waiting(lambda: store.read(job.id, after=0, limit=10, timeout=WAIT_S))
    say(store, job, "a")
    page = reader.join()
    assert list(page.events) == [(1, Token(0, "a"))]
    assert not page.complete


def test_a_read_wakes_at_the_start_and_at_the_end(store: Store) -> None:
    job = submitted(store)
    reader = Waiting(lambda: store.read(job.id, after=-1, limit=10, timeout=WAIT_S))
    store.claim(job.id, "echo")
    assert list(reader.join().events) == [(0, Started("echo"))]
    reader = Waiting(lambda: store.read(job.id, after=0, limit=10, timeout=WAIT_S))
    store.finish(job.id, DONE)
    page = reader.join()
    assert (list(page.events), page.complete) == ([(1, DONE)], True)


def test_a_read_wakes_when_a_waiting_request_is_cancelled(store: Store) -> None:
    job = submitted(store)
    reader = Waiting(lambda: store.read(job.id, after=-1, limit=10, timeout=WAIT_S))
    store.cancel(job.id)
    page = reader.join()
    assert (list(page.events), page.complete) == ([(0, Cancelled())], True)


def test_a_read_gives_up_after_its_timeout(store: Store) -> None:
    job = claimed(store)
    page = store.read(job.id, after=0, limit=10, timeout=0.02)
    assert (list(page.events), page.complete) == ([], False)


def test_a_read_does_not_wait_for_what_is_there_or_never_comes(store: Store) -> None:
    job = claimed(store)
    assert store.read(job.id, after=-1, limit=10, timeout=WAIT_S * 10).events
    store.finish(job.id, DONE)
    for after in (1, 2, 100):
        page = store.read(job.id, after, limit=10, timeout=WAIT_S * 10)
        assert (list(page.events), page.complete) == ([], True)


def test_a_read_ahead_of_the_log_waits_for_an_event_past_its_cursor(store: Store) -> None:
    job = claimed(store)
    reader = Waiting(lambda: store.read(job.id, after=2, limit=10, timeout=WAIT_S))
    for chunk in range(20):
        store.append(job.id, Token(chunk, "x"))
        if reader.is_over:
            break
        reader._thread.join(0.01)
    assert reader.join().events[0] == (3, Token(2, "x"))


def test_all_readers_are_woken(store: Store) -> None:
    job = claimed(store)
    readers = [
        Waiting(lambda: store.read(job.id, after=0, limit=10, timeout=WAIT_S)) for _ in range(20)
    ]
    say(store, job, "a")
    assert all(list(reader.join().events) == [(1, Token(0, "a"))] for reader in readers)


def test_a_wait_ends_with_the_request_and_not_with_a_token(store: Store) -> None:
    job = claimed(store)
    waiters = [Waiting(lambda: store.wait(job.id, timeout=WAIT_S)) for _ in range(20)]
    say(store, job, "a", "b")
    assert not any(waiter.is_over for waiter in waiters)
    store.finish(job.id, DONE)
    assert all(waiter.join() == store.get(job.id) for waiter in waiters)


def test_a_wait_gives_the_request_as_it_is_after_its_timeout(store: Store) -> None:
    job = claimed(store)
    assert store.wait(job.id, timeout=0.02) == store.get(job.id)
    assert store.wait(job.id, timeout=0).status is Status.PROCESSING


def test_a_wait_for_an_ended_request_returns_at_once(store: Store) -> None:
    job = ended(store)
    assert store.wait(job.id, timeout=WAIT_S * 10).status is Status.COMPLETED


def test_readers_that_come_and_go_miss_nothing_while_the_log_grows(store: Store) -> None:
    job = claimed(store)
    words = [f"{number} " for number in range(500)]

    def follow(number: int) -> list[Event]:
        chance = random.Random(number)
        events: list[Event] = []
        while True:
            page = store.read(job.id, len(events) - 1, chance.randrange(1, 40), timeout=WAIT_S)
            assert [seq for seq, _ in page.events] == list(
                range(len(events), len(events) + len(page.events))
            )
            events += [event for _, event in page.events]
            if page.complete:
                return events

    def write(number: int) -> list[Event]:
        say(store, job, *words)
        store.finish(job.id, DONE)
        return log(store, job)

    results = race(lambda number: write(number) if number == 0 else follow(number), racers=11)
    assert all(events == results[0] for events in results)
    assert store.get(job.id).result == "".join(words)


def test_what_another_run_writes_changes_nothing(store: Store) -> None:
    job = claimed(store)
    before = store.get(job.id)
    assert before.run == 1
    for run in (0, 2):
        assert not store.append(job.id, Token(0, "x"), run)
        assert not store.append(job.id, Restarted(2), run)
        assert not store.attempt(job.id, 2, "spare", run)
        change = store.finish(job.id, DONE, run)
        assert (change.job, change.changed, change.ready) == (before, False, ())
    assert store.get(job.id) == before
    assert log(store, job) == [Started("echo")]
    assert store.append(job.id, Token(0, "x"), before.run)
    assert store.finish(job.id, DONE, before.run).changed


# Ends


def test_an_end_has_its_time_and_its_expiry(store: Store, clock: Clock) -> None:
    job = claimed(store)
    clock.advance(5)
    change = store.finish(job.id, DONE)
    assert change.changed
    assert change.job == store.get(job.id)
    assert change.job.completed_at == clock()
    assert change.job.expires_at == clock() + RETENTION_S
    assert (change.job.usage, change.job.finish_reason) == (Usage(3, 4), FinishReason.STOP)


def test_a_failure_keeps_its_cause_and_gives_no_result(store: Store) -> None:
    job = ended(store, "half", end=Failed("DEADLINE_EXCEEDED", "Too late.", "run"))
    after = store.get(job.id)
    assert (after.status, after.result) == (Status.FAILED, None)
    assert (after.error, after.error_code, after.error_stage) == (
        "Too late.",
        "DEADLINE_EXCEEDED",
        "run",
    )
    assert log(store, job)[1:] == [
        Token(0, "half"),
        Failed("DEADLINE_EXCEEDED", "Too late.", "run"),
    ]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("end", [Completed(FinishReason.STOP), FAILED, Cancelled()])
def test_what_failed_attempts_cost_is_kept_however_it_ends(
    store: Store, end: Terminal, cancelled: bool
) -> None:
    job = claimed(store)
    if cancelled:
        store.cancel(job.id)
    store.finish(job.id, replace(end, failed_usage=Usage(5, 2)))
    assert store.get(job.id).failed_usage == Usage(5, 2)
    (*_, last) = log(store, job)
    assert last.failed_usage == Usage(5, 2)


def test_a_waiting_request_can_fail(store: Store) -> None:
    job = submitted(store)
    assert store.finish(job.id, FAILED).changed
    assert log(store, job) == [FAILED]
    assert store.claim(job.id, "echo") is None


def test_of_fifty_racing_ends_one_counts(store: Store) -> None:
    job = claimed(store)
    ends: list[Terminal] = [DONE, FAILED, Cancelled()]
    changes = race(lambda number: store.finish(job.id, ends[number % 3]))
    (won,) = [change for change in changes if change.changed]
    assert all(change.job == won.job == store.get(job.id) for change in changes)
    assert len(log(store, job)) == 2


def test_an_end_races_with_tokens_and_nothing_comes_after_it(store: Store) -> None:
    job = claimed(store)

    def act(number: int) -> bool:
        if number == 7:
            return store.finish(job.id, DONE).changed
        return store.append(job.id, Token(0, "x"))

    race(act)
    events = log(store, job)
    assert [type(event) for event in events].count(Completed) == 1
    assert events[-1] == DONE
    assert store.get(job.id).result == "x" * (len(events) - 2)


@pytest.mark.parametrize("end", [DONE, FAILED, Cancelled()], ids=["done", "failed", "cancelled"])
def test_nothing_leaves_a_terminal_status(store: Store, clock: Clock, end: Terminal) -> None:
    job = ended(store, "half", end=end)
    before, events = store.get(job.id), log(store, job)
    clock.advance(1)
    for again in (DONE, FAILED, Cancelled()):
        change = store.finish(job.id, again)
        assert (change.job, change.changed, change.ready) == (before, False, ())
    assert (store.cancel(job.id).job, store.cancel(job.id).changed) == (before, False)
    assert store.claim(job.id, "echo") is None
    assert not store.append(job.id, Token(1, "more"))
    assert not store.append(job.id, Restarted(2))
    store.sweep()
    assert store.get(job.id) == before
    assert log(store, job) == events


# Cancel


def test_a_waiting_request_is_cancelled_at_once(store: Store, clock: Clock) -> None:
    job = submitted(store)
    clock.advance(1)
    change = store.cancel(job.id)
    assert change.changed
    assert change.job == store.get(job.id)
    assert (change.job.status, change.job.result) == (Status.CANCELLED, None)
    assert change.job.cancel_requested_at == change.job.completed_at == clock()
    assert log(store, job) == [Cancelled()]
    assert store.claim(job.id, "echo") is None


def test_a_running_request_is_asked_to_stop_once(store: Store, clock: Clock) -> None:
    job = claimed(store)
    clock.advance(1)
    change = store.cancel(job.id)
    assert change.changed
    assert change.job == store.get(job.id)
    assert (change.job.status, change.job.cancel_requested_at) == (Status.PROCESSING, clock())
    clock.advance(1)
    assert not store.cancel(job.id).changed
    assert store.get(job.id).cancel_requested_at == clock() - 1


def test_a_request_that_was_asked_to_stop_takes_no_token(store: Store) -> None:
    job = claimed(store)
    say(store, job, "half")
    store.cancel(job.id)
    assert not store.append(job.id, Token(1, " more"))
    store.finish(job.id, Cancelled())
    assert store.get(job.id).result == "half"
    assert log(store, job)[1:] == [Token(0, "half"), Cancelled()]


@pytest.mark.parametrize("end", [DONE, FAILED], ids=["done", "failed"])
def test_a_request_that_was_asked_to_stop_ends_as_cancelled_whatever_comes(
    store: Store, end: Terminal
) -> None:
    """Its client was told so: the end may have been under way when the cancel came."""
    job = claimed(store, session_id="chat")
    say(store, job, "half")
    store.cancel(job.id)
    assert store.finish(job.id, end).changed
    after = store.get(job.id)
    assert (after.status, after.result, after.error) == (Status.CANCELLED, "half", None)
    assert log(store, job)[-1] == Cancelled()
    assert told(store, "chat") == []


def test_of_fifty_racing_cancels_one_changes_something(store: Store) -> None:
    for job in (submitted(store), claimed(store)):
        changes = race(lambda number, job=job: store.cancel(job.id))
        assert sum(change.changed for change in changes) == 1


def test_a_claim_races_with_a_cancel_and_no_end_is_lost(store: Store) -> None:
    for _ in range(50):
        job = submitted(store)
        claim, change = race(
            lambda number, job=job: store.cancel(job.id) if number else store.claim(job.id, "echo"),
            racers=2,
        )
        if not isinstance(change, Change):
            claim, change = change, claim
        assert change.changed
        assert bool(claim) == (store.get(job.id).status is Status.PROCESSING)


# Sessions


def test_the_second_request_of_a_session_waits_for_the_first(store: Store) -> None:
    first = claimed(store, session_id="chat")
    second = a_job(session_id="chat")
    assert store.submit(second) == Submission(second.id, "chat", ready=())
    assert store.get(second.id).status is Status.PENDING
    assert ids(store.finish(first.id, DONE).ready) == [second.id]


@pytest.mark.parametrize("end", [DONE, FAILED, Cancelled()], ids=["done", "failed", "cancelled"])
def test_requests_of_a_session_run_in_the_order_they_came(store: Store, end: Terminal) -> None:
    jobs = [submitted(store, session_id="chat") for _ in range(10)]
    for job, following in zip(jobs, [*jobs[1:], None], strict=True):
        assert store.claim(job.id, "echo")
        ready = store.finish(job.id, end).ready
        assert ids(ready) == ([following.id] if following else [])


def test_cancelling_the_one_whose_turn_it_is_lets_the_next_go(store: Store) -> None:
    first, second, third = (submitted(store, session_id="chat") for _ in range(3))
    assert store.cancel(second.id).ready == ()
    assert ids(store.cancel(first.id).ready) == [third.id]
    assert store.cancel(third.id).ready == ()
    assert submitted_ready(store, session_id="chat")


def submitted_ready(store: Store, **fields: Any) -> bool:
    """Submit a request, and return whether it may run at once."""
    return bool(store.submit(a_job(**fields)).ready)


def test_requests_of_different_sessions_do_not_wait_for_each_other(store: Store) -> None:
    assert all(submitted_ready(store, session_id=f"chat {number}") for number in range(5))


def test_two_requests_of_a_session_never_run_at_once(store: Store) -> None:
    running: list[str] = []
    most: list[int] = []
    work: list[Job] = []
    left = threading.Semaphore(0)

    def act(number: int) -> None:
        work.extend(store.submit(a_job(session_id="chat")).ready)
        left.release()

    def run() -> None:
        for _ in range(RACERS):
            left.acquire(timeout=WAIT_S)
        while work:
            job = work.pop()
            assert store.claim(job.id, "echo")
            running.append(job.id)
            most.append(len(running))
            running.remove(job.id)
            work.extend(store.finish(job.id, DONE).ready)

    runner = Waiting(run)
    race(act)
    runner.join()
    assert most == [1] * RACERS
    assert alive(store) == []


def test_a_request_can_refuse_to_wait_for_its_session(store: Store) -> None:
    assert submitted_ready(store, session_id="chat", on_busy=OnBusy.REJECT)
    with pytest.raises(SessionBusy) as caught:
        submitted(store, session_id="chat", on_busy=OnBusy.REJECT)
    (running,) = alive(store)
    assert caught.value.details == {"request_id": running.id}
    store.cancel(running.id)
    assert submitted_ready(store, session_id="chat", on_busy=OnBusy.REJECT)


def test_a_refused_request_leaves_nothing_behind(store: Store) -> None:
    submitted(store, session_id="chat")
    refused = a_job(session_id="chat", on_busy=OnBusy.REJECT)
    with pytest.raises(SessionBusy):
        store.submit(refused)
    with pytest.raises(NotFound):
        store.get(refused.id)
    assert len(listed(store)) == len(store.session("chat").active) == 1


def test_of_fifty_racing_requests_that_will_not_wait_one_is_taken(store: Store) -> None:
    def act(number: int) -> bool:
        try:
            return submitted_ready(store, session_id="chat", on_busy=OnBusy.REJECT)
        except SessionBusy:
            return False

    assert sum(race(act)) == 1


def test_parallel_requests_run_beside_the_one_whose_turn_it_is(store: Store) -> None:
    first = claimed(store, session_id="chat")
    assert all(submitted_ready(store, session_id="chat", on_busy=OnBusy.PARALLEL) for _ in range(3))
    waiting = submitted(store, session_id="chat")
    assert ids(store.finish(first.id, DONE).ready) == [waiting.id]


def test_a_parallel_request_lets_nobody_go_when_it_ends(store: Store) -> None:
    submitted(store, session_id="chat")
    parallel = claimed(store, session_id="chat", on_busy=OnBusy.PARALLEL)
    submitted(store, session_id="chat")
    assert store.finish(parallel.id, DONE).ready == ()


def test_a_parallel_request_in_an_idle_session_has_its_turn_like_any_other(store: Store) -> None:
    first = claimed(store, session_id="chat", on_busy=OnBusy.PARALLEL)
    second = a_job(session_id="chat")
    assert store.submit(second).ready == ()
    assert ids(store.finish(first.id, DONE).ready) == [second.id]


def test_a_parallel_request_makes_its_session_busy(store: Store) -> None:
    first = claimed(store, session_id="chat")
    parallel = claimed(store, session_id="chat", on_busy=OnBusy.PARALLEL)
    store.finish(first.id, DONE)
    assert store.session("chat").active == (parallel.id,)
    with pytest.raises(SessionBusy):
        submitted(store, session_id="chat", on_busy=OnBusy.REJECT)
    with pytest.raises(InProgress):
        store.delete_session("chat")
    store.finish(parallel.id, DONE)
    assert store.session("chat").active == ()
    store.delete_session("chat")


def test_an_interrupt_stops_the_running_request_and_takes_its_place(store: Store) -> None:
    first = claimed(store, session_id="chat")
    say(store, first, "half")
    second = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    submission = store.submit(second)
    assert (submission.ready, submission.interrupted) == ((), (first.id,))
    assert store.get(first.id).cancel_requested_at is not None
    assert ids(store.finish(first.id, Cancelled()).ready) == [second.id]
    assert store.get(first.id).result == "half"


def test_an_interrupt_cancels_those_that_wait_at_once(store: Store) -> None:
    jobs = [submitted(store, session_id="chat") for _ in range(4)]
    last = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    submission = store.submit(last)
    assert submission.ready == (last,)
    assert set(submission.interrupted) == set(ids(jobs))
    assert {store.get(job.id).status for job in jobs} == {Status.CANCELLED}
    assert all(store.get(job.id).cancel_requested_at for job in jobs)
    assert store.session("chat").active == (last.id,)
    assert ids(alive(store)) == [last.id]


def test_an_interrupt_reaches_running_waiting_and_parallel_requests(store: Store) -> None:
    running = claimed(store, session_id="chat")
    waiting = submitted(store, session_id="chat")
    parallel = claimed(store, session_id="chat", on_busy=OnBusy.PARALLEL)
    last = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    submission = store.submit(last)
    assert set(submission.interrupted) == {running.id, waiting.id, parallel.id}
    assert store.get(waiting.id).status is Status.CANCELLED
    assert store.get(parallel.id).cancel_requested_at is not None
    assert store.finish(parallel.id, Cancelled()).ready == ()
    assert ids(store.finish(running.id, Cancelled()).ready) == [last.id]


def test_an_interrupt_of_an_interrupt_waits_for_the_first_to_stop(store: Store) -> None:
    running = claimed(store, session_id="chat")
    second = submitted(store, session_id="chat", on_busy=OnBusy.INTERRUPT)
    third = submitted(store, session_id="chat", on_busy=OnBusy.INTERRUPT)
    assert store.get(second.id).status is Status.CANCELLED
    assert ids(store.finish(running.id, Cancelled()).ready) == [third.id]


def test_an_interrupt_needs_no_more_room_than_it_makes(make_store: MakeStore) -> None:
    store = make_store(queue_limit=2)
    claimed(store, session_id="chat")
    waiting = [submitted(store, session_id="chat") for _ in range(2)]
    with pytest.raises(PipelineUnavailable):
        store.submit(a_job(session_id="other", on_busy=OnBusy.INTERRUPT))
    assert {store.get(job.id).status for job in waiting} == {Status.PENDING}
    last = submitted(store, session_id="chat", on_busy=OnBusy.INTERRUPT)
    assert {store.get(job.id).status for job in waiting} == {Status.CANCELLED}
    submitted(store, session_id="other")
    with pytest.raises(PipelineUnavailable):
        submitted(store)
    assert store.get(last.id).status is Status.PENDING


def test_an_interrupt_in_an_idle_session_is_a_request_like_any_other(store: Store) -> None:
    ended(store, "1", session_id="chat", prompt="one")
    job = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    assert store.submit(job) == Submission(job.id, "chat", ready=(job,))
    assert told(store, "chat") == [("user", "one"), ("assistant", "1")]


def test_an_interrupted_request_adds_nothing_to_the_history_though_its_end_came(
    store: Store,
) -> None:
    first = claimed(store, session_id="chat")
    say(store, first, "half")
    submitted(store, session_id="chat", on_busy=OnBusy.INTERRUPT)
    store.finish(first.id, DONE)
    assert store.get(first.id).status is Status.CANCELLED
    assert told(store, "chat") == []


def test_a_claim_gives_the_turns_that_ended_well(store: Store) -> None:
    ended(store, "1", session_id="chat", prompt="one", system="Be brief.")
    ended(store, "x", session_id="chat", prompt="no", end=FAILED, system="Be rude.")
    ended(store, "y", session_id="chat", prompt="no", end=Cancelled(), system="Be rude.")
    ended(store, "z", session_id="other", prompt="elsewhere")
    ended(store, "2", session_id="chat", prompt="two")
    job = submitted(store, session_id="chat", prompt="three")
    claim = store.claim(job.id, "echo")
    assert claim
    assert [(turn.role, turn.content) for turn in claim[1].conversation(job.request)] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "1"),
        ("user", "two"),
        ("assistant", "2"),
        ("user", "three"),
    ]


def test_a_turn_that_ended_while_another_waited_is_known_to_it(store: Store) -> None:
    first = claimed(store, session_id="chat", prompt="one")
    second = submitted(store, session_id="chat", prompt="two")
    say(store, first, "1")
    store.finish(first.id, DONE)
    claim = store.claim(second.id, "echo")
    assert claim
    assert [turn.content for turn in claim[1].messages] == ["one", "1"]


def test_only_the_answer_after_the_last_restart_is_remembered(store: Store) -> None:
    job = claimed(store, session_id="chat", prompt="one")
    say(store, job, "void")
    store.append(job.id, Restarted(2))
    say(store, job, "1")
    store.finish(job.id, DONE)
    assert told(store, "chat") == [("user", "one"), ("assistant", "1")]


def test_a_history_keeps_200_messages(store: Store) -> None:
    for number in range(102):
        ended(store, "answer", session_id="chat", prompt=f"question {number}")
    assert len(told(store, "chat")) == 200
    assert told(store, "chat")[0] == ("user", "question 2")
    assert told(store, "chat")[-2] == ("user", "question 101")


def test_a_history_keeps_1_mib_and_its_system_text(store: Store) -> None:
    half = 512 * 1024
    for number in range(3):
        ended(store, "x" * (half - 1), session_id="chat", prompt=str(number), system="Be brief.")
    assert [content[:1] for _, content in told(store, "chat")] == ["1", "x", "2", "x"]
    assert store.session("chat").history.system == "Be brief."


def test_a_session_says_who_is_active_and_when_it_was_used(store: Store, clock: Clock) -> None:
    began = clock()
    first, second = (submitted(store, session_id="chat") for _ in range(2))
    assert store.session("chat").active == (first.id, second.id)
    clock.advance(5)
    store.cancel(first.id)
    session = store.session("chat")
    assert (session.name, session.created_at, session.last_used_at) == ("chat", began, clock())
    assert session.active == (second.id,)


def test_a_place_in_the_line_of_a_session_is_known(store: Store) -> None:
    first, second, third = (submitted(store, session_id="chat") for _ in range(3))
    turn = (first.id, first.request.priority)
    assert [store.place(job.id) for job in (first, second, third)] == [
        Place(ahead, turn) for ahead in range(3)
    ]
    store.claim(first.id, "echo")
    assert [store.place(job.id) for job in (second, third)] == [Place(1), Place(2)]
    store.finish(first.id, DONE)
    turn = (second.id, second.request.priority)
    assert [store.place(job.id) for job in (second, third)] == [Place(0, turn), Place(1, turn)]


def test_a_parallel_request_waits_for_nobody_in_its_session(store: Store) -> None:
    submitted(store, session_id="chat")
    submitted(store, session_id="chat")
    parallel = submitted(store, session_id="chat", on_busy=OnBusy.PARALLEL)
    assert store.place(parallel.id) == Place(0, (parallel.id, parallel.request.priority))


def test_what_ended_or_is_gone_waits_for_nobody(store: Store) -> None:
    submitted(store, session_id="chat")
    job = submitted(store, session_id="chat")
    store.cancel(job.id)
    assert store.place(job.id) == Place()
    store.delete(job.id)
    assert store.place(job.id) == Place()


def test_a_busy_session_cannot_be_deleted(store: Store) -> None:
    ended(store, "1", session_id="chat", prompt="one")
    job = claimed(store, session_id="chat")
    with pytest.raises(InProgress):
        store.delete_session("chat")
    store.finish(job.id, FAILED)
    store.delete_session("chat")


def test_a_deleted_session_is_forgotten_and_can_begin_again(store: Store) -> None:
    job = ended(store, "1", session_id="chat", prompt="one")
    store.delete_session("chat")
    for ask in (store.session, store.delete_session):
        with pytest.raises(NotFound):
            ask("chat")
    assert store.get(job.id).result == "1"
    ended(store, "2", session_id="chat", prompt="two")
    assert told(store, "chat") == [("user", "two"), ("assistant", "2")]


def test_an_unknown_session_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.session("unknown")


def test_a_session_is_kept_for_the_retention_from_its_last_use(store: Store, clock: Clock) -> None:
    ended(store, session_id="chat", prompt="one")
    clock.advance(RETENTION_S - 1)
    store.sweep()
    ended(store, session_id="chat", prompt="two")
    clock.advance(RETENTION_S - 1)
    store.sweep()
    assert [content for role, content in told(store, "chat") if role == "user"] == ["one", "two"]
    clock.advance(2)
    store.sweep()
    with pytest.raises(NotFound):
        store.session("chat")


def test_a_session_stays_while_its_request_runs_for_longer_than_the_retention(
    store: Store, clock: Clock
) -> None:
    ended(store, "1", session_id="chat", prompt="one")
    job = claimed(store, session_id="chat", prompt="two", queue_timeout_s=10 * RETENTION_S)
    for _ in range(3):
        clock.advance(RETENTION_S)
        store.sweep()
    assert store.session("chat").active == (job.id,)
    store.finish(job.id, DONE)
    assert len(told(store, "chat")) == 4
    clock.advance(RETENTION_S - 1)
    store.sweep()
    assert len(told(store, "chat")) == 4


def test_a_long_busy_session_takes_no_idle_one_with_it(store: Store, clock: Clock) -> None:
    claimed(store, session_id="busy")
    clock.advance(RETENTION_S - 1)
    ended(store, "1", session_id="idle", prompt="one")
    clock.advance(2)
    store.sweep()
    assert len(told(store, "idle")) == 2


def test_sessions_are_listed_last_used_first(store: Store, clock: Clock) -> None:
    for name in "abcdefg":
        ended(store, session_id=name)
        clock.advance(1)
    submitted(store, session_id="c")
    assert sessions_listed(store) == list("cgfedba")
    assert [item.name for item in store.sessions(limit=7, cursor=None, tenant="").items] == list(
        "cgfedba"
    )
    assert store.sessions(limit=7, cursor=None, tenant="").next_cursor is None


def test_a_list_of_sessions_goes_on_while_they_are_used_and_deleted(
    store: Store, clock: Clock
) -> None:
    names = [f"chat-{number}" for number in range(20)]
    for name in names:
        ended(store, session_id=name)
        clock.advance(1)
    seen: list[str] = []
    chance = random.Random(3)
    for page in pages(lambda cursor: store.sessions(limit=4, cursor=cursor, tenant="")):
        seen += [session.name for session in page]
        # The last one seen is what a cursor may stand on.
        store.delete_session(seen[-1])
        clock.advance(1)
        ended(store, session_id=chance.choice(seen[:-1]))
        ended(store, session_id=f"new-{len(seen)}")
    assert seen == list(reversed(names))


def test_sessions_that_share_a_moment_are_all_listed(store: Store) -> None:
    names = {f"chat-{number}" for number in range(10)}
    for name in names:
        ended(store, session_id=name)
    listing = sessions_listed(store, limit=3)
    assert len(listing) == 10
    assert set(listing) == names


def test_a_listed_session_is_the_session(store: Store) -> None:
    ended(store, "1", session_id="chat", prompt="one")
    submitted(store, session_id="chat")
    (listed,) = store.sessions(limit=5, cursor=None, tenant="").items
    session = store.session("chat")
    for field in fields(SessionHead):
        assert getattr(listed, field.name) == getattr(session, field.name)
    assert listed.messages_count == len(session.history.messages) == 2


# Idempotency keys


def key(name: str = "key", body: bytes = b"body") -> Idempotency:
    return Idempotency(name, body)


def test_the_same_key_and_body_is_the_same_request(store: Store) -> None:
    first = a_job()
    assert not store.submit(first, key()).replayed
    again = store.submit(a_job(), key())
    assert again == Submission(first.id, first.request.session_id, replayed=True)
    assert len(listed(store)) == 1


def test_the_same_key_with_another_body_is_refused(store: Store) -> None:
    first = a_job()
    store.submit(first, key())
    with pytest.raises(IdempotencyKeyReused) as caught:
        store.submit(a_job(), key(body=b"other"))
    assert caught.value.details == {"request_id": first.id}
    assert len(listed(store)) == 1


def test_a_replay_is_found_without_a_submit(store: Store) -> None:
    assert store.replay(key()) is None
    first = store.submit(a_job(), key())
    found = store.replay(key())
    assert found
    assert (found.request_id, found.session) == (first.request_id, first.session)
    assert (found.replayed, found.ready) == (True, ())
    with pytest.raises(IdempotencyKeyReused):
        store.replay(key(body=b"another"))


def test_other_keys_and_no_key_are_other_requests(store: Store) -> None:
    store.submit(a_job(), key("one"))
    store.submit(a_job(), key("two"))
    store.submit(a_job())
    store.submit(a_job())
    assert len(listed(store)) == 4


def test_of_fifty_racing_submits_with_one_key_one_counts(store: Store) -> None:
    submissions = race(lambda number: store.submit(a_job(), key()))
    assert sum(not submission.replayed for submission in submissions) == 1
    assert len({submission.request_id for submission in submissions}) == 1
    assert len(listed(store)) == 1


def test_a_key_is_kept_for_24_hours_and_no_longer(store: Store, clock: Clock) -> None:
    first = a_job()
    store.submit(first, key())
    clock.advance(24 * 3600 - 1)
    store.sweep()
    assert store.submit(a_job(), key()).request_id == first.id
    clock.advance(1)
    second = a_job()
    assert not store.submit(second, key(body=b"other")).replayed
    assert store.submit(a_job(), key(body=b"other")).request_id == second.id


def test_a_key_used_again_after_its_expiry_lives_as_long_as_any(store: Store, clock: Clock) -> None:
    store.submit(a_job(), key("old"))
    clock.advance(12 * 3600)
    store.submit(a_job(), key("other"))
    clock.advance(12 * 3600)
    again = a_job()
    store.submit(again, key("old"))
    clock.advance(12 * 3600)
    store.sweep()
    assert not store.submit(a_job(), key("other")).replayed
    assert store.submit(a_job(), key("old")).request_id == again.id


def test_a_key_outlives_its_request(store: Store, clock: Clock) -> None:
    deleted, expired = a_job(), a_job()
    store.submit(deleted, key("deleted"))
    store.cancel(deleted.id)
    store.delete(deleted.id)
    store.submit(expired, key("expired"))
    store.cancel(expired.id)
    clock.advance(RETENTION_S + 1)
    store.sweep()
    for job, name in ((deleted, "deleted"), (expired, "expired")):
        again = store.submit(a_job(), key(name))
        assert (again.request_id, again.replayed, again.ready) == (job.id, True, ())
        with pytest.raises(ResultExpired):
            store.get(job.id)


def test_a_refused_submit_stores_no_key(make_store: MakeStore) -> None:
    store = make_store(queue_limit=1)
    waiting = submitted(store, session_id="chat")
    with pytest.raises(PipelineUnavailable):
        store.submit(a_job(), key("full"))
    with pytest.raises(SessionBusy):
        store.submit(a_job(session_id="chat", on_busy=OnBusy.REJECT), key("busy"))
    store.cancel(waiting.id)
    taken = a_job()
    assert not store.submit(taken, key("full", b"other")).replayed
    store.claim(taken.id, "echo")
    assert not store.submit(a_job(), key("busy", b"other")).replayed


def test_a_replay_is_answered_though_the_queue_is_full(make_store: MakeStore) -> None:
    store = make_store(queue_limit=1)
    store.submit(a_job(), key())
    assert store.submit(a_job(), key()).replayed


# Admission


def test_a_full_queue_refuses_with_a_time_to_come_back(make_store: MakeStore) -> None:
    store = make_store(queue_limit=3)
    jobs = [submitted(store) for _ in range(3)]
    refused = a_job()
    with pytest.raises(PipelineUnavailable) as caught:
        store.submit(refused)
    assert caught.value.retry_after >= 1
    with pytest.raises(NotFound):
        store.get(refused.id)
    with pytest.raises(NotFound):
        store.session(refused.request.session_id)
    assert len(listed(store)) == 3
    store.claim(jobs[0].id, "echo")
    submitted(store)
    store.cancel(jobs[1].id)
    submitted(store)
    with pytest.raises(PipelineUnavailable):
        submitted(store)


def test_a_refusal_by_a_full_queue_is_no_use_of_a_session(
    make_store: MakeStore, clock: Clock
) -> None:
    store = make_store(queue_limit=1)
    for session_id in ("first", "last"):
        store.cancel(submitted(store, session_id=session_id).id)
    before = store.session("first")
    submitted(store, session_id="busy")
    clock.advance(1)
    with pytest.raises(PipelineUnavailable):
        submitted(store, session_id="first")
    assert store.session("first") == before
    assert sessions_listed(store) == ["busy", "last", "first"]


def test_those_that_wait_for_their_session_count_as_waiting(make_store: MakeStore) -> None:
    store = make_store(queue_limit=2)
    claimed(store, session_id="chat")
    submitted(store, session_id="chat")
    submitted(store, session_id="chat")
    with pytest.raises(PipelineUnavailable):
        submitted(store)


def test_racing_submits_never_exceed_the_queue(make_store: MakeStore) -> None:
    store = make_store(queue_limit=10)

    def act(number: int) -> bool:
        try:
            return submitted_ready(store)
        except PipelineUnavailable:
            return False

    assert sum(race(act)) == len(alive(store)) == 10


# What is kept, and for how long


def asks(store: Store, job_id: str) -> list[Callable[[], object]]:
    """Return every way to ask for a request."""
    return [
        lambda: store.get(job_id),
        lambda: store.read(job_id, after=-1, limit=1),
        lambda: store.read(job_id, after=-1, limit=1, timeout=WAIT_S),
        lambda: store.wait(job_id, timeout=WAIT_S),
        lambda: store.cancel(job_id),
        lambda: store.delete(job_id),
    ]


@pytest.mark.parametrize("swept", [True, False], ids=["swept", "unswept"])
def test_a_request_is_kept_for_the_retention_from_its_end(
    store: Store, clock: Clock, swept: bool
) -> None:
    job = claimed(store)
    clock.advance(2 * RETENTION_S)
    store.finish(job.id, DONE)
    clock.advance(RETENTION_S - 1)
    store.sweep()
    assert store.get(job.id).status is Status.COMPLETED
    clock.advance(1)
    if swept:
        store.sweep()
    for ask in asks(store, job.id):
        with pytest.raises(ResultExpired):
            ask()
    assert listed(store) == []


def test_requests_expire_one_by_one_in_the_order_they_ended(store: Store, clock: Clock) -> None:
    jobs = [claimed(store) for _ in range(5)]
    for job in reversed(jobs):
        store.finish(job.id, DONE)
        clock.advance(10)
    clock.advance(RETENTION_S - 55)
    for left in range(5, 0, -1):
        store.sweep()
        assert sorted(listed(store)) == sorted(ids(jobs[:left]))
        clock.advance(10)


def test_a_live_request_never_expires(store: Store, clock: Clock) -> None:
    waiting = submitted(store, queue_timeout_s=100 * RETENTION_S)
    running = claimed(store)
    clock.advance(10 * RETENTION_S)
    store.sweep()
    assert store.get(waiting.id).status is Status.PENDING
    assert store.get(running.id).status is Status.PROCESSING


@pytest.mark.parametrize(
    "job_id",
    [
        new_id(),
        "nonsense",
        "",
        "00000000-0000-0000-0000-000000000000",
        "3f2b9a52-58cb-4a4e-9f0e-0d5f5c0e4f5a",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "\x00",
        "é" * 1000,
    ],
    ids=["new", "nonsense", "empty", "nil", "v4", "future", "nul", "long"],
)
def test_what_never_was_is_not_found(store: Store, job_id: str) -> None:
    for ask in asks(store, job_id):
        with pytest.raises(NotFound):
            ask()


def test_an_id_older_than_the_retention_has_expired_whether_it_was_or_not(store: Store) -> None:
    for ask in asks(store, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"):
        with pytest.raises(ResultExpired):
            ask()


def test_a_deleted_request_is_as_if_it_never_was(store: Store) -> None:
    job = ended(store, "a")
    store.delete(job.id)
    for ask in asks(store, job.id):
        with pytest.raises(NotFound, match="a new Idempotency-Key"):
            ask()
    assert listed(store) == []


@pytest.mark.parametrize("live", [submitted, claimed], ids=["pending", "processing"])
def test_a_live_request_cannot_be_deleted(store: Store, live: Callable[[Store], Job]) -> None:
    job = live(store)
    with pytest.raises(InProgress):
        store.delete(job.id)
    assert not store.get(job.id).status.is_terminal


def test_a_reader_at_the_end_of_a_log_learns_that_it_was_deleted(store: Store) -> None:
    job = ended(store, "a")
    page = store.read(job.id, after=-1, limit=2)
    store.delete(job.id)
    with pytest.raises(NotFound):
        store.read(job.id, page.events[-1][0], limit=2)


# Sweeping


def test_what_waited_too_long_fails(store: Store, clock: Clock) -> None:
    job = submitted(store, queue_timeout_s=5)
    clock.advance(4.9)
    assert store.sweep() == []
    clock.advance(0.2)
    (change,) = store.sweep()
    assert change.changed
    assert change.job == store.get(job.id)
    assert (change.job.status, change.job.error_code) == (Status.FAILED, "DEADLINE_EXCEEDED")
    assert change.job.error_stage == "queue"
    (event,) = log(store, job)
    assert isinstance(event, Failed)
    assert (event.code, event.stage) == ("DEADLINE_EXCEEDED", "queue")
    assert store.sweep() == []
    assert store.claim(job.id, "echo") is None


def test_a_running_request_has_no_queue_timeout(store: Store, clock: Clock) -> None:
    job = claimed(store, queue_timeout_s=5)
    clock.advance(100)
    assert store.sweep() == []
    assert store.get(job.id).status is Status.PROCESSING


def test_the_queue_timeout_runs_while_a_request_waits_for_its_session(
    store: Store, clock: Clock
) -> None:
    running = claimed(store, session_id="chat")
    late = submitted(store, session_id="chat", queue_timeout_s=5)
    patient = submitted(store, session_id="chat", queue_timeout_s=50)
    clock.advance(6)
    (change,) = store.sweep()
    assert (change.job.id, change.ready) == (late.id, ())
    assert ids(store.finish(running.id, DONE).ready) == [patient.id]


def test_a_late_request_whose_turn_it_was_lets_the_next_go(store: Store, clock: Clock) -> None:
    submitted(store, session_id="chat", queue_timeout_s=5)
    patient = submitted(store, session_id="chat", queue_timeout_s=50)
    clock.advance(6)
    (change,) = store.sweep()
    assert ids(change.ready) == [patient.id]


def test_a_sweep_wakes_who_waits_for_a_late_request(store: Store, clock: Clock) -> None:
    job = submitted(store, queue_timeout_s=5)
    waiter = Waiting(lambda: store.wait(job.id, timeout=WAIT_S))
    reader = Waiting(lambda: store.read(job.id, after=-1, limit=5, timeout=WAIT_S))
    clock.advance(6)
    eventually(lambda: store.sweep() or waiter.is_over)
    assert waiter.join().status is Status.FAILED
    assert reader.join().complete


# Lists


def test_requests_are_listed_newest_first(store: Store) -> None:
    jobs = [submitted(store) for _ in range(10)]
    newest_first = sorted(ids(jobs), reverse=True)
    for limit in (1, 3, 9, 10, 11):
        assert listed(store, limit=limit) == newest_first


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert store.jobs(None, None, 10, None, tenant="") == Listing([], None)
    assert store.sessions(10, None, tenant="") == Listing([], None)


def test_a_page_is_never_longer_than_asked_for(store: Store) -> None:
    for _ in range(5):
        submitted(store)
    listing = store.jobs(None, None, 2, None, tenant="")
    assert len(listing.items) == 2
    assert listing.next_cursor is not None


@pytest.mark.parametrize(("pieces", "sizes"), [(3, [2, 2, 1]), (10, [1, 1, 1, 1, 1])])
def test_a_page_is_full_with_a_mebibyte_of_results(
    store: Store, pieces: int, sizes: list[int]
) -> None:
    made = {ended(store, *[200_000 * "x"] * pieces).id for _ in range(5)}
    pages = [store.jobs(None, None, 100, None, tenant="")]
    while pages[-1].next_cursor:
        pages.append(store.jobs(None, None, 100, pages[-1].next_cursor, tenant=""))
    assert [len(page.items) for page in pages] == sizes
    assert {job.id for page in pages for job in page.items} == made


def test_a_list_shows_requests_as_they_are(store: Store) -> None:
    job = ended(store, "a")
    (found,) = store.jobs(None, None, 5, None, tenant="").items
    assert as_listed(found) == as_listed(store.get(job.id))


def test_a_list_is_filtered_by_status_and_session(store: Store) -> None:
    made = {
        (status, name): [make(store, session_id=f"{name}-{status}-{number}") for number in range(3)]
        for name in ("x", "y")
        for status, make in (
            (Status.PENDING, submitted),
            (Status.PROCESSING, claimed),
            (Status.COMPLETED, ended),
        )
    }
    for status in (Status.PENDING, Status.PROCESSING, Status.COMPLETED):
        expected = ids(made[status, "x"]) + ids(made[status, "y"])
        assert listed(store, status=status) == sorted(expected, reverse=True)
    assert listed(store, status=Status.FAILED) == []
    (one,) = listed(store, session="x-pending-1")
    assert one == made[Status.PENDING, "x"][1].id
    assert listed(store, session="x-pending-1", status=Status.COMPLETED) == []
    assert listed(store, session="unknown") == []


def test_a_list_goes_on_while_requests_come_and_go(store: Store) -> None:
    left = sorted(ids([ended(store) for _ in range(30)]), reverse=True)
    known = set(left)
    seen: list[str] = []
    for page in pages(lambda cursor: store.jobs(None, None, 4, cursor, tenant="")):
        # One made in the same millisecond as those may come among them or not.
        old = [job.id for job in page if job.id in known]
        ended(store)
        if old:
            seen += old
            # A cursor may stand on the last one seen; the first one to come is not seen any more.
            following = [job_id for job_id in left if job_id < old[-1]][:1]
            for gone in (old[-1], *following):
                store.delete(gone)
            left = [job_id for job_id in left if job_id not in following]
    assert seen == left
    assert len(seen) < len(known)


def test_a_cursor_outlives_the_request_it_stands_on(store: Store) -> None:
    jobs = sorted(ids([ended(store) for _ in range(6)]), reverse=True)
    listing = store.jobs(None, None, 3, None, tenant="")
    for job_id in jobs[:4]:
        store.delete(job_id)
    assert ids(store.jobs(None, None, 3, listing.next_cursor, tenant="").items) == jobs[4:]


@pytest.mark.parametrize("cursor", ["nonsense", "-1", "\x00", "é", "9" * 500])
def test_a_cursor_that_is_nonsense_breaks_nothing(store: Store, cursor: str) -> None:
    job = ended(store, session_id="chat")
    assert set(ids(store.jobs(None, None, 5, cursor, tenant="").items)) <= {job.id}
    assert {session.name for session in store.sessions(5, cursor, tenant="").items} <= {"chat"}
