"""deploy/nginx.conf in front of the service: nothing is held back, cut, or made up."""

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import websocket

from orchestrator.schemas import MAX_WAIT_S
from orchestrator.settings import Settings
from orchestrator.web.connections import LOOK_S
from orchestrator.web.sse import PING_EVERY
from orchestrator.web.ws_guard import PING_S
from tests.e2e.client import (
    LONG,
    PATIENCE_S,
    answer_of,
    answered,
    connected,
    dialled,
    frames,
    get,
    lines,
    open_stream,
    post,
    refused,
    status,
    stream,
    submit,
    until,
)
from tests.proxied import CONF, command, proxy, rendered
from tests.served import Served, free_port, serve

STREAM_PING_S = LOOK_S * PING_EVERY

SHORT_S = 7
"""A read timeout for these tests: longer than a stream's pings are apart."""


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """nginx in front of a server that says twenty words a second."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05") as behind, proxy(behind.port) as front:
        yield front


def seconds(directive: str) -> float:
    """What deploy/nginx.conf says for a directive, all of which are in seconds there."""
    (found,) = re.findall(rf"^\s*{directive} (\d+)s;$", CONF.read_text(), re.MULTILINE)
    return float(found)


def test_nginx_takes_the_configuration_without_a_warning(tmp_path: Path) -> None:
    conf = rendered(tmp_path, 8080, [8081, 8082])
    done = subprocess.run(command(conf, "-t"), capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 0, done.stderr
    assert all("syntax is ok" in line or "test is successful" in line for line in said), said


def test_reads_may_take_longer_than_the_longest_silence_of_the_service() -> None:
    longest = max(MAX_WAIT_S, STREAM_PING_S, PING_S)
    assert seconds("proxy_read_timeout") > longest + 10


def test_idle_connections_are_given_up_before_the_server_closes_them() -> None:
    assert seconds("keepalive_timeout") < Settings().keepalive_s


def test_tokens_come_through_one_by_one(slow: Served) -> None:
    # Less than the smallest buffer in all: held back, its tokens would come with its end.
    request_id = submit(slow, " ".join(["word"] * 30))
    with open_stream(slow, f"/stream/{request_id}") as answer:
        events = frames(answer)
        for name in ("start", "token", "token"):
            assert next(events).event == name
        assert status(slow, request_id)["status"] == "processing"
        *_, last = events
    assert last.data["status"] == "done"


def test_nothing_is_held_back_that_does_not_ask_for_it_either() -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream, ThreadPoolExecutor(1) as pool:
        first_is_read = threading.Event()

        def trickle() -> None:
            connection, _ = upstream.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none")
                first_is_read.wait(PATIENCE_S)
                connection.sendall(b"two")

        done = pool.submit(trickle)
        with (
            proxy(upstream.getsockname()[1]) as front,
            requests.get(front.url, stream=True, timeout=PATIENCE_S / 2) as answer,
        ):
            pieces = answer.iter_content(chunk_size=None)
            assert next(pieces) == b"one"
            first_is_read.set()
            assert next(pieces) == b"two"
        done.result()


def test_a_stream_is_read_whole_and_resumed(slow: Served) -> None:
    request_id = submit(slow, "one two three")
    whole = stream(slow, f"/stream/{request_id}")
    assert answer_of(whole) == "Echo: one two three"
    assert stream(slow, f"/stream/{request_id}", headers={"Last-Event-ID": "1"}) == whole[2:]


def test_a_websocket_is_upgraded_and_its_tokens_come_one_by_one(slow: Served) -> None:
    with connected(slow) as ws:
        request_id = ws.submit(LONG, stream=True)
        for chunk in range(4):
            frame = ws.receive()
            assert (frame["type"], frame["chunk"]) == ("token", chunk)
        assert status(slow, request_id)["status"] == "processing"
        ws.send({"type": "cancel", "request_id": request_id})
        assert ws.until("error")[-1]["code"] == "CANCELLED"
        assert ws.lives()


def test_a_page_of_the_proxys_own_address_may_open_a_websocket_and_another_may_not(
    slow: Served,
) -> None:
    with connected(slow, origin=slow.url) as ws:
        assert ws.lives()
    with (
        pytest.raises(websocket.WebSocketBadStatusException) as refusal,
        connected(slow, origin="http://elsewhere.example"),
    ):
        pass
    assert refusal.value.status_code == 403


def test_what_is_no_websocket_is_not_upgraded(slow: Served) -> None:
    answer = get(slow, "/models", headers={"Upgrade": "h2c", "Connection": "Upgrade"})
    assert answer.status_code == 200


def test_a_long_poll_is_answered_the_moment_the_request_ends(slow: Served) -> None:
    assert answered(slow, "one two three") == "Echo: one two three"


def test_a_body_too_large_is_refused_by_the_service_in_its_own_words(slow: Served) -> None:
    refused(post(slow, "/infer", {"prompt": "x" * 3_000_000}), 413, "PAYLOAD_TOO_LARGE")


def test_a_silent_stream_outlives_the_read_timeout_and_what_sends_nothing_does_not() -> None:
    with (
        serve(ORCHESTRATOR_ECHO_DELAY_S="60") as behind,
        proxy(behind.port, proxy_read_timeout=f"{SHORT_S}s") as front,
        ThreadPoolExecutor(1) as pool,
    ):
        request_id = submit(front)
        silent = pool.submit(get, front, f"/result/{request_id}?wait=60")
        with open_stream(front, f"/stream/{request_id}") as answer:
            pings = 0
            for line in lines(answer):
                pings += line == ": ping"
                if pings * STREAM_PING_S > SHORT_S:
                    break
        refused(silent.result(), 503, "PIPELINE_UNAVAILABLE")
        assert status(front, request_id)["status"] == "processing"


def test_a_reader_that_leaves_is_let_go_behind_the_proxy_too() -> None:
    with (
        serve(ORCHESTRATOR_ECHO_DELAY_S="60", ORCHESTRATOR_MAX_CONNECTIONS="16") as behind,
        proxy(behind.port) as front,
    ):
        request_id = submit(front)
        path = f"/stream/{request_id}"
        readers = [open_stream(front, path) for _ in range(12)]
        refused(get(front, path), 503, "PIPELINE_UNAVAILABLE")
        for reader in readers:
            reader.close()
        until(lambda: requests.head(f"{front.api}{path}", timeout=PATIENCE_S).ok)


# Several upstreams


@contextmanager
def named(model: str) -> Iterator[Served]:
    """A server that can be told from others by its model."""
    base = f"http://127.0.0.1:{free_port()}/v1"
    with serve(
        ORCHESTRATOR_BACKEND="openai", ORCHESTRATOR_MODEL=model, OPENAI_BASE_URL=base
    ) as served:
        yield served


def asked(front: Served) -> str:
    """Which server answers now."""
    answer = requests.get(f"{front.url}/health", timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


def test_calls_go_to_every_server_that_lives_and_without_one_the_answer_says_so() -> None:
    with named("one") as one, named("two") as two, proxy(one.port, two.port) as front:
        until(lambda: {asked(front) for _ in range(4)} == {"one", "two"})
        one.process.kill()
        one.process.wait()
        # gunicorn's worker sees that its parent is gone, and only then leaves the port.
        until(lambda: not listens(one))
        assert {asked(front) for _ in range(20)} == {"two"}
        two.process.kill()
        two.process.wait()
        until(lambda: not listens(two))
        for _ in range(3):
            answer = post(front, "/infer", {"prompt": "hello"})
            refused(answer, 503, "PIPELINE_UNAVAILABLE")
            assert int(answer.headers["Retry-After"]) >= 1
        with serve(PORT=str(two.port)):
            until(lambda: requests.get(f"{front.url}/health", timeout=PATIENCE_S).ok)


def listens(server: Served) -> bool:
    try:
        with dialled(server):
            return True
    except OSError:
        return False


def test_connections_to_the_servers_are_kept() -> None:
    with recorder() as (port, seen), proxy(port, worker_processes="1") as front:
        for _ in range(5):
            assert requests.get(front.url, timeout=PATIENCE_S).ok
    assert len({one["port"] for one in seen}) == 1


# What the service is told of a client


@contextmanager
def recorder() -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A server that keeps the headers of each call, and the port that it came from."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append(headers | {"port": str(self.client_address[1])})
            body = json.dumps({}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()
            thread.join()


def test_the_service_is_told_who_calls_and_not_what_the_caller_claims() -> None:
    with recorder() as (port, seen), proxy(port) as front:
        requests.get(
            front.url,
            headers={
                "X-Forwarded-For": "192.0.2.1",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "elsewhere.example",
                "Forwarded": "for=192.0.2.1",
            },
            timeout=PATIENCE_S,
        )
    (headers,) = seen
    own = f"127.0.0.1:{front.port}"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] == headers["host"] == own
    assert "forwarded" not in headers
    assert "upgrade" not in headers
