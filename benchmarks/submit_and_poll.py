"""Submit and poll on one worker, beside a bare WSGI app on the same worker class.

    python benchmarks/submit_and_poll.py [--pairs 2000] [--rounds 15] [--profile]

Both servers run at once and are loaded by turns, so that a noisy machine is noisy for both. The
figure is the CPU time of the worker process for one submit and one poll of its result; the
ratio is the bare app's over ours, 1.0 being as fast as an app that does nothing.
"""

import argparse
import cProfile
import os
import pstats
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 16
PROMPT = b'{"prompt": "Hello", "session_id": "%s"}'
REQUEST_ID = re.compile(rb'"request_id":"([^"]+)"')
LENGTH = re.compile(rb"Content-Length: (\d+)")
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(app: str, profile: Path | None = None) -> Iterator[tuple[int, int]]:
    """Serve ``app`` with our configuration; yield the port and the worker's pid."""
    port = free_port()
    environ = os.environ | {"PORT": str(port), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/benchmarks"}
    if profile:
        environ["BENCHMARK_PROFILE"] = str(profile)
    master = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--log-level", "error", app], cwd=ROOT, env=environ
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and master.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
        while not children.read_text().split():
            time.sleep(0.05)
        yield port, int(children.read_text().split()[0])
    finally:
        master.send_signal(signal.SIGTERM)
        master.wait(60)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def read_answer(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += read_some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(found(LENGTH, head))
    while len(body) < length:
        body += read_some(sock)
    if head[9:10] != b"2":
        raise SystemExit(f"it was refused: {data!r}")
    return body


def read_some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise SystemExit("a connection was closed before its answer had come")
    return data


def found(pattern: re.Pattern[bytes], data: bytes) -> bytes:
    match = pattern.search(data)
    if not match:
        raise SystemExit(f"there is no {pattern.pattern!r} in {data!r}")
    return match[1]


def load(port: int, pairs: int) -> None:
    """Submit and poll ``pairs`` times over keep-alive connections."""
    socks = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(CONNECTIONS)]
    sent = 0
    while sent < pairs:
        for sock in socks:
            body = PROMPT % os.urandom(8).hex().encode()
            sock.sendall(
                b"POST /api/v1/infer HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
        ids = [found(REQUEST_ID, read_answer(sock)) for sock in socks]
        for sock, request_id in zip(socks, ids, strict=True):
            sock.sendall(b"GET /api/v1/result/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % request_id)
        for sock in socks:
            read_answer(sock)
        sent += len(socks)
    for sock in socks:
        sock.close()


def measure(port: int, pid: int, pairs: int) -> float:
    """Return the worker's CPU time for one pair, in microseconds."""
    before = cpu_seconds(pid)
    load(port, pairs)
    return (cpu_seconds(pid) - before) / pairs * 1e6


def profiled_app() -> "WSGIApplication":
    """The real app, under cProfile in its worker: what gunicorn serves with --profile."""
    from orchestrator.web import create_app

    app = create_app()
    profiler = cProfile.Profile()
    lock = threading.Lock()
    target = os.environ["BENCHMARK_PROFILE"]
    calls = 0

    def serve(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        nonlocal calls
        with lock:
            calls += 1
            if calls % 2000 == 0:
                profiler.dump_stats(target)
        profiler.enable()
        try:
            return app.wsgi_app(environ, start_response)
        finally:
            profiler.disable()

    return serve


def show_profile(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "profile"
        with serving("submit_and_poll:profiled_app()", target) as (port, _):
            load(port, pairs)
        pstats.Stats(str(target)).sort_stats("tottime").print_stats(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="show the profile's top lines")
    options = parser.parse_args()
    with serving("bare:app") as bare, serving("app:app") as ours:
        measure(*bare, 500)
        measure(*ours, 500)
        ratios = []
        for _ in range(options.rounds):
            floor, cost = measure(*bare, options.pairs), measure(*ours, options.pairs)
            ratios.append(floor / cost)
            print(f"bare {floor:6.1f} us   ours {cost:6.1f} us   ratio {floor / cost:.2f}")
    print(f"submit and poll: {sorted(ratios)[len(ratios) // 2]:.2f} x a bare WSGI app (median)")
    if options.profile:
        show_profile(options.pairs)


if __name__ == "__main__":
    main()
