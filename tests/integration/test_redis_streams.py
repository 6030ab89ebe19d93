"""Readers of logs in Redis: many of them, exact to the word, whatever becomes of subscriptions."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from orchestrator.dispatch.pool import Pool
from orchestrator.errors import NotFound
from orchestrator.events import Completed, Event, FinishReason, Restarted, Started, Token
from orchestrator.job import Job, Status
from orchestrator.runner import Runner
from orchestrator.service import START, Model, Service
from orchestrator.stores.redis.store import RedisStore
from tests import redis_server
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.backends import Steps
from tests.fakes.jobs import a_job
from tests.fakes.nobody import Nobodys
from tests.redis_server import RedisServer

MakeStore = Callable[..., RedisStore]

DONE = Completed(FinishReason.STOP)
LONG_S = 60.0


@pytest.fixture
def web(redis_store: MakeStore) -> RedisStore:
    return redis_store()


@pytest.fixture
def worker(redis_store: MakeStore) -> RedisStore:
    return redis_store()


def claimed(web: RedisStore, worker: RedisStore, **fields: object) -> Job:
    job = a_job(**fields)
    web.submit(job)
    claim = worker.claim(job.id, "echo")
    assert claim
    return claim[0]


def follow(store: RedisStore, job: Job, after: int = START) -> Iterator[tuple[int, Event]]:
    """Give events as they come, up to the end."""
    while True:
        page = store.read(job.id, after, 100, timeout=WAIT_S)
        for seq, event in page.events:
            assert seq == after + 1
            after = seq
            yield seq, event
        if page.complete:
            return


def subscriptions(redis: RedisServer) -> list[bytes]:
    found: list[bytes] = redis.client.pubsub_channels("*")
    return found


def kill_subscriptions(redis: RedisServer) -> None:
    redis.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


class Waiting(threading.Thread):
    """A call under way."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: object = None
        self.took = 0.0
        self.start()

    def run(self) -> None:
        began = time.monotonic()
        self.result = self._call()
        self.took = time.monotonic() - began

    def end(self, within_s: float = WAIT_S) -> object:
        """Return what the call returned."""
        self.join(within_s)
        assert not self.is_alive(), "the call hangs"
        return self.result


def test_a_hundred_readers_that_come_and_go_are_told_every_word_once(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    jobs = [claimed(web, worker) for _ in range(20)]
    words = [f"{number} " for number in range(150)]
    told: list[tuple[Job, list[Event]]] = []

    def write(job: Job) -> None:
        chance = random.Random(job.id)
        for chunk, word in enumerate(words):
            assert worker.append(job.id, Token(chunk, word))
            time.sleep(chance.uniform(0, 0.02))
        assert worker.finish(job.id, DONE).changed

    def read(number: int) -> None:
        chance = random.Random(number)
        job = jobs[number % 20]
        events: list[Event] = []
        while not events or events[-1] != DONE:
            stay = chance.randint(5, 60)
            for seq, event in follow(web, job, len(events) - 1):
                assert seq == len(events)
                events.append(event)
                if len(events) % stay == 0:
                    break
            time.sleep(chance.uniform(0, 0.3))
        told.append((job, events))

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(100)]
    threads += [threading.Thread(target=write, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for _ in range(2):
        eventually(lambda: len(subscriptions(redis)) > 10)
        kill_subscriptions(redis)
        time.sleep(0.2)
    for thread in threads:
        thread.join(LONG_S)
    assert len(told) == 100
    whole = [Started("echo"), *(Token(chunk, word) for chunk, word in enumerate(words)), DONE]
    assert all(events == whole for _, events in told)


def test_all_readers_of_a_process_share_one_connection(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    jobs = [claimed(web, worker) for _ in range(10)]
    reads = [Waiting(lambda job=job: web.read(job.id, 0, 10, timeout=WAIT_S)) for job in jobs * 3]
    waits = [Waiting(lambda job=job: web.wait(job.id, WAIT_S)) for job in jobs * 3]
    eventually(lambda: len(subscriptions(redis)) == 20)
    assert len(redis.client.client_list("pubsub")) == 1
    for job in jobs:
        worker.finish(job.id, DONE)
    for call in reads + waits:
        call.end()


def test_words_come_to_their_readers_at_once(web: RedisStore, worker: RedisStore) -> None:
    job = claimed(web, worker)
    took: list[float] = []
    sent: dict[int, float] = {}

    def read() -> None:
        for seq, event in follow(web, job, after=0):
            if isinstance(event, Token):
                took.append(time.monotonic() - sent[seq])

    reader = Waiting(read)
    for chunk in range(50):
        sent[chunk + 1] = time.monotonic()
        worker.append(job.id, Token(chunk, "x"))
        eventually(lambda expected=chunk + 1: len(took) == expected)
    worker.finish(job.id, DONE)
    reader.end()
    assert sorted(took)[len(took) // 2] < 0.1


def test_a_lost_subscription_is_made_again_and_loses_no_end(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    for _ in range(5):
        job = claimed(web, worker)
        read = Waiting(lambda job=job: web.read(job.id, 0, 10, timeout=LONG_S))
        wait = Waiting(lambda job=job: web.wait(job.id, LONG_S))
        eventually(lambda: len(subscriptions(redis)) >= 2)
        kill_subscriptions(redis)
        worker.finish(job.id, DONE)
        read.end()
        wait.end()
        assert max(read.took, wait.took) < 4


def test_who_comes_while_the_connection_dies_is_subscribed_all_the_same(
    web: RedisStore, worker: RedisStore, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [claimed(web, worker) for _ in range(200)]
    calls = []
    for number, job in enumerate(jobs):
        calls.append(Waiting(lambda job=job: web.read(job.id, 0, 10, timeout=LONG_S)))
        if number % 10 == 0:
            kill_subscriptions(redis)
    for job in jobs:
        worker.finish(job.id, DONE)
    for call in calls:
        call.end()
    assert not [record for record in caplog.records if record.exc_info]


def test_a_message_that_is_lost_in_silence_is_made_up_for(
    web: RedisStore, worker: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py would resubscribe, and as a proxy would swallow: nobody says that it was lost."""
    monkeypatch.setattr("orchestrator.stores.redis.views.RECHECK_S", 0.2)
    monkeypatch.setattr("orchestrator.stores.redis.tail.RECHECK_S", 0.2)
    job = claimed(web, worker)
    channel = f"o:c:{job.id}"
    read = Waiting(lambda: web.read(job.id, 0, 10, timeout=LONG_S))
    # Redis has the subscription a moment before the hub knows.
    eventually(lambda: channel in web._hub._topics and web._hub._topics[channel].is_live)
    topic = web._hub._topics.pop(channel)
    worker.finish(job.id, DONE)
    read.end()
    assert topic.is_live


def test_a_message_that_makes_no_sense_harms_no_reader(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    job = claimed(web, worker)
    reader = Waiting(lambda: list(follow(web, job)))
    channel = f"o:c:{job.id}"
    eventually(lambda: channel.encode() in subscriptions(redis))
    for nonsense in (b"", b"\xff", b"1 2", b"1 x 3 []"):
        redis.client.publish(channel, nonsense)
    worker.append(job.id, Token(0, "x"))
    worker.finish(job.id, DONE)
    assert len(reader.end()) == 3  # type: ignore[arg-type]


def test_channels_that_nobody_reads_are_let_go(
    web: RedisStore, worker: RedisStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.hub.LINGER_S", 0.1)
    jobs = [claimed(web, worker) for _ in range(5)]
    for job in jobs:
        web.read(job.id, 0, 10, timeout=0.01)
        web.wait(job.id, 0.01)
    assert len(subscriptions(redis)) == 10
    eventually(lambda: not subscriptions(redis))
    read = Waiting(lambda: web.read(jobs[0].id, 0, 10, timeout=WAIT_S))
    eventually(lambda: len(subscriptions(redis)) == 1)
    worker.append(jobs[0].id, Token(0, "x"))
    read.end()


def test_what_is_over_or_never_was_is_read_without_a_subscription(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    job = claimed(web, worker)
    worker.finish(job.id, DONE)
    assert web.read(job.id, 1, 10, timeout=WAIT_S).complete
    assert web.wait(job.id, WAIT_S).status is Status.COMPLETED
    for ask in (lambda: web.read("x", 1, 10, timeout=WAIT_S), lambda: web.wait("x", WAIT_S)):
        with pytest.raises(NotFound):
            ask()
    assert subscriptions(redis) == []


def test_most_pages_of_a_growing_log_cost_redis_nothing(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    job = claimed(web, worker)
    readers = [Waiting(lambda: list(follow(web, job))) for _ in range(10)]
    eventually(lambda: len(subscriptions(redis)) == 1)
    redis.client.config_resetstat()
    for chunk in range(200):
        worker.append(job.id, Token(chunk, "x"))
        time.sleep(0.003)
    calls = int(redis.client.info("commandstats")["cmdstat_evalsha"]["calls"])
    worker.finish(job.id, DONE)
    for reader in readers:
        assert len(reader.end()) == 202  # type: ignore[arg-type]
    entries = redis.client.xlen(f"o:ev:{job.id}")
    assert entries < 100, "tokens are gathered"
    # Each entry once, not once a reader; a few more for what changes the request.
    assert calls < 1.5 * entries + 100


def test_a_slow_reader_reads_from_the_log_what_it_missed(
    web: RedisStore, worker: RedisStore
) -> None:
    job = claimed(web, worker)
    reader = follow(web, job)
    assert [next(reader)] == [(0, Started("echo"))]
    fast = Waiting(lambda: list(follow(web, job)))
    for chunk in range(5_000):
        worker.append(job.id, Token(chunk, "x" * 100))
    worker.append(job.id, Restarted(2))
    worker.append(job.id, Token(0, "y"))
    worker.finish(job.id, DONE)
    assert len(fast.end()) == 5_004  # type: ignore[arg-type]
    rest = list(reader)
    assert len(rest) == 5_003
    assert [event for _, event in rest[-3:]] == [Restarted(2), Token(0, "y"), DONE]


def sent_by(redis: RedisServer, act: Callable[[], object]) -> int:
    """Return how many bytes Redis sent meanwhile."""
    before = redis.client.info("stats")["total_net_output_bytes"]
    act()
    after = redis.client.info("stats")["total_net_output_bytes"]
    return int(after - before)


def told_at_length(web: RedisStore, worker: RedisStore, tokens: int, **fields: object) -> Job:
    """Return a request whose answer has so many tokens and whose entries are full."""
    job = claimed(web, worker, **fields)
    for chunk in range(tokens):
        assert worker.append(job.id, Token(chunk, "word "))
    assert worker.finish(job.id, DONE).changed
    return job


def test_a_log_read_in_pages_costs_what_it_holds(
    web: RedisStore, worker: RedisStore, redis: RedisServer
) -> None:
    job = told_at_length(web, worker, 20_000, prompt="p" * 1_000_000)
    whole = sum(
        len(value) for _, entry in redis.client.xrange(f"o:ev:{job.id}") for value in entry.values()
    )

    def replay() -> None:
        after, page = START, web.read(job.id, START, 256)
        while not page.complete:
            after = page.events[-1][0]
            page = web.read(job.id, after, 256)

    assert sent_by(redis, replay) <= 3 * whole
    result = web.read(job.id, START, 50_000).job.result
    assert result == web.get(job.id).result


def test_a_reader_at_the_end_of_what_has_ended_is_told_so(
    web: RedisStore, worker: RedisStore
) -> None:
    """Even while another one reads it bit by bit."""
    job = claimed(web, worker)
    slow = Waiting(lambda: web.read(job.id, 0, 1, timeout=WAIT_S))
    eventually(lambda: web._hub.has(f"o:c:{job.id}"))
    assert worker.append(job.id, Token(0, "x"))
    assert worker.finish(job.id, DONE).changed
    slow.end()
    assert not web.read(job.id, START, 1, timeout=WAIT_S).complete
    assert web.read(job.id, 2, 1, timeout=WAIT_S).complete


def test_a_long_poll_costs_no_more_than_what_it_returns(
    web: RedisStore, worker: RedisStore, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.views.RECHECK_S", 0.05)
    job = claimed(web, worker, prompt="p" * 1_000_000)
    assert sent_by(redis, lambda: web.wait(job.id, 1.0)) < 1_200_000


def test_lists_cost_what_they_show(web: RedisStore, worker: RedisStore, redis: RedisServer) -> None:
    for number in range(5):
        told_at_length(web, worker, 1, prompt="p" * 500_000, session_id=f"chat-{number}")
    lists: list[Callable[[], object]] = [
        lambda: web.jobs(None, None, 100, None, tenant=""),
        lambda: web.sessions(100, None, tenant=""),
    ]
    for ask in lists:
        assert sent_by(redis, ask) < 100_000


def test_a_page_of_a_list_holds_no_more_answers_than_it_may(
    web: RedisStore, worker: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.views.LIST_BYTES", 10)
    made = [told_at_length(web, worker, 1).id for _ in range(5)]
    first = web.jobs(None, None, 100, None, tenant="")
    second = web.jobs(None, None, 100, first.next_cursor, tenant="")
    third = web.jobs(None, None, 100, second.next_cursor, tenant="")
    assert [len(page.items) for page in (first, second, third)] == [2, 2, 1]
    found = [job.id for page in (first, second, third) for job in page.items]
    assert (found, third.next_cursor) == (made[::-1], None)


def test_services_over_one_redis_are_one_service(redis_store: MakeStore) -> None:
    """Submitted in one process, run in another, followed in a third, through an outage of all."""
    steps = Steps()

    def service(store: RedisStore) -> Nobodys:
        pool = Pool(Runner(store, lambda _: steps), 4)
        return Nobodys(Service(store, pool, [Model("default", "steps")]))

    stores = [redis_store() for _ in range(3)]
    door, runs, reads = (service(store) for store in stores)
    accepted = door.submit(a_request("one", session_id="chat")).request_id
    runner = Runner(stores[1], lambda _: steps)
    run = Waiting(lambda: runner.run(accepted))
    eventually(lambda: reads.get(accepted).status is Status.PROCESSING)
    told: list[Event] = []

    def tell() -> None:
        for page in reads.follow(accepted, START, pause=0.1):
            told.extend(event for _, event in page.events if page)

    reader = Waiting(tell)
    assert runs.cancel(accepted).changed
    steps.let_all_go()
    run.end()
    reader.end()
    assert door.get(accepted).status is Status.CANCELLED


@pytest.mark.parametrize("crash", ["kill", "freeze"])
def test_followers_live_through_an_outage(
    crash: str, tmp_path: object, redis_store: MakeStore
) -> None:
    with redis_server.running(tmp_path, "--appendonly", "yes") as redis:  # type: ignore[arg-type]
        web, worker = redis_store(redis.url), redis_store(redis.url)
        steps = Steps()
        pool = Pool(Runner(web, lambda _: steps), 1)
        service = Nobodys(Service(web, pool, [Model("default", "steps")]))
        jobs = [claimed(web, worker) for _ in range(5)]
        told: dict[str, list[Event]] = {job.id: [] for job in jobs}
        pauses: list[float] = []

        def tell(job: Job) -> None:
            looked = time.monotonic()
            for page in service.follow(job.id, START, pause=0.3):
                pauses.append(time.monotonic() - looked)
                looked = time.monotonic()
                told[job.id] += [event for _, event in page.events] if page else []

        def tell_end(job: Job) -> None:
            for end in service.await_end(job.id, pause=0.3):
                if end:
                    ends.append(end.id)

        ends: list[str] = []
        readers = [Waiting(lambda job=job: tell(job)) for job in jobs]
        readers += [Waiting(lambda job=job: tell_end(job)) for job in jobs]
        for job in jobs:
            worker.append(job.id, Token(0, "before "))
        eventually(lambda: all(len(events) == 2 for events in told.values()))
        redis.kill() if crash == "kill" else redis.freeze()
        time.sleep(1.5)
        for job in jobs:
            worker.append(job.id, Token(1, "after"))
        redis.start() if crash == "kill" else redis.thaw()
        for job in jobs:
            assert worker.finish(job.id, DONE).changed
        for reader in readers:
            reader.end()
        whole: Sequence[Event] = [Started("echo"), Token(0, "before "), Token(1, "after"), DONE]
        assert all(list(events) == whole for events in told.values())
        assert sorted(ends) == sorted(told)
        assert max(pauses) < 2.5, "a door had no time to ping"
