"""What is logged, with every logger at its most talkative: no secret, no prompt, no forged line."""

import contextlib
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
import requests
import websocket

from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
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


def test_no_log_has_what_callers_are_known_by(tmp_path: Path) -> None:
    """Keys, tokens, stream tokens, the pepper, the secret: whole, wrong, and in a spoilt file."""
    canaries, path = Canaries(), tmp_path / "keys.json"
    pepper, secret = canaries.one(), f"{canaries.one()}{canaries.one()}"
    environ = {
        "ORCHESTRATOR_API_KEYS_FILE": str(path),
        "ORCHESTRATOR_KEY_PEPPER": pepper * 2,
        "ORCHESTRATOR_JWT_SECRET": secret,
    }
    made, key = keys.create(pepper * 2, "acme", frozenset({Scope.INFER}), time.time())
    KeyFile(path).add(made)
    token = jwt.encode({"sub": canaries.one(), "exp": time.time() + 600}, secret, "HS256")
    with serve(*LOUD, **environ) as server:
        given = [one for credentials in (key, token) for one in show(server, credentials)]
        raw(server, f"GET /Bearer%20{canaries.one()} HTTP/1.1\r\nHost: x\r\n\r\n")
        record = json.loads(path.read_text())
        for field in ("id", "scopes", "rate"):
            spoilt = {"keys": [record["keys"][0] | {field: [key]}]}
            path.write_text(json.dumps(spoilt))
            until(lambda field=field: f"its {field} is none" in spoken(server, key))
        log = server.log
    assert canaries.found(log) == []
    for credentials in (key, token, *given):
        parts = set(credentials.split(".")) - {made.id}
        assert not [part for part in parts if part in log]
    assert "DEBUG" in log and '"POST /api/v1/infer" 200' in log, "or nothing is shown"


def show(server: Served, credentials: str) -> list[str]:
    """Show credentials in every way, right and wrong; return the stream tokens they brought."""
    headers = {"Authorization": f"Bearer {credentials}"}
    answer = requests.post(f"{server.api}/infer", json={"prompt": "x"}, headers=headers, timeout=9)
    request_id = answer.json()["request_id"]
    token_of = f"{server.api}/stream-token/{request_id}"
    token = str(requests.post(token_of, headers=headers, timeout=9).json()["token"])
    for _ in range(2):
        requests.get(f"{server.api}/stream/{request_id}?token={token}", timeout=9)
    for wrong in ({"X-API-Key": f"{credentials}x"}, {"Authorization": f"Basic {credentials}"}):
        requests.get(f"{server.api}/models", headers=wrong, timeout=9)
    requests.get(f"{server.api}/models)?token={credentials}&x=/{credentials}", timeout=9)
    for path in (f"x{credentials}", f"%20{credentials}", f"y;token={credentials}"):
        requests.get(f"{server.api}/sessions/{path}", timeout=9)
    raw(server, f"GET /{credentials} HTTP/1.1\r\nX-API-Key:\n{credentials}\r\n\r\n")
    raw(server, f"GET /x?{credentials} NO-HTTP\r\nX-API-Key: {credentials}\r\n\r\n")
    raw(server, f"GET http://u:{credentials}@x/ HTTP/9.9\r\n\r\n")
    for sent in (credentials, f"{credentials}y"):
        page = websocket.create_connection(server.ws, timeout=9, origin=server.url)
        page.send(json.dumps({"type": "auth", "token": sent}))
        page.recv()
        page.shutdown()
    return [token]


def spoken(server: Served, key: str) -> str:
    """Return what a server's log says once it has been called."""
    requests.get(f"{server.api}/models", headers={"X-API-Key": key}, timeout=9)
    return server.log


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
