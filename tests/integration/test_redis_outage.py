"""Redis is killed, paused, full or cut off: what then becomes of calls, readers and runs."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from redis.exceptions import RedisError

from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.errors import NotFound, PipelineUnavailable
from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    FinishReason,
    Restarted,
    Started,
    Token,
)
from orchestrator.ids import new_id
from orchestrator.job import Job, Status
from orchestrator.stores.base import Idempotency
from orchestrator.stores.redis import names, scripts
from orchestrator.stores.redis.credentials import RedisKeys
from orchestrator.stores.redis.link import ANSWER_S, Call
from orchestrator.stores.redis.store import RedisStore
from orchestrator.stores.redis.writer import FLUSH_JOBS
from tests import redis_server
from tests.fakes.asking import WAIT_S, eventually
from tests.fakes.jobs import a_job
from tests.fakes.redis_proxy import LosingProxy
from tests.redis_server import RedisServer

MakeStore = Callable[..., RedisStore]

T = TypeVar("T")

KEEPING_ALL = ("--appendonly", "yes", "--appendfsync", "always")
ROOT = Path(__file__).resolve().parents[2]
DONE = Completed(FinishReason.STOP)
PROMISED_S = 1.0
TOLERANCE_S = 0.5
"""What a busy machine may take beside."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may harm; what it has answered is in its file."""
    with redis_server.running(tmp_path, *KEEPING_ALL) as server:
        yield server


@pytest.fixture
def store(own: RedisServer, redis_store: MakeStore) -> RedisStore:
    return redis_store(own.url)


@pytest.fixture
def other(own: RedisServer, redis_store: MakeStore) -> RedisStore:
    """Another process."""
    return redis_store(own.url)


def claimed(store: RedisStore, **fields: object) -> Job:
    job = a_job(**fields)
    persistently(lambda: store.submit(job))
    claim = store.claim(job.id, "echo")
    assert claim
    return claim[0]


def log(store: RedisStore, job: Job) -> list[Event]:
    page = store.read(job.id, after=-1, limit=100_000)
    assert [seq for seq, _ in page.events] == list(range(len(page.events)))
    return [event for _, event in page.events]


def tokens(texts: list[str]) -> list[Token]:
    return [Token(chunk, text) for chunk, text in enumerate(texts)]


def asks(store: RedisStore, job_id: str) -> list[Callable[[], object]]:
    """Return all that a client may ask for."""
    return [
        lambda: store.submit(a_job()),
        lambda: store.get(job_id),
        lambda: store.read(job_id, -1, 10),
        lambda: store.read(job_id, 100, 10, timeout=WAIT_S),
        lambda: store.wait(job_id, WAIT_S),
        lambda: store.cancel(job_id),
        lambda: store.place(job_id),
        lambda: store.jobs(None, None, 10, None, tenant=""),
        lambda: store.delete(job_id),
        lambda: store.session("chat"),
        lambda: store.sessions(10, None, tenant=""),
        lambda: store.delete_session("chat"),
        lambda: store.sweep(),
    ]


def assert_away(store: RedisStore, job_id: str) -> None:
    """Have every ask fail in time, and say when to come again."""
    failed: list[float] = []

    def fail(ask: Callable[[], object]) -> None:
        began = time.monotonic()
        with pytest.raises(PipelineUnavailable, match="Redis can't be reached") as caught:
            ask()
        assert caught.value.retry_after >= 1
        failed.append(time.monotonic() - began)

    threads = [
        threading.Thread(target=fail, args=(ask,), daemon=True) for ask in asks(store, job_id)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(failed) == len(threads)
    assert max(failed) < PROMISED_S + TOLERANCE_S


def persistently(act: Callable[[], T]) -> T:
    """Ask until Redis is there: on a busy machine it may seem to be away again."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return act()
        except PipelineUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_submit_that_was_refused_never_runs_when_redis_wakes(
    own: RedisServer, store: RedisStore, other: RedisStore
) -> None:
    refused = [(a_job(), Idempotency(f"key {number}", "body")) for number in range(20)]
    outcomes: list[object] = []

    def submit(job: Job, idempotency: Idempotency) -> None:
        try:
            outcomes.append(store.submit(job, idempotency))
        except PipelineUnavailable as error:
            outcomes.append(error)

    accepted = a_job()
    persistently(lambda: store.submit(accepted))
    own.freeze()
    threads = [threading.Thread(target=submit, args=both, daemon=True) for both in refused]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    own.thaw()
    assert [type(outcome) for outcome in outcomes] == [PipelineUnavailable] * len(refused)
    # What was sent to a Redis that hangs is read before what is sent now.
    listed = persistently(lambda: other.jobs(None, None, 100, None, tenant=""))
    assert [job.id for job in listed.items] == [accepted.id]
    assert not any(persistently(partial(other.replay, both[1])) for both in refused)
    again, idempotency = refused[0]
    assert persistently(lambda: store.submit(again, idempotency)).request_id == again.id


def test_nobody_waits_for_a_note_that_a_key_was_used(own: RedisServer) -> None:
    with closing(RedisKeys(own.url)) as api_keys:
        own.freeze()
        began = time.monotonic()
        api_keys.note_use("a key", 5.0)
        took = time.monotonic() - began
        own.thaw()
        assert took < ANSWER_S
        eventually(lambda: own.client.hget(names.API_KEYS_USED, "a key") == b"5.0")


class Run(threading.Thread):
    """A run that says number after number until it is told to end."""

    def __init__(self, store: RedisStore, job: Job) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self.longest = 0.0
        self.is_ended = False
        self._enough = threading.Event()
        self._store = store
        self._job = job
        self.start()

    def run(self) -> None:
        while not self._enough.wait(0.005):
            text = f"{len(self.said)} "
            began = time.monotonic()
            assert self._store.append(self._job.id, Token(len(self.said), text), self._job.run)
            self.longest = max(self.longest, time.monotonic() - began)
            self.said.append(text)
        self.is_ended = self._store.finish(self._job.id, DONE, self._job.run).changed

    def end(self) -> None:
        """Have it end."""
        self._enough.set()


# Away


def test_while_redis_is_down_every_call_fails_at_once(own: RedisServer, store: RedisStore) -> None:
    job = a_job()
    store.submit(job)
    own.kill()
    assert_away(store, job.id)
    own.start()
    eventually(lambda: _is_back(store, job))


def test_while_redis_answers_nothing_every_call_fails_within_a_second(
    own: RedisServer, store: RedisStore
) -> None:
    job = a_job()
    store.submit(job)
    own.freeze()
    assert_away(store, job.id)
    own.thaw()
    eventually(lambda: _is_back(store, job))


def _is_back(store: RedisStore, job: Job) -> bool:
    try:
        return store.get(job.id) == job
    except PipelineUnavailable:
        return False


def test_while_redis_answers_nothing_a_crowd_of_calls_fails_within_a_second(
    own: RedisServer, store: RedisStore
) -> None:
    job = a_job()
    store.submit(job)
    own.freeze()
    took: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        with pytest.raises(PipelineUnavailable):
            store.get(job.id)
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    own.thaw()
    assert len(took) == 100
    assert max(took) < PROMISED_S + TOLERANCE_S


def test_a_crowd_of_calls_at_a_redis_that_answers_is_served(
    redis: RedisServer, redis_store: MakeStore
) -> None:
    # Threads of earlier tests may hold theirs for a while.
    before = {client["id"] for client in redis.client.client_list()}
    store = redis_store()
    job = a_job()
    store.submit(job)
    served: list[Job] = []
    barrier = threading.Barrier(300)

    def ask() -> None:
        barrier.wait(WAIT_S)
        for _ in range(5):
            served.append(store.read(job.id, -1, 10).job)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * WAIT_S)
    assert len(served) == 1_500
    own = [client for client in redis.client.client_list() if client["id"] not in before]
    assert len(own) <= 32


def test_a_paused_redis_is_away_until_it_goes_on(own: RedisServer, store: RedisStore) -> None:
    job = a_job()
    store.submit(job)
    own.client.execute_command("CLIENT", "PAUSE", 1_500)
    with pytest.raises(PipelineUnavailable):
        store.get(job.id)
    eventually(lambda: _is_back(store, job))


def test_an_outage_says_nothing_of_what_there_is(own: RedisServer, store: RedisStore) -> None:
    with pytest.raises(NotFound):
        store.get(new_id())
    own.kill()
    with pytest.raises(PipelineUnavailable):
        store.get(new_id())
    own.start()
    with pytest.raises(NotFound):
        persistently(lambda: store.get(new_id()))


# Back


def test_what_was_accepted_survives_a_kill(own: RedisServer, store: RedisStore) -> None:
    waiting, running = a_job(session_id="chat"), claimed(store)
    store.submit(waiting)
    over = claimed(store, session_id="talk", prompt="one")
    store.append(over.id, Token(0, "1"))
    store.finish(over.id, DONE)
    seen = [store.get(job.id) for job in (waiting, running, over)]
    own.kill()
    own.start()
    jobs = (waiting, running, over)
    assert [persistently(lambda job=job: store.get(job.id)) for job in jobs] == seen
    talk = persistently(lambda: store.session("talk"))
    assert [turn.content for turn in talk.history.messages] == ["one", "1"]
    assert store.claim(waiting.id, "echo")
    assert store.finish(running.id, DONE).changed


def forgetting(own: RedisServer) -> Callable[[], None]:
    """Return what has Redis forget all from now on.

    As after a kill with appendfsync everysec: what it has answered for may not be in its file.
    """
    kept = {key: own.client.dump(key) for key in own.client.scan_iter()}

    def forget() -> None:
        own.client.flushall()
        for key, value in kept.items():
            own.client.restore(key, 0, value)

    return forget


@pytest.mark.parametrize("is_first", [True, False])
def test_the_end_of_a_run_that_redis_forgot_changes_nothing(
    is_first: bool, own: RedisServer, store: RedisStore
) -> None:
    job = a_job()
    store.submit(job)
    if not is_first:
        assert store.claim(job.id, "echo")
        assert store.give_back(job.id, 1).ready
    run = store.get(job.id).run
    forget = forgetting(own)
    assert store.claim(job.id, "echo")
    if is_first:
        assert store.append(job.id, Token(0, "said"), run)
    forget()

    assert list(store.renew()) == [(job.id, run)]
    assert not store.finish(job.id, Cancelled(), run).changed
    assert store.get(job.id).status is Status.PENDING
    assert store.claim(job.id, "echo")
    assert store.append(job.id, Token(0, "said again"), run)
    assert store.finish(job.id, DONE, run).job.result == "said again"


def claimed_by_both(own: RedisServer, store: RedisStore, other: RedisStore) -> Job:
    """Return a request that one store has claimed, which Redis forgot, and then the other."""
    job = a_job()
    store.submit(job)
    forget = forgetting(own)
    assert store.claim(job.id, "echo")
    forget()
    assert other.claim(job.id, "echo")
    return job


def test_a_run_that_redis_forgot_writes_nothing_into_the_next(
    own: RedisServer, store: RedisStore, other: RedisStore
) -> None:
    job = claimed_by_both(own, store, other)
    assert store.append(job.id, Token(0, "stale"))
    assert other.append(job.id, Token(0, "new"))
    assert list(store.renew()) == [(job.id, 1)]
    assert list(other.renew()) == []
    assert not store.finish(job.id, DONE).changed
    assert other.finish(job.id, DONE).job.result == "new"


def test_a_run_that_redis_forgot_writes_nothing_where_its_own_process_claims_anew(
    own: RedisServer, store: RedisStore
) -> None:
    job = a_job()
    store.submit(job)
    forget = forgetting(own)
    assert store.claim(job.id, "echo")
    assert store.append(job.id, Token(0, "stale "), 1)
    forget()
    # The number of its run is that of a run that goes on here: it waits for the next number.
    assert store.claim(job.id, "echo") is None
    assert not store.append(job.id, Token(1, "stale"), 1)
    assert not store.finish(job.id, Cancelled(), 1).changed
    again = store.claim(job.id, "echo")
    assert again
    assert again.job.run == 2
    assert store.append(job.id, Token(0, "new"), 2)
    assert store.finish(job.id, DONE, 2).job.result == "new"


def test_a_run_that_redis_forgot_is_not_given_back_in_place_of_the_next(
    own: RedisServer, store: RedisStore, other: RedisStore
) -> None:
    job = claimed_by_both(own, store, other)
    assert not store.give_back(job.id, 1).changed
    assert not store.finish(job.id, Cancelled(), 1).changed
    assert store.get(job.id).status is Status.PROCESSING
    assert other.finish(job.id, DONE).changed


@pytest.mark.parametrize("crash", ["kill", "freeze"])
def test_a_run_goes_on_through_an_outage_and_its_log_has_no_gap(
    own: RedisServer, store: RedisStore, other: RedisStore, crash: str
) -> None:
    job = claimed(store)
    told: list[Event] = []

    def follow() -> None:
        while True:
            try:
                page = other.read(job.id, len(told) - 1, 100, timeout=WAIT_S)
            except PipelineUnavailable:
                time.sleep(0.05)
                continue
            told.extend(event for _, event in page.events)
            if page.complete:
                return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    run = Run(store, job)
    eventually(lambda: len(told) > 20)
    own.kill() if crash == "kill" else own.freeze()
    so_far = len(run.said)
    eventually(lambda: len(run.said) > so_far + 100)
    assert run.longest < 0.25, "a run waited for Redis"
    own.start() if crash == "kill" else own.thaw()
    eventually(lambda: len(told) > so_far + 150)
    run.end()
    run.join(WAIT_S)
    reader.join(WAIT_S)
    assert run.is_ended
    assert told == [Started("echo"), *tokens(run.said), DONE] == log(other, job)
    assert other.get(job.id).result == "".join(run.said)


def test_what_was_buffered_by_many_is_written_bit_by_bit(
    own: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [claimed(store) for _ in range(16)]
    piece = "ä" * 50_000
    sent: list[int] = []
    call_all = store._link.call_all

    def noted(calls: Sequence[Call]) -> list[object]:
        texts = [word for _, words in calls for word in words if isinstance(word, str)]
        sent.append(sum(len(text.encode()) for text in texts))
        return call_all(calls)

    monkeypatch.setattr(store._link, "call_all", noted)
    own.freeze()
    for chunk in range(8):
        for job in jobs:
            assert store.append(job.id, Token(chunk, piece))
    own.thaw()
    persistently(lambda: [store.finish(job.id, DONE) for job in jobs[:4]])
    eventually(lambda: all(held.is_clean for held in store._writer.all()))
    assert max(sent) < 1_000_000
    for job in jobs:
        assert [event for event in log(store, job) if isinstance(event, Token)] == tokens(
            [piece] * 8
        )


def test_an_end_during_an_outage_waits_for_redis(own: RedisServer, store: RedisStore) -> None:
    job = claimed(store)
    run = Run(store, job)
    eventually(lambda: len(run.said) > 5)
    own.kill()
    run.end()
    run.join(0.5)
    assert run.is_alive()
    own.start()
    run.join(WAIT_S)
    assert run.is_ended
    assert store.get(job.id).result == "".join(run.said)


def test_many_ends_that_wait_for_redis_cost_nothing_and_are_no_sign_of_it(
    own: RedisServer, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [claimed(store) for _ in range(2 * FLUSH_JOBS)]
    own.kill()
    for job in jobs:
        assert store.append(job.id, Token(0, "said"), job.run)
    ends = [
        threading.Thread(target=store.finish, args=(job.id, DONE, job.run), daemon=True)
        for job in jobs
    ]
    for end in ends:
        end.start()
    began = time.process_time()
    time.sleep(1.0)
    used_s = time.process_time() - began
    assert "Redis can't be reached" in caplog.text
    assert "Redis is back" not in caplog.text
    own.start()
    for end in ends:
        end.join(WAIT_S)
    assert {persistently(lambda job=job: store.get(job.id)).result for job in jobs} == {"said"}
    assert used_s < 0.5


def test_a_run_given_back_during_an_outage_does_not_end_its_request(
    own: RedisServer, store: RedisStore
) -> None:
    jobs = [claimed(store) for _ in range(20)]
    own.kill()
    for job in jobs:
        store.append(job.id, Token(0, "half"), job.run)

    def stop(job: Job) -> None:
        while store.append(job.id, Token(1, "x"), job.run):
            time.sleep(0.001)
        store.finish(job.id, Cancelled(), job.run)

    def give_back(job: Job) -> None:
        store.give_back(job.id, job.run)

    calls = [
        threading.Thread(target=act, args=(job,), daemon=True)
        for act in (stop, give_back)
        for job in jobs
    ]
    for call in calls:
        call.start()
    own.start()
    for call in calls:
        call.join(WAIT_S)
    persistently(store.sweep)
    assert {store.get(job.id).status for job in jobs} == {Status.PENDING}


def test_a_claim_during_an_outage_waits_for_redis(own: RedisServer, store: RedisStore) -> None:
    job = a_job()
    store.submit(job)
    own.kill()
    claims: list[object] = []
    claim = threading.Thread(target=lambda: claims.append(store.claim(job.id, "echo")))
    claim.start()
    claim.join(0.5)
    assert claim.is_alive()
    own.start()
    claim.join(WAIT_S)
    assert len(claims) == 1
    assert claims[0]


def test_a_cancel_that_nobody_heard_of_is_told_by_the_renewal(
    own: RedisServer, store: RedisStore, other: RedisStore
) -> None:
    store.on_stop(lambda job_id: None)
    job = claimed(store)
    own.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    other.cancel(job.id)
    assert store.renew() == ((job.id, 1),)


# Scripts


def test_scripts_that_redis_lost_are_given_to_it_again(own: RedisServer, store: RedisStore) -> None:
    for flush in (own.client.script_flush, lambda: (own.kill(), own.start())):
        job = claimed(store)
        store.append(job.id, Token(0, "a"))
        assert store.get(job.id)
        flush()
        store.append(job.id, Token(1, "b"))
        store.append(job.id, Restarted(2))
        store.append(job.id, Token(0, "c"))
        assert store.finish(job.id, DONE).changed
        assert log(store, job)[1:] == [*tokens(["a", "b"]), Restarted(2), Token(0, "c"), DONE]
        assert store.get(job.id).result == "c"


@pytest.mark.parametrize("lost", ["emit", "finish"])
def test_a_script_that_alone_is_lost_tears_no_answer(
    own: RedisServer, store: RedisStore, lost: str
) -> None:
    job = claimed(store)
    store.append(job.id, Token(0, "a"))
    assert store.get(job.id)
    # Redis can't forget one script alone: it is given again what is not lost.
    own.client.script_flush()
    for script in (scripts.EMIT, scripts.FINISH):
        if script.name != lost:
            own.client.script_load(script.text)
    held = store._writer.held(job.id, 1)
    assert held
    with held.sending:
        # What is added now goes with the end, for no one else may send it.
        store.append(job.id, Token(1, "b"))
    assert store.finish(job.id, DONE).changed
    assert store.get(job.id).result == "ab"


# Answers that are lost on the way


def test_whatever_answer_is_lost_every_request_ends_once_and_whole(
    redis: RedisServer, redis_store: MakeStore
) -> None:
    with LosingProxy(redis.port, losses=0.1) as proxy:
        store, clean = redis_store(proxy.url), redis_store()
        proxy.lose()
        for number in range(60):
            job = a_job(session_id=f"chat-{number % 3}", prompt=f"{number}")
            persistently(lambda job=job: store.submit(job))
            claim = store.claim(job.id, "echo")
            assert claim, "the claim was lost with its answer"
            texts = [f"{number}-{chunk} " for chunk in range(20)]
            for chunk, text in enumerate(texts):
                assert store.append(job.id, Token(chunk, text))
                if chunk % 5 == 0:
                    time.sleep(0.002)
            store.finish(job.id, DONE)
            assert log(clean, job) == [Started("echo"), *tokens(texts), DONE]
            assert clean.get(job.id).result == "".join(texts)
            assert clean.get(job.id).attempts == 1
        assert proxy.lost > 20
    for name in range(3):
        turns = clean.session(f"chat-{name}").history.messages
        assert [turn.content for turn in turns[::2]] == [str(n) for n in range(name, 60, 3)]


GIVING_UP = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from orchestrator.stores.redis.store import RedisStore
from tests.fakes.jobs import a_job
store = RedisStore(sys.argv[1], queue_limit=1000, retention_s=3600)
jobs = [a_job() for _ in range(50)]
for job in jobs:
    store.submit(job)
given_up = 0
def ask(job):
    global given_up
    try:
        with gevent.Timeout(0.001):
            assert store.get(job.id) == job
    except gevent.Timeout:
        given_up += 1
for _ in range(40):
    gevent.joinall([gevent.spawn(ask, job) for job in jobs], raise_error=True)
    for job in jobs[:5]:
        assert store.get(job.id) == job
print(given_up)
"""


def test_a_call_that_is_given_up_leaves_its_answer_to_nobody(redis: RedisServer) -> None:
    told = subprocess.run(
        [sys.executable, "-c", GIVING_UP, redis.url],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 0


# Full


def test_a_full_redis_takes_nothing_new_and_says_so(own: RedisServer, store: RedisStore) -> None:
    running, silent = claimed(store), claimed(store)
    own.client.config_set("maxmemory", own.client.info("memory")["used_memory"])
    with pytest.raises(PipelineUnavailable, match="Redis is full"):
        store.submit(a_job("x" * 100_000))
    with pytest.raises(PipelineUnavailable, match="Redis is full"):
        while store.append(running.id, Token(0, "x" * 1000)):
            time.sleep(0.01)
    assert store.finish(running.id, DONE).changed
    assert store.get(running.id).error_code == "PIPELINE_UNAVAILABLE"
    assert store.cancel(silent.id).changed
    assert store.finish(silent.id, DONE).job.status is Status.CANCELLED
    store.show_worker(["big"])
    with pytest.raises(PipelineUnavailable, match="Redis is full"):
        store.served()
    # One that makes room by itself, and so forgets workers too, is full all the time.
    own.client.config_set("maxmemory-policy", "volatile-ttl")
    store.served()
    own.client.config_set("maxmemory", 0)
    store.show_worker(["big"])
    assert store.served()
    assert store.submit(a_job()).ready


def test_all_that_a_redis_took_until_it_was_full_can_end(
    own: RedisServer, store: RedisStore
) -> None:
    used = own.client.info("memory")["used_memory"]
    own.client.config_set("maxmemory", used + 8_000_000)
    accepted: list[Job] = []
    with pytest.raises(PipelineUnavailable, match="Redis is full"):
        while True:
            job = a_job("x" * 50_000)
            store.submit(job)
            accepted.append(job)
    for job in accepted:
        claim = store.claim(job.id, "echo")
        assert claim
        assert store.append(job.id, Token(0, "a"), claim[0].run)
        assert store.finish(job.id, DONE, claim[0].run).changed
        assert store.get(job.id).result == "a"
    assert not own.client.exists(names.OWED)


@pytest.mark.parametrize(
    ("harm", "mend", "said"),
    [
        (("replicaof", "127.0.0.1", "1"), ("replicaof", "no", "one"), "is a replica"),
        (
            ("config", "set", "min-replicas-to-write", "1"),
            ("config", "set", "min-replicas-to-write", "0"),
            "has fewer replicas",
        ),
    ],
)
def test_a_redis_that_takes_no_writes_is_said_to_be_one(
    own: RedisServer, store: RedisStore, harm: Sequence[str], mend: Sequence[str], said: str
) -> None:
    broker = Broker(own.url)
    store.show_worker(["big"])
    own.client.execute_command(*harm)
    # Whether or not the last answer was the first one that failed.
    for refused in (store.served, lambda: store.submit(a_job())):
        with pytest.raises(PipelineUnavailable, match=f"Redis {said}"):
            refused()
    with pytest.raises(RedisError):
        broker.probe()
    own.client.execute_command(*mend)
    broker.probe()
    assert persistently(store.served)
    broker.close()


def test_an_answer_that_redis_had_no_room_for_is_no_success(
    own: RedisServer, store: RedisStore
) -> None:
    job = claimed(store)
    assert store.append(job.id, Token(0, "a"))
    assert store.get(job.id)
    own.client.config_set("maxmemory", 1)
    store.append(job.id, Token(1, "b"))
    store.finish(job.id, DONE)
    own.client.config_set("maxmemory", 0)
    after = store.get(job.id)
    assert (after.status, after.error_code) == (Status.FAILED, "PIPELINE_UNAVAILABLE")


def test_an_endless_answer_fails_before_it_fills_redis(
    redis_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stores.redis.writer.LOG_BYTES", 100_000)
    store = redis_store()
    job = claimed(store)
    with pytest.raises(PipelineUnavailable, match="longer than"):
        while store.append(job.id, Token(0, "x" * 1000)):
            time.sleep(0.001)
    assert store.finish(job.id, DONE).job.error_code == "PIPELINE_UNAVAILABLE"
