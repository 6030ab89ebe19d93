"""Dramatiq as it is used here, over a real Redis: what of it is private is held to by these."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis as redis_client

from orchestrator.backends.echo import EchoBackend
from orchestrator.dispatch.base import PATIENCE_S
from orchestrator.dispatch.dramatiq import intake
from orchestrator.dispatch.dramatiq.broker import HEARTBEAT_TIMEOUT_MS, QUEUES, Broker
from orchestrator.dispatch.dramatiq.dispatcher import DramatiqDispatcher
from orchestrator.dispatch.dramatiq.duties import Duties
from orchestrator.dispatch.dramatiq.intake import IDLE_S, Intake
from orchestrator.errors import PipelineUnavailable
from orchestrator.ids import new_id
from orchestrator.job import Job, Priority, Status
from orchestrator.runner import Runner
from orchestrator.stores.base import SEEN_S, LeasedStore
from orchestrator.stores.redis.store import RedisStore
from tests import redis_server
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.backends import Steps
from tests.fakes.clock import Clock
from tests.redis_server import RedisServer
from tests.served import BUSY


class Workplace:
    """A worker of Dramatiq in this process, whose requests end when they are told to."""

    def __init__(self, url: str, threads: int, fails: bool) -> None:
        self.broker = Broker(url)
        self._fails = fails
        self.begun: list[str] = []
        self.done: list[str] = []
        self._release = threading.Semaphore(0)
        for queue in QUEUES:
            dramatiq.actor(actor_name=queue, queue_name=queue, broker=self.broker)(self._run)
        self.worker = dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=100)
        self.intake = Intake(self.broker, threads)

    def start(self) -> None:
        self.worker.start()
        self.intake.start()

    def end(self, count: int = 1) -> None:
        """Let so many requests end."""
        for _ in range(count):
            self._release.release()

    def stop(self) -> None:
        """End as a worker does on SIGTERM."""
        self.intake.stop()
        self.end(1000)
        self.worker.stop()
        self.broker.client.connection_pool.disconnect()

    def _run(self, job_id: str) -> None:
        self.begun.append(job_id)
        self._release.acquire()
        self.done.append(job_id)
        if self._fails:
            raise RuntimeError("a fault")


@pytest.fixture
def queues(redis: RedisServer) -> Iterator[redis_client.Redis]:
    """The database that messages wait in."""
    client = redis_client.Redis(port=redis.port, db=1)
    yield client
    client.close()


@pytest.fixture
def workplace(redis: RedisServer) -> Iterator[Callable[..., Workplace]]:
    """A function that makes a workplace with a number of threads, begun unless told otherwise."""
    places: list[Workplace] = []

    def make(threads: int = 1, begin: bool = True, fails: bool = False) -> Workplace:
        place = Workplace(redis.url.replace("/0", "/1"), threads, fails)
        if begin:
            place.start()
            places.append(place)
        return place

    yield make
    for place in places:
        place.stop()


def test_messages_are_run_once_and_then_gone(
    workplace: Callable[..., Workplace], queues: redis_client.Redis
) -> None:
    place = workplace(threads=4)
    sent = [f"job {number}" for number in range(20)]
    for number, job_id in enumerate(sent):
        place.broker.send(QUEUES[number % 4], job_id)
    place.end(20)
    eventually(lambda: len(place.done) == 20)
    assert sorted(place.done) == sorted(sent)
    eventually(lambda: place.broker.held == 0)
    assert [key for key in queues.keys("*") if b"msgs" in key or b"acks" in key] == []


def test_who_only_sends_is_never_taken_for_a_worker(
    redis: RedisServer, queues: redis_client.Redis
) -> None:
    """For one that has died all keys are looked through."""
    web = Broker(redis.url.replace("/0", "/1"))
    web.send("normal", "a")
    assert queues.zcard("dramatiq:__heartbeats__") == 0


def test_an_idle_worker_is_woken_by_what_is_sent(workplace: Callable[..., Workplace]) -> None:
    place = workplace()
    place.end(10)
    waits = []
    for number in range(5):
        # Not at the moment at which it looks by itself.
        time.sleep(0.3)
        began = time.monotonic()
        place.broker.send("normal", f"job {number}")
        eventually(lambda count=number: len(place.done) > count)  # type: ignore[misc]
        waits.append(time.monotonic() - began)
    assert sorted(waits)[2] < 0.05 * BUSY


def test_what_nobody_tells_of_is_found_within_a_second(
    workplace: Callable[..., Workplace], queues: redis_client.Redis
) -> None:
    place = workplace()
    place.end()
    eventually(lambda: queues.pubsub_numsub("o:wake")[0][1] == 1)
    other = Broker(place.broker._url)
    other.client.publish = lambda *told: None  # type: ignore[method-assign,assignment]
    began = time.monotonic()
    other.send("low", "job")
    eventually(lambda: place.done == ["job"])
    assert time.monotonic() - began < IDLE_S * BUSY


def test_a_busy_worker_holds_nothing_that_another_could_run(
    workplace: Callable[..., Workplace],
) -> None:
    first = workplace(threads=2)
    for number in range(5):
        first.broker.send("normal", f"job {number}")
    eventually(lambda: len(first.begun) == 2)
    assert first.broker.held == 2
    second = workplace(threads=8)
    eventually(lambda: len(second.begun) == 3)


def test_a_thread_that_is_free_takes_the_highest_priority(
    workplace: Callable[..., Workplace],
) -> None:
    place = workplace()
    place.broker.send("low", "first")
    eventually(lambda: place.begun == ["first"])
    for queue in ("low", "normal", "high"):
        place.broker.send(queue, queue)
    for count in range(2, 5):
        place.end()
        eventually(lambda count=count: len(place.begun) == count)  # type: ignore[misc]
    assert place.begun == ["first", "high", "normal", "low"]


def test_the_overdue_have_every_other_turn(workplace: Callable[..., Workplace]) -> None:
    place = workplace(begin=False)
    for number in range(4):
        place.broker.send("high", f"high {number}")
        place.broker.send("overdue", f"overdue {number}")
    place.end(8)
    place.start()
    try:
        eventually(lambda: len(place.done) == 8)
    finally:
        place.stop()
    kinds = [job_id.partition(" ")[0] for job_id in place.done]
    assert kinds == ["high", "overdue"] * 4 or kinds == ["overdue", "high"] * 4


def test_who_has_stepped_back_lets_others_come_first(
    workplace: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "STEP_BACK_S", WAIT_S)
    first = workplace(threads=8, begin=False)
    # Before it begins: one that is just taking would take what comes in that moment as well.
    assert first.intake.step_back()
    first.start()
    other = workplace(threads=8)
    try:
        for number in range(5):
            other.broker.send("normal", f"job {number}")
        eventually(lambda: len(first.begun + other.begun) == 5)
        assert first.begun == []
    finally:
        first.stop()


def test_a_worker_that_stops_takes_nothing_and_puts_back_what_it_has_not_begun(
    workplace: Callable[..., Workplace],
) -> None:
    place = workplace(begin=False)
    place.start()
    place.broker.send("normal", "begun")
    eventually(lambda: place.begun == ["begun"])
    place.intake.stop()
    consumer = place.broker.consumers["normal"]
    place.broker.send("normal", "never seen")
    # As if it had been taken at the last moment.
    place.broker.send("low", "taken")
    place.broker.consumers["low"].message_cache.extend(place.broker.fetch("low", 1))
    place.end(1000)
    place.worker.stop()
    assert place.done == ["begun"]
    assert consumer.message_cache == []
    assert place.broker.lengths() == {"high": 0, "normal": 1, "low": 1, "overdue": 0}


def test_what_a_dead_worker_had_is_taken_by_another(
    workplace: Callable[..., Workplace], queues: redis_client.Redis
) -> None:
    dead = workplace(begin=False)
    dead.broker.send("normal", "left behind")
    assert dead.broker.fetch("normal", 1)
    silent_since = (time.time() - HEARTBEAT_TIMEOUT_MS / 1000 - 1) * 1000
    queues.zadd("dramatiq:__heartbeats__", {dead.broker.broker_id: silent_since})
    place = workplace()
    eventually(lambda: place.begun == ["left behind"])


def test_a_worker_waits_for_redis_and_goes_on(
    workplace: Callable[..., Workplace], queues: redis_client.Redis
) -> None:
    place = workplace(threads=2)
    place.broker.send("normal", "before")
    eventually(lambda: place.begun == ["before"])
    # As a restart of Redis does: every connection is cut.
    queues.client_kill_filter(_type="normal", skipme=True)
    queues.client_kill_filter(_type="pubsub")
    place.end(2)
    eventually(lambda: _sent(place.broker, "after"))
    eventually(lambda: place.done == ["before", "after"])
    # The acknowledgement of the first may have to be sent again, which takes five seconds.
    eventually(lambda: place.broker.held == 0, 20)


@pytest.mark.parametrize("fails", [False, True])
def test_a_full_redis_keeps_no_message_of_what_was_run(
    fails: bool,
    redis: RedisServer,
    queues: redis_client.Redis,
    workplace: Callable[..., Workplace],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = workplace(fails=fails)
    place.broker.send("normal", "a")
    eventually(lambda: place.begun == ["a"])
    redis.client.config_set("maxmemory", 1)
    try:
        place.end()
        eventually(lambda: place.done == ["a"])
        # Long enough for it to find out several times.
        time.sleep(2.5 * IDLE_S)
        told = [line for line in caplog.messages if "no requests can be taken" in line]
        assert len(told) == 1
        assert queues.hlen("dramatiq:normal.msgs") == 1
    finally:
        redis.client.config_set("maxmemory", 0)
    eventually(lambda: queues.hlen("dramatiq:normal.msgs") == 0)
    place.broker.send("normal", "b")
    eventually(lambda: place.begun == ["a", "b"])


def test_a_fault_in_taking_does_not_end_it(
    workplace: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workplace()
    lengths, faults = place.broker.lengths, iter([ValueError("a fault")])

    def faulty() -> object:
        for fault in faults:
            raise fault
        return lengths()

    monkeypatch.setattr(place.broker, "lengths", faulty)
    place.end()
    place.broker.send("normal", "a job")
    eventually(lambda: place.done == ["a job"])
    assert list(faults) == []


def test_what_answers_in_a_worker_is_closed_once_nothing_runs_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator")
    with redis_server.running(tmp_path) as own:
        # Its own: what serves for the life of a process goes on after this.
        _see_the_end_of_a_worker(own, lambda: "Draining" in caplog.text)


def _see_the_end_of_a_worker(redis: RedisServer, is_leaving: Callable[[], bool]) -> None:
    store = RedisStore(redis.url, queue_limit=10, retention_s=60.0)
    backend, broker = Steps(), Broker(redis.url.replace("/0", "/1"))
    runner = Runner(store, lambda model: backend)
    sender = DramatiqDispatcher(broker, store, runner)
    running: list[int] = []
    duties = Duties(
        runner,
        store,
        sender,
        helpers=[],
        close=lambda: running.append(backend.running),
        models=["default"],
        most_at_once=None,
        renew_s=5.0,
        graceful_s=WAIT_S,
    )
    duties.declare(broker)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    job = Job(id=new_id(), request=a_request("hello"), created_at=time.time())
    store.submit(job)
    sender.put(job)
    eventually(lambda: backend.running == 1)
    stop = threading.Thread(target=worker.stop, daemon=True)
    stop.start()
    eventually(is_leaving)
    assert running == []
    backend.let_go("hello")
    stop.join(WAIT_S)
    assert running == [0]
    assert store.get(job.id).status is Status.COMPLETED


def _sent(broker: Broker, job_id: str) -> bool:
    try:
        broker.send("normal", job_id)
    except redis_client.RedisError:
        return False
    return True


# The dispatcher


class Sent:
    """What a dispatcher tells its store, which can't be reached for more than that."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.passed_on: list[str] = []
        self.models: frozenset[str] = frozenset()

    def served(self) -> frozenset[str]:
        return self.models

    def claim(self, job_id: str, backend: str) -> None:
        raise PipelineUnavailable("Redis can't be reached.")

    def sent(self, job_id: str) -> None:
        self.ids.append(job_id)

    def pass_on(self, job_id: str) -> None:
        self.passed_on.append(job_id)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody asked for {name}")


def a_job(priority: Priority, age: float = 0.0) -> Job:
    request = a_request(priority=priority)
    return Job(id=f"{priority} {age}", request=request, created_at=time.time() - age)


def dispatcher(url: str) -> tuple[DramatiqDispatcher, Broker, Sent]:
    broker, store = Broker(url), Sent()
    leased: LeasedStore = store  # type: ignore[assignment]
    runner = Runner(leased, lambda model: EchoBackend())
    return DramatiqDispatcher(broker, leased, runner), broker, store


def test_requests_are_sent_by_priority_and_by_how_long_they_have_waited(
    redis: RedisServer,
) -> None:
    sender, broker, store = dispatcher(redis.url)
    for priority in Priority:
        sender.put(a_job(priority))
    sender.put(a_job(Priority.LOW, age=PATIENCE_S + 1))
    assert broker.lengths() == {"high": 1, "normal": 1, "low": 1, "overdue": 1}
    assert store.ids == ["high 0.0", "normal 0.0", "low 0.0", f"low {PATIENCE_S + 1}"]


def test_without_a_worker_nothing_is_taken(redis: RedisServer) -> None:
    sender, _, store = dispatcher(redis.url)
    with pytest.raises(PipelineUnavailable, match="Start a worker"):
        sender.check()
    store.models = frozenset({"big"})
    sender.check()
    sender.check("big")
    with pytest.raises(PipelineUnavailable, match="No worker that has the model small"):
        sender.check("small")


def test_a_worker_is_seen_by_all_for_a_while(
    redis: RedisServer, redis_store: Callable[..., RedisStore]
) -> None:
    clock = Clock()
    worker, another, web = (redis_store(clock=clock) for _ in range(3))
    assert not web.served()
    worker.show_worker(["big", "small"])
    another.show_worker(["small", "tiny"])
    assert web.served() == {"big", "small", "tiny"}
    clock.advance(SEEN_S - 1)
    another.show_worker(["small"])
    clock.advance(2)
    assert web.served() == {"small"}
    assert 25_000 < redis.client.pttl("o:workers") <= 30_000  # type: ignore[operator]


def test_without_redis_a_request_is_left_to_be_sent_again() -> None:
    sender, _, store = dispatcher("redis://127.0.0.1:1/1")
    began = time.monotonic()
    sender.put(a_job(Priority.NORMAL))
    sender.run("an id", EchoBackend())
    assert store.passed_on == store.ids == ["normal 0.0"]
    assert time.monotonic() - began < 1 * BUSY


def test_a_database_that_is_not_there_is_named(redis: RedisServer) -> None:
    sender, _, _ = dispatcher(redis.url.replace("/0", "/16"))
    with pytest.raises(PipelineUnavailable, match="ORCHESTRATOR_QUEUE_REDIS_URL"):
        sender.check()
