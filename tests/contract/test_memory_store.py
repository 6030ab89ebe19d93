"""What is the memory store's own: its limit in bytes, what goes first, and what nothing costs."""

import gc
import random
import threading
import time
import tracemalloc
from typing import Any

import pytest

from orchestrator.errors import NotFound, PipelineUnavailable, ResultExpired
from orchestrator.events import Completed, Failed, FinishReason, Token
from orchestrator.ids import new_id
from orchestrator.job import Job, OnBusy, Status
from orchestrator.stores.base import IDEMPOTENCY_S, SCAN_LIMIT, Idempotency
from orchestrator.stores.memory.sessions import SESSION_BYTES
from orchestrator.stores.memory.sizes import JOB_BYTES
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.tenancy import session_of
from tests.fakes.asking import WAIT_S
from tests.fakes.clock import Clock
from tests.fakes.jobs import a_job

MIB = 1024 * 1024
DONE = Completed(FinishReason.STOP)
RETENTION_S = 3600.0


def a_store(memory_limit: int = 512 * MIB, clock: Clock | None = None) -> MemoryStore:
    return MemoryStore(
        queue_limit=1_000_000,
        retention_s=RETENTION_S,
        memory_limit=memory_limit,
        clock=clock or Clock(),
    )


def submitted(store: MemoryStore, kib: int = 0, **fields: Any) -> Job:
    """Submit a request with a prompt of that size."""
    job = a_job("x" * max(1, kib * 1024), **fields)
    store.submit(job)
    return job


def ended(store: MemoryStore, kib: int = 0, **fields: Any) -> Job:
    """Submit a request that ends without a turn for its session."""
    job = submitted(store, kib, **fields)
    store.cancel(job.id)
    return job


def remembered(store: MemoryStore, kib: int, session_id: str) -> None:
    """Leave a session behind whose one turn has that size, and nothing else."""
    job = submitted(store, kib, session_id=session_id)
    assert store.claim(job.id, "echo")
    store.finish(job.id, DONE)
    store.delete(job.id)


def forgotten_but_for(store: MemoryStore, key: Idempotency) -> None:
    """Leave nothing of a request behind but its key."""
    job = a_job()
    store.submit(job, key)
    store.cancel(job.id)
    store.delete(job.id)
    store.delete_session(job.request.session_id)


def has(store: MemoryStore, job: Job) -> bool:
    try:
        return bool(store.get(job.id))
    except ResultExpired:
        return False


def has_session(store: MemoryStore, session_id: str) -> bool:
    return session_id in [session.name for session in store.sessions(1_000, None, tenant="").items]


# What goes first


def test_ended_requests_go_first_then_idle_sessions_then_keys_and_the_oldest_of_each() -> None:
    store = a_store(memory_limit=MIB)
    key = Idempotency("key", b"body")
    forgotten_but_for(store, key)
    remembered(store, 100, "older")
    remembered(store, 100, "newer")
    jobs = [submitted(store, 100) for _ in range(2)]
    for job in jobs:
        store.cancel(job.id)
        store.delete_session(job.request.session_id)

    def left() -> tuple[int, int]:
        return (
            [has(store, job) for job in jobs].count(True),
            [has_session(store, name) for name in ("older", "newer")].count(True),
        )

    seen = [left()]
    with pytest.raises(PipelineUnavailable):
        while True:
            submitted(store, 40)
            if left() != (0, 0):
                assert store.submit(a_job(), key).replayed
            if left() != seen[-1]:
                seen.append(left())
                assert has(store, jobs[1]) or not has(store, jobs[0])
                assert has_session(store, "newer") or not has_session(store, "older")
    assert seen == [(2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]


def test_who_floods_pushes_out_nothing_of_others() -> None:
    store = a_store(memory_limit=4 * MIB)

    def one(tenant: str, number: int) -> tuple[Job, Idempotency]:
        job = a_job("x" * 500, tenant=tenant, session_id=f"chat-{number}")
        key = Idempotency(f"{tenant} {number}", b"body")
        store.submit(job, key)
        assert store.claim(job.id, "echo")
        store.append(job.id, Token(0, "answer"))
        store.finish(job.id, DONE)
        return job, key

    friends = [one(f"friend {number % 20}", number) for number in range(200)]
    flood = [one("flood", number) for number in range(5_000)]
    assert not has(store, flood[0][0])
    assert has(store, flood[-1][0])
    for job, key in friends:
        assert store.get(job.id).result == "answer"
        assert len(store.session(job.request.session).history.messages) == 2
        assert store.submit(a_job(), key).replayed


def test_the_last_thing_of_a_tenant_stays_while_others_have_more_than_one() -> None:
    store = a_store(memory_limit=2 * MIB)
    answer = a_job(tenant="alice", session_id="none")
    store.submit(answer)
    store.claim(answer.id, "echo")
    for chunk in range(20):
        store.append(answer.id, Token(chunk, "x" * 10_000))
    store.finish(answer.id, DONE)
    talk = answer.request.session
    first = ended(store, tenant="other 0", session_id="chat")
    for number in range(3_000):
        ended(store, tenant=f"other {number % 50}", session_id="chat")
    assert not has(store, first)
    assert len(store.get(answer.id).result or "") == 200_000
    assert len(store.session(talk).history.messages) == 2


def test_a_submit_does_not_push_out_the_session_that_it_is_for() -> None:
    store = a_store(memory_limit=MIB)
    for _ in range(5):
        job = a_job("x" * 10_000, tenant="alice", session_id="chat")
        store.submit(job)
        store.claim(job.id, "echo")
        store.finish(job.id, DONE)
        store.delete(job.id)
    store.submit(a_job("x" * (MIB - store.size - 10_000), tenant="bob"))
    job = a_job("x" * 20_000, tenant="alice", session_id="chat")
    with pytest.raises(PipelineUnavailable):
        store.submit(job)
    assert len(store.session(job.request.session).history.messages) == 10


def test_the_oldest_key_goes_first() -> None:
    store = a_store(memory_limit=MIB)
    keys = [Idempotency(f"key {number}", b"body") for number in range(50)]
    for key in keys:
        forgotten_but_for(store, key)
    store.submit(a_job("x" * (MIB - store.size)))
    assert store.submit(a_job(), keys[-1]).replayed
    assert not store.submit(a_job(), keys[0]).replayed


def test_with_only_live_work_left_a_submit_is_refused_until_some_ends() -> None:
    store = a_store(memory_limit=MIB)
    live = [submitted(store, 100) for _ in range(5)]
    for job in live[:2]:
        assert store.claim(job.id, "echo")
    with pytest.raises(PipelineUnavailable) as caught:
        while True:
            live.append(submitted(store, 100))
    assert caught.value.retry_after >= 1
    assert len(store.live()) == len(live)
    store.finish(live[0].id, Failed("UPSTREAM_ERROR", "The provider is down."))
    live.append(submitted(store, 100))
    assert not has(store, live[0])
    assert store.size <= MIB


@pytest.mark.parametrize("with_keys", [False, True], ids=["no keys", "keys"])
def test_results_are_not_crowded_out_by_the_sessions_and_keys_of_earlier_ones(
    with_keys: bool,
) -> None:
    """Each request brings a session, perhaps a key, and both are kept for longer than it is."""
    store = a_store(memory_limit=MIB)
    for number in range(4_000):
        job = a_job()
        store.submit(job, Idempotency(f"key {number}", b"body") if with_keys else None)
        store.claim(job.id, "echo")
        store.append(job.id, Token(0, "answer"))
        store.finish(job.id, DONE)
    results = len(store.jobs(None, None, 4_000, None, tenant="").items)
    sessions = len(store.sessions(4_000, None, tenant="").items)
    assert results * JOB_BYTES > MIB / 8
    assert sessions * SESSION_BYTES > MIB / 8


def test_a_tenant_s_sessions_are_listed_by_their_use_whatever_others_do() -> None:
    store = a_store(memory_limit=64 * MIB)
    chance = random.Random(8)
    used: dict[str, list[str]] = {"": [], "us": [], "them": []}
    for _ in range(8_000):
        tenant, session_id = chance.choice(list(used)), f"chat-{chance.randrange(2_000)}"
        name = session_of(tenant, session_id)
        job = a_job(session_id=session_id, tenant=tenant)
        store.submit(job)
        store.cancel(job.id)
        if name in used[tenant]:
            used[tenant].remove(name)
        used[tenant].append(name)
        if chance.random() < 0.1:
            store.delete_session(used[tenant].pop(chance.randrange(len(used[tenant]))))
    for tenant, names in used.items():
        listed, cursor = [], None
        while not listed or cursor:
            page = store.sessions(100, cursor, tenant=tenant)
            listed += [session.name for session in page.items]
            cursor = page.next_cursor
        assert len(names) > 1_000
        assert listed == names[::-1]


def test_the_limit_holds_whatever_comes() -> None:
    store = a_store(memory_limit=MIB)
    chance = random.Random(5)
    for number in range(2_000):
        session_id = f"chat-{chance.randrange(50)}"
        key = Idempotency(f"key {number}", b"body") if number % 3 == 0 else None
        job = a_job("x" * chance.randrange(3_000), session_id=session_id, on_busy=OnBusy.PARALLEL)
        store.submit(job, key)
        if store.claim(job.id, "echo"):
            for chunk in range(chance.randrange(5)):
                store.append(job.id, Token(chunk, "y" * chance.randrange(500)))
                assert store.size <= MIB
            store.finish(job.id, DONE)
    assert store.size > MIB // 2


def test_tokens_push_ended_requests_out_too() -> None:
    store = a_store(memory_limit=MIB)
    old = ended(store, 500)
    running = submitted(store)
    store.claim(running.id, "echo")
    for chunk in range(7):
        assert store.append(running.id, Token(chunk, "y" * 100_000))
    assert not has(store, old)
    assert has(store, running)


def test_an_answer_that_outgrows_the_memory_is_refused_and_can_end() -> None:
    store = a_store(memory_limit=MIB)
    running = submitted(store)
    store.claim(running.id, "echo")
    with pytest.raises(PipelineUnavailable):
        for chunk in range(11):
            store.append(running.id, Token(chunk, "y" * 100_000))
    error = Failed("PIPELINE_UNAVAILABLE", "Memory is full.")
    assert store.finish(running.id, error).changed
    assert store.live() == []
    submitted(store, 100)
    assert store.size <= MIB


def test_what_was_pushed_out_has_expired_and_what_never_was_is_not_found() -> None:
    store = a_store(memory_limit=MIB)
    old = ended(store, 500)
    time.sleep(0.002)
    deleted = ended(store)
    store.delete(deleted.id)
    submitted(store, 700)
    with pytest.raises(ResultExpired):
        store.get(old.id)
    for job_id in (deleted.id, new_id()):
        with pytest.raises(NotFound):
            store.get(job_id)


def test_a_session_that_goes_on_is_not_what_goes_for_it() -> None:
    store = a_store(memory_limit=MIB)
    remembered(store, 300, "goes on")
    remembered(store, 300, "idle")
    submitted(store, 600, session_id="goes on")
    assert len(store.session("goes on").history.messages) == 2
    assert not has_session(store, "idle")


def test_a_busy_session_is_not_pushed_out() -> None:
    store = a_store(memory_limit=MIB)
    for name, on_busy in (("chat", OnBusy.ENQUEUE), ("parallel", OnBusy.PARALLEL)):
        remembered(store, 200, name)
        first = submitted(store, session_id=name)
        submitted(store, session_id=name, on_busy=on_busy)
        if on_busy is OnBusy.PARALLEL:
            store.cancel(first.id)
    with pytest.raises(PipelineUnavailable):
        while True:
            submitted(store, 50)
    for name in ("chat", "parallel"):
        assert len(store.session(name).history.messages) == 2


# What is counted


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 50_000},
        {"system": "x" * 50_000},
        {"stop": ("x" * 12_500,) * 4},
        {"metadata": {str(number): "x" * 1_000 for number in range(50)}},
        {"metadata": {str(number) * 64: 1 for number in range(10, 50)}, "system": "x" * 46_000},
        {"prompt": "é" * 50_000},
    ],
    ids=["prompt", "system", "stop", "metadata", "keys", "wide"],
)
def test_all_that_a_client_sends_is_counted(fields: dict[str, Any]) -> None:
    store = a_store()
    store.submit(a_job(**fields))
    assert store.size >= 50_000


def test_all_that_is_generated_is_counted() -> None:
    store = a_store()
    job = submitted(store)
    store.claim(job.id, "echo")
    for chunk in range(10):
        store.append(job.id, Token(chunk, "y" * 10_000))
    assert store.size >= 100_000
    store.cancel(job.id)
    store.finish(job.id, DONE)
    # The tokens, and the text they make together.
    assert store.size >= 200_000


def test_a_systems_text_is_counted_with_the_session_that_keeps_it() -> None:
    store = a_store()
    job = submitted(store, session_id="chat", system="x" * 50_000)
    store.claim(job.id, "echo")
    store.finish(job.id, DONE)
    store.delete(job.id)
    assert store.size >= 50_000


@pytest.mark.parametrize("tokens", [0, 30])
def test_what_is_counted_is_near_to_what_is_held(tokens: int) -> None:
    store = a_store()

    def store_some(number: int) -> None:
        for index in range(number):
            job = a_job(f"What is the answer to {index}?", metadata={})
            store.submit(job)
            store.claim(job.id, "echo")
            for chunk in range(tokens):
                store.append(job.id, Token(chunk, f"{index}-{chunk} "))
            store.finish(job.id, DONE)

    store_some(100)
    tracemalloc.start()
    try:
        held, counted = tracemalloc.get_traced_memory()[0], store.size
        store_some(1_000)
        held = tracemalloc.get_traced_memory()[0] - held
        counted = store.size - counted
    finally:
        tracemalloc.stop()
    assert 0.9 * held < counted < 1.5 * held


def test_when_all_is_forgotten_nothing_is_counted() -> None:
    clock = Clock()
    store = a_store(clock=clock)
    chance = random.Random(7)
    live: list[Job] = []
    for number in range(3_000):
        clock.advance(chance.choice([0, 1, 60, IDEMPOTENCY_S / 50]))
        key = Idempotency(f"key {chance.randrange(30)}", b"body") if number % 4 == 0 else None
        job = a_job(
            "x" * chance.randrange(500),
            clock=clock,
            session_id=f"chat-{chance.randrange(20)}",
            on_busy=chance.choice([OnBusy.ENQUEUE, OnBusy.INTERRUPT, OnBusy.PARALLEL]),
            system=chance.choice([None, "Be brief.", "y" * 300]),
            metadata={"a": "b" * chance.randrange(50)},
            queue_timeout_s=3600,
        )
        if not store.submit(job, key).replayed:
            live.append(job)
        job = chance.choice(live)
        match chance.randrange(7):
            case 0 | 1:
                store.claim(job.id, "echo")
            case 2 | 3:
                store.append(job.id, Token(0, "z" * chance.randrange(100)))
            case 4 if has_status(store, job, Status.PROCESSING):
                store.finish(job.id, DONE)
            case 5 if has_status(store, job, Status.PENDING, Status.PROCESSING):
                store.cancel(job.id)
            case 6 if has_status(store, job, Status.CANCELLED, Status.COMPLETED):
                store.delete(job.id)
        if number % 10 == 0:
            store.sweep()
    assert store.size > 0
    for job in store.live():
        store.cancel(job.id)
        store.finish(job.id, DONE)
    assert store.live() == []
    clock.advance(IDEMPOTENCY_S + RETENTION_S)
    store.sweep()
    assert store.size == 0
    assert store.sessions(10, None, tenant="").items == []


def has_status(store: MemoryStore, job: Job, *statuses: Status) -> bool:
    try:
        return store.get(job.id).status in statuses
    except (NotFound, ResultExpired):
        return False


def test_a_key_used_again_after_its_expiry_is_counted_once() -> None:
    clock = Clock()
    store = a_store(clock=clock)
    sizes = []
    for _ in range(5):
        job = a_job(session_id="chat")
        store.submit(job, Idempotency("key", b"body"))
        store.cancel(job.id)
        store.delete(job.id)
        sizes.append(store.size)
        clock.advance(IDEMPOTENCY_S)
    assert len(set(sizes)) == 1


def test_deleted_requests_leave_nothing_behind() -> None:
    store = a_store()
    oldest = ended(store)
    for _ in range(3_000):
        # Python itself keeps freed tuples for the next: those are not the store's.
        store.delete(ended(store, session_id="chat").id)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3_000):
            store.delete(ended(store, session_id="chat").id)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # An id alone is 85 bytes; a thousand of them may wait to be cleared away.
    assert grown < 150_000
    assert has(store, oldest)


def test_who_waited_leaves_nothing_behind() -> None:
    store = a_store()
    jobs = [submitted(store) for _ in range(20)]
    before = conditions()
    threads = [
        threading.Thread(target=wait, args=(job.id,), daemon=True)
        for job in jobs
        for wait in (
            lambda job_id: store.read(job_id, after=-1, limit=9, timeout=WAIT_S),
            lambda job_id: store.wait(job_id, timeout=WAIT_S),
        )
    ]
    for thread in threads:
        thread.start()
    for job in jobs:
        store.cancel(job.id)
    for thread in threads:
        thread.join(WAIT_S)
    del thread, threads
    assert conditions() <= before


def conditions() -> int:
    gc.collect()
    return sum(isinstance(item, threading.Condition) for item in gc.get_objects())


# What it costs


def test_a_page_looks_at_a_bounded_number_of_requests() -> None:
    store = a_store()
    first = submitted(store, session_id="wanted")
    time.sleep(0.002)
    for _ in range(SCAN_LIMIT + 10):
        submitted(store, session_id="other", on_busy=OnBusy.PARALLEL)
    listing = store.jobs(None, "wanted", 5, None, tenant="")
    assert listing.items == []
    assert listing.next_cursor is not None
    listing = store.jobs(None, "wanted", 5, listing.next_cursor, tenant="")
    assert [job.id for job in listing.items] == [first.id]
    assert listing.next_cursor is None


def test_a_submit_costs_the_same_whatever_is_stored() -> None:
    store = a_store()

    def cost() -> float:
        """Return the seconds of the quickest of ten batches."""
        batches = []
        for _ in range(10):
            jobs = [a_job() for _ in range(100)]
            began = time.perf_counter()
            for job in jobs:
                store.submit(job)
                store.cancel(job.id)
            batches.append(time.perf_counter() - began)
        return min(batches)

    gc.disable()
    try:
        for _ in range(1_000):
            ended(store)
        few = cost()
        for _ in range(98_000):
            submitted(store)
        many = cost()
    finally:
        gc.enable()
    assert many < 5 * few


def test_a_sweep_costs_the_same_however_many_wait() -> None:
    store = a_store()

    def cost() -> float:
        """Return the seconds of the quickest of ten sweeps."""
        sweeps = []
        for _ in range(10):
            began = time.perf_counter()
            store.sweep()
            sweeps.append(time.perf_counter() - began)
        return min(sweeps)

    submitted(store)
    few = cost()
    for _ in range(50_000):
        submitted(store)
    assert cost() < 50 * few


# What ends with the process


def test_all_that_has_not_ended_would_end_with_the_process() -> None:
    store = a_store()
    assert store.live() == []
    waiting, running, behind, over = (
        submitted(store, session_id="chat"),
        submitted(store),
        submitted(store, session_id="chat"),
        ended(store),
    )
    assert store.claim(running.id, "echo")
    assert {job.id for job in store.live()} == {waiting.id, running.id, behind.id}
    assert {job.status for job in store.live()} == {Status.PENDING, Status.PROCESSING}
    assert over.id not in {job.id for job in store.live()}
