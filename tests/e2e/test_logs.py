"""What is logged, with every logger at its most talkative: no secret, no prompt, no forged line."""

import contextlib
import json
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import websocket

from tests.e2e.client import until
from tests.fakes.upstream import Upstream, start_upstream
from tests.redis_server import RedisServer
from tests.scaled import Worker, scaled
from tests.served import Served, serve

LOUD = ("--log-level", "debug", "--access-logfile", "-")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


class Canaries:
    """Secrets that are found again wherever they turn up."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def one(self) -> str:
        self.all.append(f"canary{secrets.token_hex(12)}")
        return self.all[-1]

    def found(self, log: str) -> list[str]:
        """Those that a log has: as they are, or as parts of one."""
        return [line for line in log.splitlines() if "canary" in line.lower()]


def settings(folder: Path, upstream: Upstream, canaries: Canaries) -> dict[str, str]:
    """What makes a service that asks a callable and a server, with keys for the latter."""
    path = folder / "routes.toml"
    path.write_text(
        '[backends.loud]\nkind = "python"\ncallable = "tests.fakes.loud:answer"\n'
        f'[backends.far]\nkind = "openai"\nbase_url = "{upstream.url}?key={canaries.one()}"\n'
        'api_key_env = "KEY_OF_FAR"\n'
        '[models.default]\ntargets = ["loud"]\nretries = 0\n'
        '[models.far]\ntargets = ["far/any"]\nretries = 0\n'
    )
    return {"ORCHESTRATOR_CONFIG": str(path), "KEY_OF_FAR": canaries.one()}


def sing(server: Served, canaries: Canaries) -> None:
    """Put a new secret wherever a client can put one."""
    new = canaries.one
    headers = {
        "Authorization": f"Bearer {new()}",
        "X-API-Key": new(),
        "Cookie": f"session={new()}",
        "Idempotency-Key": new(),
        "Referer": f"http://127.0.0.1/?token={new()}",
        "User-Agent": new(),
    }
    bodies = [
        {"prompt": f"says {new()}", "system": new(), "metadata": {"note": new()}, "stop": [new()]},
        {"prompt": f"fails {new()}"},
        {"prompt": f"fault:leak 400 {new()}", "model": "far"},
        {"prompt": f"fault:status 500 0 {new()}", "model": "far"},
        {"prompt": f"fault:error 3 500 {new()}", "model": "far"},
        {"prompt": f"fault:junk {new()}", "model": "far"},
        {"prompt": f"fault:said_error {new()}", "model": "far"},
        {"prompt": new(), new(): new()},
        {"prompt": "x", "model": new()},
    ]
    for number, body in enumerate(bodies):
        more = headers | {"Idempotency-Key": f"{headers['Idempotency-Key']}{number}"}
        url = f"{server.api}/infer?token={new()}&api_key={new()}"
        answer = requests.post(url, json=body, headers=more | {"Prefer": "wait=20"}, timeout=30)
        # 503 once the far one has failed too often.
        assert answer.status_code in (200, 400, 503)
        if answer.ok:
            stream = f"{server.api}/stream/{answer.json()['request_id']}?token={new()}"
            assert requests.get(stream, headers=headers, timeout=30).status_code == 200
    assert (
        requests.post(f"{server.api}/infer", data=f'{{"a": {new()}', timeout=9).status_code == 415
    )
    requests.get(f"{server.api}/nowhere?token={new()}", headers=headers, timeout=9)
    raw(server, f"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: {new()}\r\n\r\n")
    raw(server, f"GET /health?token={new()} NO-HTTP\r\n\r\n")
    raw(server, f"{new()}\r\n\r\n")
    client = websocket.create_connection(f"{server.ws}?token={new()}", timeout=20)
    with contextlib.closing(client):
        for text in (f"{{{new()}", json.dumps({"prompt": f"fails {new()}"}), f'"{new()}"'):
            client.send(text)
            client.recv()
        client.recv()


def raw(server: Served, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(text.encode())
        return client.recv(65536)


def test_no_log_of_a_process_alone_has_a_secret_or_a_prompt(
    tmp_path: Path, upstream: Upstream
) -> None:
    canaries = Canaries()
    with serve(*LOUD, **settings(tmp_path, upstream, canaries)) as server:
        while len(canaries.all) < 200:
            sing(server, canaries)
        log = server.log
    assert canaries.found(log) == []
    assert "DEBUG" in log and '"POST /api/v1/infer" 200' in log, "or nothing is shown"
    assert "ValueError" in log and "tests/fakes/loud.py" in log, "a fault says where it is"
    assert not re.search("^2026-01-01", log, re.MULTILINE)


def test_no_log_of_web_or_worker_has_a_secret_or_a_prompt(
    tmp_path: Path, upstream: Upstream, redis: RedisServer, hired: Callable[..., Worker]
) -> None:
    canaries = Canaries()
    shared = scaled(redis, **settings(tmp_path, upstream, canaries))
    worker = hired(**shared)
    with serve(*LOUD, **shared) as server:
        until(lambda: requests.get(f"{server.url}/health/ready", timeout=20).ok)
        while len(canaries.all) < 200:
            sing(server, canaries)
        log = server.log
    assert canaries.found(log) == []
    assert canaries.found(worker.log) == []
    assert "DEBUG:" in worker.log and "ValueError" in worker.log, "or nothing is shown"


def test_with_the_setting_a_fault_says_what_it_says(tmp_path: Path, upstream: Upstream) -> None:
    environ = settings(tmp_path, upstream, Canaries()) | {"ORCHESTRATOR_LOG_MESSAGES": "yes"}
    with serve(**environ) as server:
        body = {"prompt": "fails in a way of its own"}
        requests.post(f"{server.api}/infer", json=body, headers={"Prefer": "wait=20"}, timeout=30)
        until(lambda: "ValueError: fails in a way of its own\\n2026" in server.log)
        assert environ["KEY_OF_FAR"] not in server.log


FORGERIES = [
    "%0d%0aFORGED",
    "%1b[2JFORGED",
    "%c2%85FORGED",
    "%e2%80%a8FORGED",
    "%00FORGED",
    "%0bFORGED",
]


def test_no_client_writes_lines_of_its_own_into_a_log(tmp_path: Path, upstream: Upstream) -> None:
    environ = settings(tmp_path, upstream, Canaries()) | {"ORCHESTRATOR_LOG_MESSAGES": "yes"}
    with serve(*LOUD, **environ) as server:
        for text in FORGERIES:
            plain = requests.utils.unquote(text)
            for path in ("/", "/api/v1/status/", "/api/v1/sessions/", "/api/v1/requests?cursor="):
                requests.get(f"{server.url}{path}{text}", timeout=10)
            body = {"prompt": f"fails {plain}", "metadata": {"tenant": plain}}
            requests.post(
                f"{server.api}/infer",
                json=body,
                headers={"Prefer": "wait=20", "X-Request-Id": "FORGED"},
                timeout=30,
            )
            requests.post(f"{server.api}/infer", json={"session_id": plain}, timeout=10)
            for header in (f"X: {plain}", f"{plain}: x", f"User-Agent: {plain}"):
                raw(
                    server,
                    f"GET /health HTTP/1.1\r\nHost: x\r\n{header}\r\nConnection: close\r\n\r\n",
                )
        log = server.log_path.read_bytes().decode("utf-8", "replace")
    assert "FORGED" in log, "or nothing is shown"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]", log)
    assert not [line for line in log.splitlines() if line.lstrip("[2J").startswith("FORGED")]
