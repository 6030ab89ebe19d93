"""Workers, web processes and Redis die, stop, or are not there: no request is missed for it."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from redis import Redis

from orchestrator.dispatch.dramatiq.broker import QUEUES
from orchestrator.settings import Settings
from orchestrator.web.openapi.faults import FAULTS
from tests import redis_server
from tests.e2e.client import (
    END,
    LONG,
    PATIENCE_S,
    answer_of,
    connected,
    ended,
    frames,
    get,
    open_stream,
    post,
    refused,
    started,
    status,
    stream,
    submit,
    until,
)
from tests.redis_server import RedisServer
from tests.scaled import WORDS, Worker, is_ready, scaled, working
from tests.served import BUSY, Served

Serving = Callable[..., Served]

PROMISED_S = 20.0
"""How soon a killed worker's requests run again with the usual lease: some 14 s, if not busy."""


def messages(redis: RedisServer) -> int:
    """Return how many messages to workers there are, those included that are being run."""
    with Redis(port=redis.port, db=1) as queues:
        return sum(queues.hlen(f"dramatiq:{queue}.msgs") for queue in QUEUES)


# Who runs it dies


def test_a_killed_workers_request_runs_again_and_its_stream_begins_anew(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    usual = {"ORCHESTRATOR_LEASE_S": str(Settings().lease_s)}
    first = hired(**usual)
    server = serving(**scaled(redis, **usual))
    until(lambda: is_ready(server))
    request_id = submit(server, WORDS)
    with open_stream(server, f"/stream/{request_id}") as answer:
        events = frames(answer)
        seen = [next(events) for _ in range(10)]
        first.kill()
        killed_at = time.monotonic()
        hired(**usual)
        for frame in events:
            seen.append(frame)
            if frame.event == "restart":
                assert time.monotonic() - killed_at < PROMISED_S
    kinds = [frame.event for frame in seen]
    restart = kinds.index("restart")
    assert seen[restart].data == {"attempt": 2}
    assert answer_of(seen[restart:]) == f"Echo: {WORDS}"
    assert [frame.id for frame in seen] == list(range(len(seen)))
    assert seen[-1].data["status"] == "done"
    assert status(server, request_id)["attempts"] == 2


def test_a_worker_that_stops_gives_back_what_it_cannot_finish(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    first = hired(ORCHESTRATOR_GRACEFUL_TIMEOUT_S="6")
    server = serving(**scaled(redis))
    until(lambda: is_ready(server))
    long, short = submit(server, LONG), submit(server, WORDS)
    started(server, long)
    started(server, short)
    hired()
    began = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    with open_stream(server, f"/stream/{long}") as answer:
        restart = next(frame for frame in frames(answer) if frame.event == "restart")
    # At once when its time is up, not when a lease ends.
    assert first.process.wait(20) == 0
    assert time.monotonic() - began < 6 * BUSY
    assert restart.data == {"attempt": 2}
    assert "was given back" in first.log
    assert "Traceback" not in first.log
    assert ended(server, short)["result"] == f"Echo: {WORDS}"


def test_a_worker_that_stops_finishes_what_it_can_and_takes_nothing_new(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    worker = hired(ORCHESTRATOR_GRACEFUL_TIMEOUT_S="16", ORCHESTRATOR_CONCURRENCY="12")
    server = serving(**scaled(redis))
    until(lambda: is_ready(server))
    # Of many that end soon none takes the time of one that needs more: 4 s and 7 s.
    prompts = [" ".join([WORDS] * times) for times in [3] * 11 + [6]]
    running = [submit(server, prompt) for prompt in prompts]
    for request_id in running:
        started(server, request_id)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "Draining" in worker.log)
    later = submit(server, "later")
    assert worker.process.wait(60) == 0
    for request_id in running:
        assert ended(server, request_id)["attempts"] == 1
    assert "given back" not in worker.log
    assert status(server, later)["status"] == "pending"
    hired()
    assert ended(server, later)["result"] == "Echo: later"


def test_a_second_signal_has_a_worker_give_back_at_once(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    worker = hired()
    server = serving(**scaled(redis))
    until(lambda: is_ready(server))
    request_id = submit(server, LONG)
    started(server, request_id)
    # To both processes, and so twice to the one that runs requests: that is no impatience.
    os.killpg(worker.process.pid, signal.SIGTERM)
    until(lambda: "Draining" in worker.log)
    assert status(server, request_id)["status"] == "processing"
    time.sleep(1.1)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process.wait(20) == 0
    assert status(server, request_id)["status"] == "pending"


def test_a_worker_that_stops_while_redis_hangs_ends_all_the_same(
    tmp_path: Path, serving: Serving
) -> None:
    with redis_server.running(tmp_path) as redis:
        environ = scaled(redis, ORCHESTRATOR_GRACEFUL_TIMEOUT_S="6")
        with working(tmp_path / "worker", **environ) as worker:
            server = serving(**environ)
            until(lambda: is_ready(server))
            for request_id in [submit(server, LONG) for _ in range(3)]:
                started(server, request_id)
            redis.freeze()
            worker.process.send_signal(signal.SIGTERM)
            try:
                # What can't be given back runs elsewhere once its lease is out.
                assert worker.process.wait(6 * BUSY) == 0
            finally:
                redis.thaw()


def test_a_request_that_kills_its_workers_fails_after_three(
    redis: RedisServer, serving: Serving, tmp_path: Path
) -> None:
    environ = scaled(
        redis, ORCHESTRATOR_BACKEND="tests.fakes.callables:deadly", ORCHESTRATOR_LEASE_S="1"
    )
    server = serving(**environ)
    stopped = threading.Event()

    def replace() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            with working(tmp_path / f"worker{number}", **environ) as worker:
                until(lambda: worker.process.poll() is not None or stopped.is_set(), 60)

    keeper = threading.Thread(target=replace)
    keeper.start()
    try:
        until(lambda: is_ready(server))
        poison = submit(server, "poison")
        until(lambda: status(server, poison)["status"] in END, 60)
        record = status(server, poison)
        harmless = ended(server, submit(server, "harmless"))
    finally:
        stopped.set()
        keeper.join()
    assert (record["status"], record["error_code"]) == ("failed", "WORKER_LOST")
    assert record["attempts"] == 3
    kinds = [frame.event for frame in stream(server, f"/stream/{poison}")]
    assert kinds.count("restart") == 2
    assert kinds.count("complete") == 1
    assert harmless["result"] == "so far so good"


# Nobody is there


def test_a_worker_gives_a_sign_that_it_lives_though_redis_does_not(
    tmp_path: Path,
) -> None:
    redis, sign = RedisServer(tmp_path), tmp_path / "sign"
    with working(tmp_path / "worker", **scaled(redis, ORCHESTRATOR_WORKER_SIGN=str(sign))):
        until(sign.exists)
        os.utime(sign, (0, 0))
        until(lambda: sign.stat().st_mtime > 0)


def test_without_a_worker_submits_say_what_to_do(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    server = serving(**scaled(redis))
    answer = post(server, "/infer", {"prompt": "Hello"})
    assert answer.json() == FAULTS["no_worker"].envelope()
    assert int(answer.headers["Retry-After"]) > 0
    ready = requests.get(f"{server.url}/health/ready", timeout=PATIENCE_S)
    assert ready.json() == answer.json()
    assert requests.get(f"{server.url}/health/live", timeout=PATIENCE_S).status_code == 200
    hired()
    until(lambda: is_ready(server))
    assert ended(server, submit(server, "Hello"))["result"] == "Echo: Hello"


def test_a_worker_leaves_a_model_that_it_does_not_have_to_others(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker], tmp_path: Path
) -> None:
    few, many = tmp_path / "few.toml", tmp_path / "many.toml"
    few.write_text('[backends.e]\nkind = "echo"\n[models.default]\ntargets = ["e"]\n')
    many.write_text(few.read_text() + '[models.new]\ntargets = ["e"]\n')
    worker = hired(ORCHESTRATOR_CONFIG=str(few), ORCHESTRATOR_CONCURRENCY="4")
    server = serving(**scaled(redis, ORCHESTRATOR_CONFIG=str(many)))
    until(lambda: is_ready(server))
    named = {"prompt": "Hello", "model": "new"}
    error = refused(post(server, "/infer", named), 503, "PIPELINE_UNAVAILABLE")
    assert error["message"].startswith("No worker that has the model new has been seen")
    other = hired(ORCHESTRATOR_CONFIG=str(many))
    until(lambda: post(server, "/infer", named).ok)
    # It counts as there for a while.
    other.kill()
    request_id = submit(server, "Hello", model="new")
    # It is said of one request at a time, whichever that is.
    until(lambda: "is left to other workers" in worker.log)
    assert "there is no model 'new' here" in worker.log
    assert "Traceback" not in worker.log
    assert status(server, request_id)["status"] == "pending"
    # As many as it could run, before all others: none of them keeps it from what it can run.
    waiting = [submit(server, "Hello", model="new", priority="high") for _ in range(12)]
    began = time.monotonic()
    assert ended(server, submit(server, "Hello"))["result"] == "Echo: Hello"
    assert time.monotonic() - began < BUSY
    # And none that has ended is sent about any more.
    for other_id in waiting:
        assert post(server, f"/cancel/{other_id}", {}).json()["status"] == "cancelled"
    # The first to hear of what is sent is the one who was there before.
    hired(ORCHESTRATOR_CONFIG=str(many))
    assert ended(server, request_id)["result"] == "Echo: Hello"
    assert ended(server, submit(server, "Hello", model="new"))["result"] == "Echo: Hello"
    until(lambda: not messages(redis))


def test_without_redis_everything_waits_for_it_and_nothing_needs_a_restart(
    tmp_path: Path, serving: Serving
) -> None:
    redis = RedisServer(tmp_path)
    environ = scaled(redis)
    server = serving(**environ)
    with working(tmp_path / "worker", **environ) as worker:
        began = time.monotonic()
        answers = [post(server, "/infer", {"prompt": "Hello"}), get(server, "/requests")]
        assert time.monotonic() - began < 2 * BUSY
        for answer in answers:
            assert "Redis" in refused(answer, 503, "PIPELINE_UNAVAILABLE")["message"]
            assert int(answer.headers["Retry-After"]) > 0
        assert requests.get(f"{server.url}/health/live", timeout=PATIENCE_S).status_code == 200
        redis.start()
        try:
            until(lambda: is_ready(server))
            assert ended(server, submit(server, "Hello"))["result"] == "Echo: Hello"
        finally:
            redis.kill()
        assert "Traceback" not in worker.log
    assert "Traceback" not in server.log


def test_a_redis_with_one_database_will_do(tmp_path: Path, serving: Serving) -> None:
    with redis_server.running(tmp_path, "--databases", "1") as redis:
        environ = scaled(redis, ORCHESTRATOR_QUEUE_REDIS_URL=redis.url)
        server = serving(**environ)
        with working(tmp_path / "worker", **environ):
            until(lambda: is_ready(server))
            assert ended(server, submit(server, "Hello"))["result"] == "Echo: Hello"


# A web process stops


def test_a_web_process_that_stops_leaves_its_requests_and_readers_to_others(
    redis: RedisServer, serving: Serving, hired: Callable[..., Worker]
) -> None:
    hired()
    a, b = serving(**scaled(redis)), serving(**scaled(redis))
    until(lambda: is_ready(a) and is_ready(b))
    request_id = submit(a, LONG)
    began = started(a, request_id)["attempts"]
    with (
        open_stream(a, f"/stream/{request_id}") as answer,
        connected(a) as socket,
        ThreadPoolExecutor() as pool,
    ):
        events = frames(answer)
        seen = [next(events)]
        socket.submit(LONG)
        poll = pool.submit(get, a, f"/result/{request_id}?wait=30")
        until(lambda: poll.running())
        time.sleep(0.2)
        a.process.send_signal(signal.SIGTERM)
        sent_at = time.monotonic()
        assert socket.close_code() == 1001
        seen += list(events)
        assert poll.result().status_code == 202
    assert a.process.wait(20) == 0
    # It doesn't wait for what runs elsewhere.
    assert time.monotonic() - sent_at < 5 * BUSY
    assert seen[-1].event == "token"
    last = {"Last-Event-ID": str(seen[-1].id)}
    with open_stream(b, f"/stream/{request_id}", headers=last) as answer:
        assert next(frames(answer)).id == seen[-1].id + 1
    record = status(b, request_id)
    assert (record["status"], record["attempts"]) == ("processing", began)
    assert "Traceback" not in a.log
    assert json.loads(post(b, f"/cancel/{request_id}?wait=10").text)["status"] == "cancelled"
