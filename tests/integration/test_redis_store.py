"""What several processes owe each other: leases, fences, and hands over to the dispatcher.

Each store here stands for a process; those that have to be one are.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.backends.base import Finish
from orchestrator.errors import (
    ConfigError,
    IdempotencyKeyReused,
    OrchestratorError,
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
    Token,
)
from orchestrator.job import GenerateRequest, Job, OnBusy, Priority, Status
from orchestrator.routing.base import Attempt
from orchestrator.runner import Runner
from orchestrator.stop import StopSignal
from orchestrator.stores.base import Idempotency
from orchestrator.stores.redis.advice import check
from orchestrator.stores.redis.scripts import INTERRUPT_STEP, PASS_ON_S, SEND_AGAIN_S, SEND_S
from orchestrator.stores.redis.store import Leases, RedisStore
from tests import redis_server
from tests.fakes.asking import WAIT_S, eventually
from tests.fakes.backends import BeginsAnew, Steps
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job, position
from tests.redis_server import RedisServer
from tests.served import free_port

MakeStore = Callable[..., RedisStore]

ROOT = Path(__file__).resolve().parents[2]
DONE = Completed(FinishReason.STOP)
LEASES = Leases(lease_s=15, grace_s=0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(redis_store: MakeStore, clock: Clock) -> Callable[[], RedisStore]:
    """What makes a store whose time is the test's."""
    return lambda: redis_store(clock=clock, leases=LEASES)


@pytest.fixture
def web(make: MakeStore) -> RedisStore:
    return make()


@pytest.fixture
def worker(make: MakeStore) -> RedisStore:
    return make()


@pytest.fixture
def other(make: MakeStore) -> RedisStore:
    """Another worker."""
    return make()


def submitted(store: RedisStore, **fields: object) -> Job:
    job = a_job(**fields)
    store.submit(job)
    return job


def claimed(store: RedisStore, job: Job) -> Job:
    claim = store.claim(job.id, "echo")
    assert claim
    return claim[0]


def log(store: RedisStore, job: Job) -> list[Event]:
    page = store.read(job.id, after=-1, limit=100_000)
    assert [seq for seq, _ in page.events] == list(range(len(page.events)))
    return [event for _, event in page.events]


def say(store: RedisStore, job: Job, *texts: str) -> None:
    for chunk, text in enumerate(texts):
        assert store.append(job.id, Token(chunk, text), job.run)
    assert store.get(job.id)


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


# Leases


def test_a_lease_that_ran_out_gives_the_request_to_another(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    job = submitted(web)
    first = claimed(worker, job)
    say(worker, first, "half ", "an answer")
    clock.advance(14.9)
    assert web.sweep() == []
    clock.advance(0.2)
    (change,) = web.sweep()
    assert change.changed
    assert ids(change.ready) == [job.id]
    assert (change.job.status, change.job.run) == (Status.PENDING, 2)
    second = claimed(other, job)
    assert (second.run, second.attempts, second.started_at) == (2, 2, first.started_at)
    say(other, second, "whole")
    assert other.finish(job.id, DONE, second.run).changed
    assert log(web, job) == [
        Started("echo"),
        Token(0, "half "),
        Token(1, "an answer"),
        Restarted(2, "echo"),
        Token(0, "whole"),
        DONE,
    ]
    assert (web.get(job.id).result, web.get(job.id).attempts) == ("whole", 2)


def test_a_run_that_said_nothing_leaves_no_trace_in_the_log(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    job = submitted(web)
    claimed(worker, job)
    clock.advance(16)
    web.sweep()
    second = claimed(other, job)
    say(other, second, "whole")
    other.finish(job.id, DONE, second.run)
    assert log(web, job) == [Started("echo"), Token(0, "whole"), DONE]
    assert web.get(job.id).attempts == 2


def test_a_lease_is_kept_by_renewing_it(web: RedisStore, worker: RedisStore, clock: Clock) -> None:
    jobs = [claimed(worker, submitted(web)) for _ in range(3)]
    for _ in range(10):
        clock.advance(14)
        assert worker.renew() == ()
        assert web.sweep() == []
    assert {web.get(job.id).run for job in jobs} == {1}


def test_a_renewal_that_comes_late_is_in_time_while_nobody_looked(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    claimed(worker, submitted(web))
    clock.advance(60)
    assert worker.renew() == ()
    assert web.sweep() == []


def test_a_worker_learns_which_of_its_requests_it_has_to_stop(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    lost, cancelled, kept = (claimed(worker, submitted(web)) for _ in range(3))
    clock.advance(16)
    web.sweep()
    claimed(other, lost)
    for job in (cancelled, kept):
        again = claimed(worker, job)
        assert again.run == 2
    web.cancel(cancelled.id)
    assert set(worker.renew()) == {
        (lost.id, 1),
        (cancelled.id, 1),
        (kept.id, 1),
        (cancelled.id, 2),
    }


def test_a_request_lost_three_times_fails(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    job = submitted(web, session_id="chat")
    behind = submitted(web, session_id="chat")
    for run in (1, 2, 3):
        assert claimed(worker, job).run == run
        clock.advance(16)
        (change,) = web.sweep()
    assert ids(change.ready) == [behind.id]
    after = web.get(job.id)
    assert (after.status, after.error_code, after.attempts) == (Status.FAILED, "WORKER_LOST", 3)
    assert log(web, job)[-1] == Failed("WORKER_LOST", after.error or "")
    assert web.sweep() == []


def test_a_lost_request_that_was_asked_to_stop_is_cancelled(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    job = claimed(worker, submitted(web))
    say(worker, job, "half")
    web.cancel(job.id)
    clock.advance(16)
    web.sweep()
    assert (web.get(job.id).status, web.get(job.id).result) == (Status.CANCELLED, "half")


def test_a_lost_request_waits_at_its_old_place_and_for_a_whole_queue_timeout(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    first = submitted(web, queue_timeout_s=30)
    claimed(worker, first)
    later = [submitted(web, queue_timeout_s=300) for _ in range(2)]
    clock.advance(29)
    web.sweep()
    assert [position(web, job) for job in (first, *later)] == [0, 1, 2]
    clock.advance(29)
    assert [change for change in web.sweep() if change.changed] == []
    clock.advance(2)
    (change,) = [change for change in web.sweep() if change.changed]
    assert (change.job.id, change.job.error_code) == (first.id, "DEADLINE_EXCEEDED")


def test_leases_are_taken_for_run_out_only_once_redis_was_there_for_a_while(
    redis_store: MakeStore, clock: Clock
) -> None:
    worker = redis_store(clock=clock)
    web = redis_store(clock=clock, leases=Leases(grace_s=0.2))
    job = claimed(worker, submitted(web))
    clock.advance(60)
    assert web.sweep() == []
    eventually(lambda: web.sweep() or web.get(job.id).run == 2)


# Fences


def test_a_run_that_lost_its_request_can_write_nothing(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    job = submitted(web)
    first = claimed(worker, job)
    say(worker, first, "mine")
    clock.advance(16)
    web.sweep()
    pending, events = web.get(job.id), log(web, job)

    def act_as_a_zombie() -> None:
        worker.append(job.id, Token(1, "from the grave"), first.run)
        worker.append(job.id, Restarted(5), first.run)
        worker.attempt(job.id, 6, "nobody", first.run)
        # Whether or not it was told by now, nothing of it counts.
        assert not worker.finish(job.id, DONE, first.run).changed

    act_as_a_zombie()
    assert (web.get(job.id), log(web, job)) == (pending, events)
    second = claimed(other, job)
    running, events = web.get(job.id), log(web, job)
    assert not worker.append(job.id, Token(1, "late"), first.run)
    assert not worker.finish(job.id, DONE, first.run).changed
    assert not web.finish(job.id, DONE, first.run).changed
    assert (web.get(job.id), log(web, job)) == (running, events)
    say(other, second, "whole")
    assert other.finish(job.id, DONE, second.run).changed
    assert web.get(job.id).result == "whole"


def test_two_runs_of_a_request_in_one_process_are_kept_apart(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    job = submitted(web)
    first = claimed(worker, job)
    say(worker, first, "old")
    clock.advance(16)
    web.sweep()
    second = claimed(worker, job)
    say(worker, second, "new")
    worker.append(job.id, Token(1, "older"), first.run)
    assert not worker.finish(job.id, Cancelled(), first.run).changed
    say(worker, second, "er")
    assert worker.finish(job.id, DONE, second.run).changed
    assert web.get(job.id).result == "newer"


def test_attempts_are_counted_over_all_runs(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    job = submitted(web)
    say(worker, claimed(worker, job), "half")
    clock.advance(16)
    web.sweep()
    done = Finish(FinishReason.STOP)
    route = BeginsAnew(Attempt(1, "one"), "quarter", Attempt(2, "two"), "whole", done)
    Runner(other, lambda _: route).run(job.id)
    after = web.get(job.id)
    assert (after.status, after.result, after.backend) == (Status.COMPLETED, "whole", "two")
    assert after.attempts == 3
    assert log(web, job)[1:-1] == [
        Token(0, "half"),
        Restarted(2, "first"),
        Token(0, "quarter"),
        Restarted(3, "two"),
        Token(0, "whole"),
    ]


@pytest.mark.parametrize(("waited", "is_late"), [(3.0, False), (4.1, True)])
def test_all_runs_of_a_request_have_one_time_limit(
    waited: float, is_late: bool, web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    job = submitted(web, timeout_s=10.0)
    first = claimed(worker, job)
    clock.advance(6)
    assert worker.give_back(job.id, first.run).ready
    clock.advance(waited)
    asked: list[float] = []

    class Told:
        name = "told"

        def stream(
            self, request: GenerateRequest, messages: object, stop: StopSignal
        ) -> Iterator[Finish]:
            asked.append(request.timeout_s)
            yield Finish(FinishReason.STOP)

    Runner(worker, lambda model: Told()).run(job.id)  # type: ignore[arg-type, return-value]
    end = web.get(job.id)
    if is_late:
        assert (end.error_code, end.error_stage) == ("DEADLINE_EXCEEDED", "run")
        assert asked == []
    else:
        assert end.status is Status.COMPLETED
        assert asked == [pytest.approx(1.0, abs=0.5)]


def test_a_run_that_lost_its_request_ends_and_leaves_the_next_one_alone(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    """Both runs in one process, which was only slow, and is given its own request again."""
    job = submitted(web)
    steps = Steps()
    runner = Runner(worker, lambda _: steps)

    def run() -> threading.Thread:
        thread = threading.Thread(target=runner.run, args=(job.id,), daemon=True)
        thread.start()
        return thread

    first = run()
    eventually(lambda: steps.running == 1)
    clock.advance(16)
    web.sweep()
    second = run()
    eventually(lambda: steps.running == 2)
    for job_id, number in worker.renew():
        assert number == 1
        runner.stop(job_id, number=number)
    first.join(WAIT_S)
    assert not first.is_alive()
    assert web.get(job.id).status is Status.PROCESSING
    steps.let_all_go()
    second.join(WAIT_S)
    assert (web.get(job.id).status, web.get(job.id).run) == (Status.COMPLETED, 2)


# Giving back


def test_a_request_given_back_runs_elsewhere_and_was_not_lost(
    web: RedisStore, worker: RedisStore, other: RedisStore
) -> None:
    job = submitted(web)
    for run in range(1, 6):
        mine = claimed(worker, job)
        say(worker, mine, "half")
        change = worker.give_back(job.id, mine.run)
        assert change.changed
        assert ids(change.ready) == [job.id]
        assert not worker.append(job.id, Token(1, "more"), mine.run)
        assert not worker.finish(job.id, DONE, mine.run).changed
        assert (web.get(job.id).status, mine.run) == (Status.PENDING, run)
    last = claimed(other, job)
    say(other, last, "whole")
    assert other.finish(job.id, DONE, last.run).changed
    assert web.get(job.id).result == "whole"


def test_a_request_given_back_after_it_was_asked_to_stop_is_cancelled(
    web: RedisStore, worker: RedisStore
) -> None:
    job = claimed(worker, submitted(web, session_id="chat"))
    behind = submitted(web, session_id="chat")
    web.cancel(job.id)
    assert ids(worker.give_back(job.id, job.run).ready) == [behind.id]
    assert web.get(job.id).status is Status.CANCELLED


def test_what_another_runs_or_is_over_is_not_given_back(
    web: RedisStore, worker: RedisStore, other: RedisStore, clock: Clock
) -> None:
    job = claimed(worker, submitted(web))
    clock.advance(16)
    web.sweep()
    second = claimed(other, job)
    assert not worker.give_back(job.id, job.run).changed
    assert web.get(job.id).status is Status.PROCESSING
    other.finish(job.id, DONE, second.run)
    assert not other.give_back(job.id, second.run).changed


def test_only_what_was_claimed_here_would_end_with_the_process(
    web: RedisStore, worker: RedisStore
) -> None:
    submitted(web)
    job = claimed(worker, submitted(web))
    assert (ids(web.live()), ids(worker.live())) == ([], [job.id])
    worker.finish(job.id, DONE, job.run)
    assert worker.live() == []


# To the dispatcher and back


def test_what_nobody_handed_on_is_handed_on_by_a_sweep(web: RedisStore, clock: Clock) -> None:
    job = submitted(web)
    assert web.sweep() == []
    clock.advance(SEND_S)
    (change,) = web.sweep()
    assert (change.changed, ids(change.ready)) == (False, [job.id])
    assert web.sweep() == []
    clock.advance(SEND_S)
    assert ids(web.sweep()[0].ready) == [job.id]


def test_what_was_handed_on_is_handed_on_again_ever_more_rarely(
    web: RedisStore, clock: Clock
) -> None:
    job = submitted(web, queue_timeout_s=100 * SEND_AGAIN_S)
    for pause in (SEND_AGAIN_S, SEND_AGAIN_S, 2 * SEND_AGAIN_S, 4 * SEND_AGAIN_S):
        web.sent(job.id)
        clock.advance(pause - 1)
        assert web.sweep() == []
        clock.advance(1)
        assert ids(web.sweep()[0].ready) == [job.id]


def test_how_long_it_waits_is_counted_from_when_its_turn_came(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    job = submitted(web, session_id="chat", timeout_s=3600.0)
    behind = submitted(web, session_id="chat", queue_timeout_s=3600.0)
    mine = claimed(worker, job)
    for _ in range(60):
        clock.advance(10)
        worker.renew()
    assert worker.give_back(mine.id, mine.run).changed
    web.sent(job.id)
    clock.advance(SEND_AGAIN_S)
    assert ids(web.sweep()[0].ready) == [job.id]
    worker.finish(job.id, DONE, claimed(worker, job).run)
    web.sent(behind.id)
    clock.advance(SEND_AGAIN_S)
    assert ids(web.sweep()[0].ready) == [behind.id]


def test_what_can_not_run_where_it_was_handed_to_is_handed_on_soon_and_ever_more_rarely(
    web: RedisStore, clock: Clock
) -> None:
    job = submitted(web, queue_timeout_s=3600.0)
    web.sent(job.id)
    for pause in (PASS_ON_S, PASS_ON_S, PASS_ON_S, PASS_ON_S, 2, 2.5):
        web.pass_on(job.id)
        clock.advance(pause - 0.1)
        assert web.sweep() == []
        clock.advance(0.1)
        assert ids(web.sweep()[0].ready) == [job.id]


def test_what_runs_or_waits_for_its_session_is_not_handed_on(
    web: RedisStore, worker: RedisStore, clock: Clock
) -> None:
    running = claimed(worker, submitted(web, session_id="chat"))
    behind = submitted(web, session_id="chat")
    web.sent(running.id)
    web.sent(behind.id)
    clock.advance(SEND_S)
    worker.renew()
    assert web.sweep() == []
    assert ids(worker.finish(running.id, DONE).ready) == [behind.id]
    clock.advance(SEND_S)
    assert ids(web.sweep()[0].ready) == [behind.id]


def test_a_request_is_not_claimed_before_its_turn(web: RedisStore, worker: RedisStore) -> None:
    first, second = (submitted(web, session_id="chat") for _ in range(2))
    assert worker.claim(second.id, "echo") is None
    worker.finish(claimed(worker, first).id, DONE)
    assert claimed(worker, second)


def test_a_place_in_the_queue_counts_all_of_higher_priority(
    web: RedisStore, worker: RedisStore
) -> None:
    low, normal, high = (
        [submitted(web, priority=priority) for _ in range(2)]
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH)
    )
    jobs = [*high, *normal, *low]
    assert [position(worker, job) for job in jobs] == [0, 1, 2, 3, 4, 5]
    claimed(worker, high[0])
    web.cancel(normal[0].id)
    assert [position(web, job) for job in (high[1], normal[1], *low)] == [0, 1, 2, 3]
    assert position(web, high[0]) == 0


def test_a_sweep_takes_on_more_than_fits_in_one_step(web: RedisStore, clock: Clock) -> None:
    jobs = [submitted(web, queue_timeout_s=10) for _ in range(250)]
    clock.advance(11)
    changes = web.sweep()
    assert sorted(change.job.id for change in changes) == sorted(ids(jobs))
    clock.advance(3601)
    web.sweep()
    assert web.jobs(None, None, 10, None, tenant="").items == []


# Across processes


def test_a_cancel_reaches_the_worker_at_once(web: RedisStore, worker: RedisStore) -> None:
    told: list[str] = []
    worker.on_stop(told.append)
    job = claimed(worker, submitted(web))
    waiting = submitted(web)
    web.cancel(waiting.id)
    web.cancel(job.id)
    eventually(lambda: told == [job.id])
    assert not worker.append(job.id, Token(0, "x"), job.run)


def test_an_interrupt_reaches_the_worker_at_once(web: RedisStore, worker: RedisStore) -> None:
    told: list[str] = []
    worker.on_stop(told.append)
    job = claimed(worker, submitted(web, session_id="chat"))
    submitted(web, session_id="chat", on_busy=OnBusy.INTERRUPT)
    eventually(lambda: told == [job.id])


@pytest.mark.parametrize("waits", [OnBusy.ENQUEUE, OnBusy.PARALLEL])
def test_an_interrupt_of_thousands_keeps_redis_from_nothing_else(
    waits: OnBusy, redis: RedisServer, redis_store: MakeStore
) -> None:
    web = redis_store(queue_limit=10_000)
    jobs = [submitted(web, session_id="chat", on_busy=waits) for _ in range(3_000)]
    redis.client.config_resetstat()
    last = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    submission = web.submit(last)
    # Of one call, Redis would do nothing else for as long as it takes to stop them all.
    calls = int(redis.client.info("commandstats")["cmdstat_evalsha"]["calls"])
    assert calls > len(jobs) / INTERRUPT_STEP - 1
    assert set(submission.interrupted) == {job.id for job in jobs}
    assert web.session("chat").active == (last.id,)
    assert web.get(jobs[-1].id).status is Status.CANCELLED


def test_a_refused_interrupt_of_thousands_stops_nobody(redis_store: MakeStore) -> None:
    web = redis_store()
    jobs = [submitted(web, session_id="chat") for _ in range(300)]
    web.submit(a_job(), Idempotency("key", b"one"))
    last = a_job(session_id="chat", on_busy=OnBusy.INTERRUPT)
    with pytest.raises(IdempotencyKeyReused):
        web.submit(last, Idempotency("key", b"other"))
    assert len(web.session("chat").active) == len(jobs)


def test_a_request_that_redis_dropped_keeps_its_session_from_nobody(
    web: RedisStore, worker: RedisStore, redis: RedisServer, clock: Clock
) -> None:
    dropped, waiting = (submitted(web, session_id="chat") for _ in range(2))
    redis.client.delete(f"o:job:{dropped.id}")
    with pytest.raises(SessionBusy) as caught:
        web.submit(a_job(session_id="chat", on_busy=OnBusy.REJECT))
    assert caught.value.details["request_id"] == waiting.id
    clock.advance(SEND_S + 0.1)
    assert ids([job for change in web.sweep() for job in change.ready]) == [waiting.id]
    assert claimed(worker, waiting)


def test_a_session_is_one_conversation_wherever_its_requests_run(
    make: MakeStore, clock: Clock
) -> None:
    stores = [make() for _ in range(3)]
    jobs = [
        submitted(stores[number % 3], session_id="chat", prompt=f"question {number}")
        for number in range(9)
    ]
    for number, job in enumerate(jobs):
        store = stores[(number + 1) % 3]
        claim = store.claim(job.id, "echo")
        assert claim
        assert len(claim[1].messages) == 2 * number
        say(store, claim[0], f"answer {number}")
        store.finish(job.id, DONE, claim[0].run)
    told = [message.content for message in stores[0].session("chat").history.messages]
    assert told == [text for n in range(9) for text in (f"question {n}", f"answer {n}")]


def test_an_idempotency_key_counts_everywhere(web: RedisStore, other: RedisStore) -> None:
    job = a_job()
    web.submit(job, Idempotency("key", b"body"))
    assert other.submit(a_job(), Idempotency("key", b"body")).request_id == job.id


RACER = """
import sys
from orchestrator.stores.redis.store import RedisStore
store = RedisStore(sys.argv[1], queue_limit=1000, retention_s=3600)
print("ready", flush=True)
sys.stdin.readline()
print(*[job_id for job_id in sys.argv[2:] if store.claim(job_id, "racer")])
"""


def test_of_processes_that_race_for_claims_each_request_has_one(
    web: RedisStore, redis: RedisServer
) -> None:
    jobs = [submitted(web) for _ in range(200)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, redis.url, *ids(jobs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    claims = [racer.communicate(timeout=60)[0].split() for racer in racers]
    assert sorted(job_id for part in claims for job_id in part) == sorted(ids(jobs))


# How Redis is set up

SOUND = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, []),
        ({"redis_version": "8.2.1"}, []),
        ({"maxmemory_policy": "allkeys-lru"}, ["Set noeviction."]),
        ({"aof_enabled": 0}, ["Set appendonly yes."]),
    ],
)
def test_what_is_unwise_is_said(found: dict[str, object], said: list[str]) -> None:
    advice = check(SOUND | found)
    assert len(advice) == len(said)
    assert all(sentence.endswith(end) for sentence, end in zip(advice, said, strict=True))


@pytest.mark.parametrize(
    "found",
    [
        {"redis_version": "6.2.14"},
        {"role": "slave"},
        {"redis_mode": "cluster"},
        {"cluster_enabled": 1},
    ],
)
def test_a_redis_that_cannot_be_used_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"Use 7.0|Name its primary|Name a single"):
        check(SOUND | found)


def test_a_node_of_a_cluster_is_refused(tmp_path: Path, redis_store: MakeStore) -> None:
    # Its second port is the first plus 10,000 otherwise, which may be past the last.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with (
        redis_server.running(tmp_path, *options) as node,
        pytest.raises(ConfigError, match="Name a single primary"),
    ):
        redis_store(node.url).check()


def test_when_a_message_counts_as_lost_is_by_the_time_of_redis(
    web: RedisStore, clock: Clock
) -> None:
    job = a_job(clock=lambda: clock() - 3600)
    web.submit(job)
    web.sent(job.id)
    clock.advance(SEND_AGAIN_S + 0.1)
    assert ids([job for change in web.sweep() for job in change.ready]) == [job.id]


def test_the_redis_of_the_tests_writes_no_file_and_is_told_so(web: RedisStore) -> None:
    assert [sentence[-19:] for sentence in web.check()] == ["Set appendonly yes."]


# What is kept in Redis


def test_without_a_clock_of_ours_redis_tells_the_time(redis_store: MakeStore) -> None:
    store = redis_store()
    job = claimed(store, submitted(store))
    say(store, job, "a")
    store.finish(job.id, DONE)
    after = store.get(job.id)
    assert after.started_at
    assert after.first_token_at
    assert after.completed_at
    assert after.created_at <= after.started_at <= after.first_token_at <= after.completed_at
    assert after.completed_at - after.created_at < WAIT_S


def test_what_has_ended_leaves_redis_by_itself_and_what_lives_does_not(
    redis_store: MakeStore, redis: RedisServer
) -> None:
    store = redis_store(retention_s=0.2)
    living = claimed(store, submitted(store))
    say(store, living, "a")
    over = claimed(store, submitted(store))
    say(store, over, "a")
    store.finish(over.id, DONE)
    eventually(lambda: not redis.client.keys(f"*{over.id}*"))
    eventually(lambda: not redis.client.keys(f"*{over.request.session_id}*"))
    assert store.get(living.id).status is Status.PROCESSING
    assert [redis.client.pttl(key) for key in redis.client.keys(f"*{living.id}*")] == [-1] * 3


def test_nothing_is_left_behind_once_all_is_forgotten(
    make: MakeStore, redis: RedisServer, clock: Clock
) -> None:
    store = make()
    for number in range(5):
        job = claimed(store, submitted(store, session_id=f"chat-{number % 2}"))
        say(store, job, "half")
        if number % 2:
            store.give_back(job.id, job.run)
            job = claimed(store, job)
        store.finish(job.id, DONE, job.run)
    store.cancel(submitted(store).id)
    parallel = [submitted(store, session_id="p", on_busy=OnBusy.PARALLEL) for _ in range(3)]
    for job in parallel:
        store.cancel(claimed(store, job).id)
        store.finish(job.id, DONE)
    clock.advance(3601)
    store.sweep()
    assert redis.client.keys("*") == [b"o:count"]


def test_what_another_version_wrote_is_refused_and_says_so(
    web: RedisStore, redis: RedisServer
) -> None:
    job = submitted(web, session_id="chat")
    redis.client.hset(f"o:job:{job.id}", "v", "2")
    redis.client.hset("o:session:chat", "v", "2")
    for ask in (lambda: web.get(job.id), lambda: web.session("chat")):
        with pytest.raises(OrchestratorError, match="form 2, and this version reads form 1"):
            ask()


def test_what_redis_dropped_or_another_version_wrote_keeps_no_sweep_from_the_rest(
    web: RedisStore, worker: RedisStore, redis: RedisServer, clock: Clock
) -> None:
    dropped = [submitted(web, queue_timeout_s=1), claimed(worker, submitted(web)), submitted(web)]
    foreign = submitted(web, queue_timeout_s=1)
    foreign_lost = claimed(worker, submitted(web))
    late = submitted(web, queue_timeout_s=1)
    redis.client.delete(*(f"o:job:{job.id}" for job in dropped))
    for job in (foreign, foreign_lost):
        redis.client.hset(f"o:job:{job.id}", "v", "2")
    clock.advance(LEASES.lease_s + 1)
    web.sweep()
    assert web.get(late.id).status is Status.FAILED
    queues = [key for key in redis.client.keys("*") if redis.client.type(key) == b"zset"]
    left = {job_id for key in queues for job_id in redis.client.zrange(key, 0, -1)}
    assert not left & {job.id.encode() for job in dropped}
    assert foreign.id.encode() in left
