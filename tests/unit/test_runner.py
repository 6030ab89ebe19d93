"""One claimed request, from its first token to the end it deserves."""

import asyncio
import logging
import threading
from typing import Any, NoReturn

import gevent
import pytest

from orchestrator.backends.base import Finish
from orchestrator.errors import UpstreamRejected, UpstreamTimeout
from orchestrator.events import (
    Cancelled,
    Completed,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Token,
    Usage,
)
from orchestrator.job import Job, Status
from orchestrator.routing.base import Attempt, Route
from orchestrator.runner import Runner
from orchestrator.session import History
from orchestrator.stores.memory.store import MemoryStore
from tests.fakes.asking import WAIT_S, eventually
from tests.fakes.backends import (
    BeginsAnew,
    BreaksWhenStopped,
    CutsTheStream,
    Hangs,
    IgnoresStops,
    Raises,
    Says,
    Steps,
)
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(queue_limit=100, retention_s=3600, memory_limit=64 * 1024 * 1024)


def submitted(store: MemoryStore, **fields: Any) -> Job:
    job = a_job(**fields)
    store.submit(job)
    return job


def ran(store: MemoryStore, backend: Route, **fields: Any) -> Job:
    """Run a request with ``backend`` and return it as it ended."""
    job = submitted(store, **fields)
    Runner(store, lambda _: backend).run(job.id)
    return store.get(job.id)


def log(store: MemoryStore, job: Job) -> list[object]:
    return [event for _, event in store.read(job.id, after=-1, limit=1_000).events]


class Run:
    """A run in a thread of its own."""

    def __init__(self, store: MemoryStore, backend: Route, clock: Clock | None = None) -> None:
        self.store = store
        self.clock = clock or Clock()
        self.runner = Runner(store, lambda _: backend, self.clock)
        self.job = submitted(store, timeout_s=60)
        self.ready: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.ready = self.runner.run(self.job.id)

    def await_events(self, count: int) -> None:
        eventually(lambda: len(log(self.store, self.job)) >= count)

    def ended(self) -> Job:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the run does not end"
        return self.store.get(self.job.id)


# Ends that the backend gives


def test_an_answer_is_logged_piece_by_piece_and_ends_well(store: MemoryStore) -> None:
    job = ran(store, Says("Hello ", "world"))
    assert (job.status, job.result, job.backend) == (Status.COMPLETED, "Hello world", "says")
    assert job.usage == Usage(1, 2)
    assert log(store, job) == [
        Started("says"),
        Token(0, "Hello "),
        Token(1, "world"),
        Completed(FinishReason.STOP, Usage(1, 2)),
    ]


def test_an_answer_of_many_pieces_is_whole(store: MemoryStore) -> None:
    words = [f"{number} " for number in range(1_000)]
    assert ran(store, Says(*words)).result == "".join(words)


def test_the_backend_is_told_the_conversation(store: MemoryStore) -> None:
    backend = Says("one")
    ran(store, backend, session_id="chat", prompt="Hi", system="Be brief.")
    ran(store, backend, session_id="chat", prompt="And now?")
    assert backend.told[1] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "one"),
        ("user", "And now?"),
    ]


def test_an_attempt_after_words_is_a_restart_and_one_before_them_is_none(
    store: MemoryStore,
) -> None:
    done = Finish(FinishReason.STOP, Usage(1, 1))
    route = BeginsAnew(
        Attempt(2, "first"), "half", Attempt(3, "second"), Attempt(4, "third"), "whole", done
    )
    job = ran(store, route)
    assert (job.status, job.result, job.usage) == (Status.COMPLETED, "whole", Usage(1, 1))
    assert (job.attempts, job.backend) == (4, "third")
    assert log(store, job)[1:-1] == [Token(0, "half"), Restarted(3, "second"), Token(0, "whole")]


def test_what_failed_attempts_cost_is_told_apart(store: MemoryStore) -> None:
    done = Finish(FinishReason.STOP, Usage(1, 1))
    items = ["half", Usage(5, 2), Attempt(2, "second"), Usage(6, 0), Attempt(3, "third"), "whole"]
    job = ran(store, BeginsAnew(*items, done))
    assert (job.usage, job.failed_usage) == (Usage(1, 1), Usage(11, 2))
    assert log(store, job)[-1] == Completed(FinishReason.STOP, Usage(1, 1), Usage(11, 2))
    failed = ran(store, BeginsAnew("half", Usage(5, 2)))
    assert (failed.status, failed.usage, failed.failed_usage) == (Status.FAILED, None, Usage(5, 2))


def test_what_an_attempt_has_cost_so_far_takes_the_place_of_what_it_said_before(
    store: MemoryStore,
) -> None:
    done = Finish(FinishReason.STOP, Usage(1, 3))
    said = [Usage(5, 1), "half", Usage(5, 2), Attempt(2, "second"), Usage(1, 1), "whole"]
    job = ran(store, BeginsAnew(*said, Usage(1, 3), done))
    assert (job.usage, job.failed_usage) == (Usage(1, 3), Usage(5, 2))


def test_a_cut_stream_is_never_a_success(store: MemoryStore) -> None:
    job = ran(store, CutsTheStream())
    assert (job.status, job.error_code) == (Status.FAILED, "UPSTREAM_TRUNCATED")
    assert job.result is None


def test_a_failure_of_the_upstream_keeps_its_code_its_words_and_its_stage(
    store: MemoryStore,
) -> None:
    job = ran(store, Raises(UpstreamTimeout("Silent for too long.", stage="idle")))
    assert (job.status, job.error_code) == (Status.FAILED, "UPSTREAM_TIMEOUT")
    assert (job.error, job.error_stage) == ("Silent for too long.", "idle")
    assert ran(store, Raises(UpstreamRejected("No."))).error_code == "UPSTREAM_REJECTED"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        KeyError("secret"),
        RecursionError("secret"),
        MemoryError("secret"),
        TimeoutError("secret"),
        StopIteration("secret"),
        GeneratorExit("secret"),
        SystemExit("secret"),
        KeyboardInterrupt("secret"),
        asyncio.CancelledError("secret"),
        gevent.Timeout(1.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_backend_that_raises_anything_at_all_fails_its_request_alone(
    store: MemoryStore, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        job = ran(store, Raises(error))
    assert (job.status, job.error_code) == (Status.FAILED, "INTERNAL")
    assert job.error
    assert "secret" not in job.error
    assert job.id in caplog.text
    assert "raises" in caplog.text


class IsNoGenerator:
    """Breaks the port: returns what cannot be closed, and pieces that are no text."""

    name = "no generator"

    def __init__(self, *pieces: object) -> None:
        self._pieces = pieces

    def stream(self, *_: object) -> Any:
        return iter(self._pieces)


@pytest.mark.parametrize("pieces", [(), (5,), (None,), ("text",)])
def test_a_backend_that_breaks_its_port_fails_its_request(
    store: MemoryStore, pieces: tuple[object, ...]
) -> None:
    job = ran(store, IsNoGenerator(*pieces))
    assert (job.status, job.error_code) == (Status.FAILED, "INTERNAL")


@pytest.mark.parametrize(
    ("piece", "kept"),
    [
        ("a\ud800b", "a?b"),
        ("\udc00", "?"),
        ("é😀", "é😀"),
        ("plain", "plain"),
        ("\x00\u2028", "\x00\u2028"),
    ],
)
def test_half_of_a_surrogate_pair_never_reaches_the_log(
    store: MemoryStore, piece: str, kept: str
) -> None:
    job = ran(store, Says(piece))
    assert job.result == kept
    job.result.encode()
    assert log(store, job)[1] == Token(0, kept)


# Ends from outside


def test_a_cancel_reaches_a_silent_backend_and_keeps_the_text(store: MemoryStore) -> None:
    backend = Hangs("half ", "of it")
    run = Run(store, backend)
    run.await_events(3)
    store.cancel(run.job.id)
    run.runner.stop(run.job.id)
    job = run.ended()
    assert (job.status, job.result) == (Status.CANCELLED, "half of it")
    assert log(store, job)[-1] == Cancelled()
    assert backend.closed == 1


def test_a_cancel_before_the_first_token_gives_no_text(store: MemoryStore) -> None:
    run = Run(store, Hangs())
    run.await_events(1)
    store.cancel(run.job.id)
    run.runner.stop(run.job.id)
    job = run.ended()
    assert (job.status, job.result) == (Status.CANCELLED, None)


def test_no_token_is_logged_after_a_cancel(store: MemoryStore) -> None:
    backend = IgnoresStops()
    run = Run(store, backend)
    backend.allow(2)
    run.await_events(3)
    store.cancel(run.job.id)
    run.runner.stop(run.job.id)
    backend.allow(5)
    job = run.ended()
    assert (job.status, job.result) == (Status.CANCELLED, "word word ")


def test_a_cancel_that_only_the_store_knows_of_ends_the_run_at_the_next_token(
    store: MemoryStore,
) -> None:
    backend = IgnoresStops()
    run = Run(store, backend)
    backend.allow(1)
    run.await_events(2)
    store.cancel(run.job.id)
    backend.allow(1)
    job = run.ended()
    assert (job.status, job.result) == (Status.CANCELLED, "word ")


def test_a_backend_that_breaks_when_it_is_stopped_was_stopped(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(store, BreaksWhenStopped())
    run.await_events(2)
    run.clock.advance(61)
    with caplog.at_level(logging.ERROR):
        run.runner.stop_late()
        job = run.ended()
    assert (job.status, job.error_code) == (Status.FAILED, "DEADLINE_EXCEEDED")
    assert not caplog.records


def test_a_run_past_its_time_limit_fails_with_its_stage(store: MemoryStore) -> None:
    run = Run(store, Hangs("half"))
    run.await_events(2)
    run.clock.advance(59.9)
    run.runner.stop_late()
    assert store.get(run.job.id).status is Status.PROCESSING
    run.clock.advance(0.2)
    run.runner.stop_late()
    job = run.ended()
    assert (job.status, job.error_code) == (Status.FAILED, "DEADLINE_EXCEEDED")
    assert (job.error_stage, job.result) == ("run", None)
    (last,) = log(store, job)[-1:]
    assert isinstance(last, Failed)
    assert last.stage == "run"


def test_the_first_stop_decides(store: MemoryStore) -> None:
    run = Run(store, Hangs("half"))
    run.await_events(2)
    run.clock.advance(61)
    run.runner.stop_late()
    run.runner.stop_all()
    assert run.ended().error_code == "DEADLINE_EXCEEDED"


def test_all_that_runs_is_stopped_for_a_shutdown(store: MemoryStore) -> None:
    backend = Hangs("half")
    runner = Runner(store, lambda _: backend)
    jobs = [submitted(store) for _ in range(5)]
    threads = [threading.Thread(target=runner.run, args=(job.id,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    eventually(lambda: all(len(log(store, job)) == 2 for job in jobs))
    runner.stop_all()
    for thread in threads:
        thread.join(WAIT_S)
    assert {store.get(job.id).error_code for job in jobs} == {"SHUTDOWN"}
    assert backend.closed == 5


def test_a_stop_of_what_does_not_run_here_is_ignored(store: MemoryStore) -> None:
    runner = Runner(store, lambda _: Says())
    job = submitted(store)
    runner.stop(job.id)
    runner.stop("unknown")
    runner.run(job.id)
    runner.stop(job.id)
    assert store.get(job.id).status is Status.COMPLETED


# Claims, and what follows


def test_what_cannot_be_claimed_is_not_run(store: MemoryStore) -> None:
    backend = Says()
    runner = Runner(store, lambda _: backend)
    job = submitted(store)
    store.cancel(job.id)
    assert runner.run(job.id) == ()
    assert runner.run("unknown") == ()
    assert backend.told == []


def test_a_run_tells_whose_turn_it_is_then(store: MemoryStore) -> None:
    first, second = (submitted(store, session_id="chat") for _ in range(2))
    runner = Runner(store, lambda _: Says())
    assert [job.id for job in runner.run(first.id)] == [second.id]
    assert list(runner.run(second.id)) == []


@pytest.mark.parametrize(
    "backend", [CutsTheStream(), Raises(ValueError("fault")), Raises(SystemExit())]
)
def test_the_turn_passes_on_however_a_run_ends(store: MemoryStore, backend: Route) -> None:
    first, second = (submitted(store, session_id="chat") for _ in range(2))
    assert [job.id for job in Runner(store, lambda _: backend).run(first.id)] == [second.id]


def test_a_request_given_twice_runs_once_and_can_still_be_stopped(store: MemoryStore) -> None:
    run = Run(store, Hangs())
    behind = submitted(store, session_id=run.job.request.session_id)
    run.await_events(1)
    assert run.runner.run(run.job.id) == ()
    store.cancel(run.job.id)
    run.runner.stop(run.job.id)
    assert run.ended().status is Status.CANCELLED
    assert [job.id for job in run.ready] == [behind.id]


def test_a_run_whose_request_was_ended_by_others_stops(store: MemoryStore) -> None:
    backend = IgnoresStops()
    run = Run(store, backend)
    backend.allow(1)
    run.await_events(2)
    store.finish(run.job.id, Failed("SHUTDOWN", "Bye."))
    backend.allow(1)
    job = run.ended()
    assert (job.status, job.error_code) == (Status.FAILED, "SHUTDOWN")


def test_an_answer_that_outgrows_the_memory_fails() -> None:
    store = MemoryStore(queue_limit=100, retention_s=3600, memory_limit=1024 * 1024)
    job = ran(store, Says(*["x" * 100_000] * 20))
    assert job.status is Status.FAILED
    assert job.error


def test_fifty_racing_stops_end_a_run_once(store: MemoryStore) -> None:
    run = Run(store, Steps())
    run.await_events(1)
    barrier = threading.Barrier(50)

    def stop(number: int) -> None:
        barrier.wait(WAIT_S)
        if number % 2:
            store.cancel(run.job.id)
        run.runner.stop(run.job.id)

    threads = [threading.Thread(target=stop, args=(n,), daemon=True) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert run.ended().status is Status.CANCELLED
    assert log(store, run.job) == [Started("steps"), Cancelled()]


def test_an_answer_that_can_not_be_kept_fails_and_its_session_goes_on(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise MemoryError

    job, following = (submitted(store, session_id="chat") for _ in range(2))
    runner = Runner(store, lambda _: Says("Hello"))
    with monkeypatch.context() as patched:
        patched.setattr(History, "with_turn", broken)
        ready = runner.run(job.id)
    assert (store.get(job.id).status, store.get(job.id).error_code) == (Status.FAILED, "INTERNAL")
    assert [other.id for other in ready] == [following.id]
    runner.run(following.id)
    assert store.get(following.id).status is Status.COMPLETED
    assert store.session("chat").active == ()
