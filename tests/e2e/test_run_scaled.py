"""`orchestrator run-scaled` and `orchestrator worker`, as a person at a terminal uses them."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.scaled import WORKERS
from tests.e2e.client import until
from tests.needs import needs
from tests.processes import children, family, is_running
from tests.redis_server import RedisServer
from tests.scaled import Worker
from tests.served import BUSY, ROOT, START_S, environment, free_port

ORCHESTRATOR = [sys.executable, "-m", "orchestrator"]
QUIET: dict[str, Any] = {"capture_output": True, "timeout": 30}


@contextmanager
def scaled(log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it until it says that it is ready, in a session of its own, as in a terminal."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*ORCHESTRATOR, "run-scaled"],
            cwd=ROOT,
            env=environment(**{"PORT": str(free_port())} | environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "Try:" in log.read_text() or process.poll() is not None, START_S)
        assert process.poll() is None, log.read_text()
        # It is ready with one worker: the other may still be starting.
        until(lambda: log.read_text().count("Ready to run") == WORKERS, START_S)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_it_serves_replaces_a_dead_worker_and_ends_whole_on_ctrl_c(tmp_path: Path) -> None:
    needs("redis-server")
    needs("curl")
    log = tmp_path / "log"
    with scaled(log) as process:
        kinds = [command_line(pid) for pid in children(process.pid)]
        assert sum("redis-server" in kind for kind in kinds) == 1
        assert sum("orchestrator.worker" in kind for kind in kinds) == 2
        gunicorn = next(pid for pid in children(process.pid) if "gunicorn" in command_line(pid))
        assert len(children(gunicorn)) == 2

        (line,) = re.findall(r"^  (curl .*)$", log.read_text(), re.M)
        said = subprocess.run(shlex.split(line), capture_output=True, timeout=30, check=True)
        assert said.stdout.decode().count("event: complete") == 1

        killed = next(
            pid for pid in children(process.pid) if "orchestrator.worker" in command_line(pid)
        )
        os.kill(children(killed)[0], signal.SIGKILL)
        until(lambda: log.read_text().count("Ready to run") == 3)
        subprocess.run(shlex.split(line), capture_output=True, timeout=30, check=True)

        everyone = family(process.pid)
        began = time.monotonic()
        # Ctrl-C reaches all of a terminal's processes; the others have sessions of their own.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 5 * BUSY
    until(lambda: not any(map(is_running, everyone)))
    assert "Traceback" not in log.read_text()


def test_whatever_is_killed_is_started_again_and_a_closed_terminal_ends_all(tmp_path: Path) -> None:
    needs("redis-server")
    log = tmp_path / "log"
    with scaled(log) as process:
        said = log.read_text()
        (told,) = re.findall(r"^Processes: (.*)$", said, re.M)
        assert [part.split()[0] for part in told.split(", ")] == [
            "redis",
            "web",
            "worker",
            "worker",
        ]
        assert "make run-scaled" in said
        redis = next(pid for pid in children(process.pid) if "redis-server" in command_line(pid))
        (killed,) = re.findall(r"^  kill -9 -- -(\d+)$", said, re.M)
        everyone = family(process.pid)
        os.kill(redis, signal.SIGKILL)
        os.kill(int(killed), signal.SIGKILL)
        until(lambda: log.read_text().count("Ready to run") == 3)
        until(lambda: "redis ended with code -9" in log.read_text())
        (curl,) = re.findall(r"^  (curl .*)$", said, re.M)
        until(lambda: b"event: complete" in subprocess.run(shlex.split(curl), **QUIET).stdout)
        everyone += family(process.pid)
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(30) == 0
    until(lambda: not any(map(is_running, everyone)))


def test_a_worker_ends_when_its_master_was_killed(hired: Callable[[], Worker]) -> None:
    worker = hired()
    pid = worker.pid
    os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: not is_running(pid))


def test_of_several_workers_each_dies_alone_and_sigterm_ends_all(
    redis: RedisServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*ORCHESTRATOR, "worker", "--processes", "3"],
            cwd=ROOT,
            env=environment(REDIS_URL=redis.url),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: log.read_text().count("Ready to run") == 3, START_S)
        masters = children(process.pid)
        assert len(masters) == 3
        everyone = family(process.pid)
        os.kill(children(masters[0])[0], signal.SIGKILL)
        until(lambda: log.read_text().count("Ready to run") == 4, START_S)
        assert masters[1:] == [pid for pid in children(process.pid) if pid in masters]
        everyone += family(process.pid)
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0
    until(lambda: not any(map(is_running, everyone)))
    assert log.read_text().count("Draining") == 3


def test_workers_that_cannot_start_are_not_started_again_and_again(redis: RedisServer) -> None:
    said = refused(
        "worker", "--processes", "2", REDIS_URL=redis.url, ORCHESTRATOR_BACKEND="no.such:thing"
    )
    assert "ORCHESTRATOR_BACKEND" in said


def test_it_takes_the_redis_that_is_named(redis: RedisServer, tmp_path: Path) -> None:
    with scaled(tmp_path / "log", REDIS_URL=redis.url) as process:
        kinds = [command_line(pid) for pid in children(process.pid)]
        assert not any("redis-server" in kind for kind in kinds)
        assert set(redis.client.keys()) <= {b"o:workers"}
        until(lambda: redis.client.publish("o:wake", "") == 2)


def test_without_redis_server_it_says_what_to_install(tmp_path: Path) -> None:
    assert "apt-get install redis-server" in refused("run-scaled", PATH=str(tmp_path))


def test_a_redis_that_does_not_answer_is_told_of_at_once(redis: RedisServer) -> None:
    said = refused("run-scaled", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert "Connection refused" in said
    assert "REDIS_URL names no Redis that answers" in said
    assert "gunicorn" not in said
    assert "begins with redis://, not rediss://" in refused(
        "run-scaled", REDIS_URL=redis.url.replace("redis://", "rediss://")
    )


@pytest.mark.parametrize("command", ["run-scaled", "worker", "serve"])
def test_a_password_that_is_missing_or_wrong_is_told_of_at_once(
    redis: RedisServer, command: str
) -> None:
    redis.client.config_set("requirepass", "right")
    try:
        for password in ("", ":wrong@"):
            url = redis.url.replace("redis://", f"redis://{password}")
            said = refused(command, REDIS_URL=url)
            assert "REDIS_URL lets nobody in" in said
            assert "%2F for /" in said
        url = redis.url.replace("redis://", "redis://:right@")
        said = refused(command, REDIS_URL=url, ORCHESTRATOR_QUEUE_REDIS_URL=redis.url)
        assert "ORCHESTRATOR_QUEUE_REDIS_URL lets nobody in" in said
    finally:
        redis.client.config_set("requirepass", "")


@pytest.mark.parametrize("command", ["run-scaled", "worker", "serve"])
@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("99", "REDIS_URL can't be used: DB index is out of range. Name a database"),
        ("15", "Name one in ORCHESTRATOR_QUEUE_REDIS_URL"),
    ],
)
def test_a_database_that_is_not_there_is_told_of_at_once(
    redis: RedisServer, command: str, database: str, said: str
) -> None:
    found = refused(command, REDIS_URL=redis.url.removesuffix("0") + database)
    assert said in found
    assert "Traceback" not in found


def test_what_is_no_redis_is_told_of_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_as_no_redis, args=(server,), daemon=True).start()
        port = server.getsockname()[1]
        found = refused("run-scaled", REDIS_URL=f"redis://127.0.0.1:{port}/0")
    assert "REDIS_URL can't be used: Protocol error" in found
    assert "Traceback" not in found


def answer_as_no_redis(server: socket.socket) -> None:
    """Answer connections as a web server does, until ``server`` is closed."""
    with suppress(OSError):
        while True:
            client, _ = server.accept()
            with client, suppress(OSError):
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "REDIS_URL is not set."),
        ({"REDIS_URL": "localhost"}, "REDIS_URL: its value is not an address such as"),
    ],
)
def test_a_worker_that_cannot_work_says_why(environ: dict[str, str], said: str) -> None:
    assert said in refused("worker", **environ)


def test_dramatiq_by_itself_says_why_as_well() -> None:
    command = [str(Path(sys.executable).with_name("dramatiq-gevent")), "orchestrator.worker"]
    said = refused(command=[*command, "--processes", "1"])
    assert "orchestrator: REDIS_URL is not set." in said


def refused(*arguments: str, command: list[str] = ORCHESTRATOR, **environ: str) -> str:
    """Run a command that must refuse, and return what it said."""
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment(**{"PORT": str(free_port())} | environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        text=True,
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout
    return done.stdout
