"""Who comes in with good credentials, how they are asked for, and what ends with them.

That nobody comes in without them is in test_bypass.py.
"""

import base64
import contextlib
import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import websocket

from orchestrator.auth.key_file import LOOK_EVERY_S
from orchestrator.auth.tickets import TTL_S
from orchestrator.stores.redis import names
from orchestrator.strict_json import MAX_BODY
from orchestrator.web.connections import UNNAMED_SHARE
from orchestrator.web.ws_guard import FIRST_BYTES
from tests import redis_server
from tests.e2e.client import (
    PATIENCE_S,
    call,
    connected,
    enveloped,
    exchange,
    frames,
    get,
    open_stream,
    refused,
    request_head,
    until,
)
from tests.fakes.upstream import Upstream, start_upstream
from tests.redis_server import RedisServer
from tests.scaled import is_ready, working
from tests.served import BUSY, Served, environment, serve

PEPPER = "0123456789abcdef" * 4
SECRET = "a secret that tokens are signed with"
ID = "01980000-0000-7000-8000-000000000000"
JSON = {"Content-Type": "application/json"}
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
)


class Keys:
    """`orchestrator keys`, as one types it."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.environ = {
            "ORCHESTRATOR_API_KEYS_FILE": str(folder / "keys.json"),
            "ORCHESTRATOR_KEY_PEPPER": PEPPER,
        } | environ

    def __call__(self, *arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "keys", *arguments],
            env=environment(**self.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stderr
        return done.stdout if ok else done.stderr

    def create(self, *arguments: str, tenant: str = "acme") -> str:
        return self("create", "--tenant", tenant, *arguments).strip()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def good(keys: Keys) -> str:
    return keys.create()


@pytest.fixture(scope="module")
def server(keys: Keys, good: str, upstream: Upstream) -> Iterator[Served]:
    """Takes keys of a file, and tokens signed with SECRET."""
    with serve(
        **keys.environ,
        ORCHESTRATOR_JWT_SECRET=SECRET,
        ORCHESTRATOR_JWT_ISSUER="issuer",
        ORCHESTRATOR_JWT_AUDIENCE="audience",
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="fake",
        OPENAI_BASE_URL=upstream.url,
    ) as running:
        yield running


def token(secret: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    now = int(time.time())
    given = {"sub": "alice", "exp": now + 300, "iss": "issuer", "aud": "audience"} | claims
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, secret, algorithm)


def _status(server: Served, method: str, address: str, *lines: str) -> int:
    body = b'{"prompt": "who goes there"}'
    head = (
        f"{method} {address} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) if method == 'POST' else 0}\r\nConnection: close\r\n"
    )
    if any(line.startswith("Upgrade") for line in lines):
        head = head.replace("Connection: close\r\n", "")
    text = head + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    answer = exchange(server, text.encode() + (body if method == "POST" else b""))
    return answer.status


def test_an_error_says_what_to_do(server: Served) -> None:
    answer = call(server, "GET", "/models")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "X-API-Key" in enveloped(answer.json(), "UNAUTHORIZED")["message"]


def test_a_server_answers_while_another_process_has_the_lock_of_the_uses(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = {"X-API-Key": keys.create()}
    with (tmp_path / "keys.json.used.lock").open("w") as lock, serve(**keys.environ) as server:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call(server, "GET", "/models", headers=key).ok
        until(lambda: "is noted a minute later" in server.log)
        assert call(server, "GET", "/models", headers=key).ok


@pytest.mark.parametrize("spelling", ["..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e"])
def test_no_way_leads_out_of_what_is_open(server: Served, spelling: str) -> None:
    for route in ("/api/v1/models", "/keys.json", "/app.py"):
        assert _status(server, "GET", f"/static/{spelling}{route}") in (401, 404)


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/", "/docs"])
def test_some_addresses_are_for_everyone(server: Served, path: str) -> None:
    assert requests.get(f"{server.url}{path}", timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize("kind", ["X-API-Key", "Bearer", "JWT"])
def test_good_credentials_open_every_door(server: Served, good: str, kind: str) -> None:
    headers = {
        "X-API-Key": {"X-API-Key": good},
        "Bearer": {"Authorization": f"Bearer {good}"},
        "JWT": {"Authorization": f"Bearer {token()}"},
    }[kind]
    answer = call(server, "POST", "/infer", json={"prompt": "hello"}, headers=headers)
    request_id = answer.json()["request_id"]
    done = call(server, "GET", f"/result/{request_id}?wait=15", headers=headers)
    assert done.json()["result"] == "hello"
    with open_stream(server, f"/stream/{request_id}", headers=headers) as opened:
        assert list(frames(opened))[-1].event == "complete"
    with connected(server, header=headers) as socket:
        socket.submit("hello again", stream=True)
        assert socket.until("result")[-1]["result"] == "hello again"


def test_a_key_that_may_only_read_asks_nothing(server: Served, keys: Keys, good: str) -> None:
    reader = {"X-API-Key": keys.create("--scope", "read")}
    until(lambda: call(server, "GET", "/models", headers=reader).status_code == 200)
    for method, path in (("POST", "/infer"), ("POST", f"/cancel/{ID}"), ("DELETE", "/sessions/a")):
        answer = call(server, method, path, json={"prompt": "x"}, headers=reader)
        assert answer.status_code == 403
        enveloped(answer.json(), "FORBIDDEN")
    with connected(server, header=reader) as socket:
        for frame in ({"prompt": "x"}, {"type": "cancel", "request_id": ID}):
            socket.send(frame)
            assert socket.receive()["code"] == "FORBIDDEN"
        socket.send({"type": "ping"})
        assert socket.receive() == {"type": "pong"}


# Pages: they can send no headers where they stream


def test_a_stream_token_opens_one_stream_once(server: Served, good: str) -> None:
    headers = {"X-API-Key": good}
    ids = [
        call(server, "POST", "/infer", json={"prompt": "x"}, headers=headers).json()["request_id"]
        for _ in range(2)
    ]

    def issue(request_id: str) -> str:
        answer = call(server, "POST", f"/stream-token/{request_id}", headers=headers)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json()["expires_in"] <= 60
        return str(answer.json()["token"])

    given = issue(ids[0])
    for path in ("status", "result", "events"):
        assert call(server, "GET", f"/{path}/{ids[0]}?token={given}").status_code == 401
    with open_stream(server, f"/stream/{ids[0]}?token={given}") as opened:
        assert list(frames(opened))[-1].event == "complete"
    assert call(server, "GET", f"/stream/{ids[0]}?token={given}").status_code == 401
    assert call(server, "GET", f"/stream/{ids[1]}?token={issue(ids[0])}").status_code == 401
    unknown = call(server, "POST", f"/stream-token/{ID}", headers=headers)
    assert unknown.status_code == 404
    assert given not in server.log


@pytest.mark.parametrize(
    ("setting", "value", "places", "status"),
    [
        ("ORCHESTRATOR_STREAMS_PER_CALLER", "1", 1, 429),
        ("ORCHESTRATOR_MAX_CONNECTIONS", "16", 12, 503),
    ],
)
def test_an_answer_that_opens_no_stream_leaves_its_token_good(
    keys: Keys, good: str, setting: str, value: str, places: int, status: int
) -> None:
    headers = {"X-API-Key": good}
    environ = keys.environ | {setting: value, "ORCHESTRATOR_ECHO_DELAY_S": "0.2"}
    with serve(**environ) as server:
        body = {"prompt": "word " * 2000, "stream": True}
        request_id = call(server, "POST", "/infer", json=body, headers=headers).json()["request_id"]
        given = call(server, "POST", f"/stream-token/{request_id}", headers=headers).json()["token"]
        address = f"/stream/{request_id}"
        by_token = f"{address}?token={given}"
        with contextlib.ExitStack() as stack:
            for _ in range(places):
                opened = stack.enter_context(open_stream(server, address, headers=headers))
                next(frames(opened))
            assert call(server, "GET", by_token).status_code == status
        call(server, "POST", f"/cancel/{request_id}?wait=9", headers=headers)
        until(lambda: call(server, "HEAD", by_token).status_code == 200)
        assert call(server, "GET", f"{by_token}&after=999999").status_code == 204
        until(lambda: call(server, "GET", by_token).status_code == 200)
        assert call(server, "HEAD", by_token).status_code == 401


def test_a_page_says_who_it_is_in_its_first_message(server: Served, good: str) -> None:
    for credentials in (good, token()):
        with connected(server, origin=server.url) as socket:
            socket.send({"type": "auth", "token": credentials, "ref": 1})
            assert socket.receive() == {"type": "welcome", "ref": 1}
            socket.submit("hello")
            assert socket.until("result")


@pytest.mark.parametrize(
    "first",
    [
        {"prompt": "let me in"},
        {"type": "auth", "token": "wrong"},
        {"type": "auth", "token": ""},
        {"type": "auth"},
        {"type": "ping"},
        {"type": "subscribe", "request_id": ID},
        "no JSON",
    ],
)
def test_a_page_that_does_not_say_so_is_sent_away(
    server: Served, upstream: Upstream, first: dict[str, str] | str
) -> None:
    with connected(server, origin=server.url) as socket:
        socket.send(first)
        socket.send({"prompt": "let me in"})
        assert socket.receive()["type"] == "error"
        opcode, data = socket.inner.recv_data()
        assert (opcode, int.from_bytes(data[:2])) == (websocket.ABNF.OPCODE_CLOSE, 1008)
    assert upstream.seen("let me in")["calls"] == 0


def test_a_page_that_says_nothing_is_sent_away_in_time(server: Served) -> None:
    with connected(server, origin=server.url) as socket:
        began = time.monotonic()
        assert socket.close_code() == 1008
        assert time.monotonic() - began < BUSY * 6


def test_of_a_page_that_has_not_said_who_it_is_no_more_is_taken_than_that_needs(
    server: Served,
) -> None:
    with connected(server, origin=server.url) as socket:
        # It says that a mebibyte follows, and sends what is more than a first message may have.
        head = b"\x81\xff" + (MAX_BODY - 1).to_bytes(8, "big") + bytes(4)
        socket.inner.sock.sendall(head + b"x" * (2 * FIRST_BYTES))
        assert socket.close_code() == 1009


def test_a_page_that_has_said_who_it_is_sends_as_much_as_others(server: Served, good: str) -> None:
    long = "x" * (MAX_BODY // 2)
    with connected(server, origin=server.url) as socket:
        socket.send({"type": "auth", "token": good})
        socket.send({"prompt": long})
        assert socket.receive() == {"type": "welcome"}
        assert socket.until("result")


def test_who_has_not_said_who_it_is_takes_few_of_the_places(keys: Keys, good: str) -> None:
    places = 2 * UNNAMED_SHARE
    with (
        serve(**keys.environ, ORCHESTRATOR_MAX_CONNECTIONS=str(places * 4 // 3 + 1)) as small,
        contextlib.ExitStack() as open_ones,
    ):
        for _ in range(places // UNNAMED_SHARE):
            open_ones.enter_context(connected(small, origin=small.url))
        with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
            connected(small, origin=small.url).__enter__()
        for _ in range(UNNAMED_SHARE):
            named = open_ones.enter_context(connected(small, header={"X-API-Key": good}))
            assert named.lives()
        # Who does not say so in time is gone, and others may try.
        until(lambda: _greets(small, good))


def _greets(server: Served, key: str) -> bool:
    with (
        contextlib.suppress(websocket.WebSocketBadStatusException),
        connected(server, origin=server.url) as socket,
    ):
        socket.send({"type": "auth", "token": key})
        return socket.receive() == {"type": "welcome"}
    return False


def test_no_other_page_gets_as_far_as_that(server: Served) -> None:
    answer = exchange(
        server, request_head("GET", "/api/v1/ws", *UPGRADE, "Origin: https://other.example")
    )
    assert answer.status == 403


# Afterwards


def test_what_a_revoked_key_has_opened_ends(keys: Keys, good: str, tmp_path: Path) -> None:
    key = keys.create()
    headers = {"X-API-Key": key}
    with serve(**keys.environ, ORCHESTRATOR_ECHO_DELAY_S="0.2") as slow:
        body = {"prompt": "word " * 2000, "stream": True}
        answer = call(slow, "POST", "/infer", json=body, headers=headers)
        request_id = answer.json()["request_id"]
        with (
            open_stream(slow, f"/stream/{request_id}", headers=headers) as stream,
            connected(slow, header=headers) as socket,
        ):
            socket.send({"type": "subscribe", "request_id": request_id})
            socket.receive()
            keys("revoke", key)
            began = time.monotonic()
            assert not [frame for frame in frames(stream) if frame.event == "complete"]
            assert time.monotonic() - began < BUSY * (LOOK_EVERY_S + 5)
            assert socket.close_code() == 1008
            assert time.monotonic() - began < 60
        assert call(slow, "GET", f"/status/{request_id}", headers=headers).status_code == 401
        # What was asked goes on: it was asked while the key was good.
        other = call(slow, "GET", f"/status/{request_id}", headers={"X-API-Key": good})
        assert other.json()["status"] == "processing"


@pytest.mark.parametrize("path", ["/result/{}?wait=60", "/status/{}?wait=60"])
def test_a_long_poll_with_a_revoked_key_ends_without_an_answer(keys: Keys, path: str) -> None:
    key = keys.create()
    headers = {"X-API-Key": key}
    with (
        serve(**keys.environ, ORCHESTRATOR_ECHO_DELAY_S="0.2") as slow,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {"prompt": "word " * 2000}
        request_id = call(slow, "POST", "/infer", json=body, headers=headers).json()["request_id"]
        polling = pool.submit(get, slow, path.format(request_id), headers=headers)
        assert call(slow, "GET", f"/status/{request_id}", headers=headers).ok
        keys("revoke", key)
        began = time.monotonic()
        refused(polling.result(60), 401, "UNAUTHORIZED")
        assert time.monotonic() - began < BUSY * (LOOK_EVERY_S + 5)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    assert "no keys yet" in keys("list")
    key = keys.create("--scope", "read", "--scope", "infer", "--rate", "5/hour", tenant="a-b")
    key_id = key.partition(".")[0]
    listed = keys("list")
    assert key_id in listed
    assert key.partition(".")[2] not in listed
    assert "infer,read" in listed
    assert "no key with the id" in keys("revoke", "nobody", ok=False)
    assert "letters" in keys("create", "--tenant", "a b", ok=False)
    assert "1000/minute" in keys("create", "--tenant", "a", "--rate", "many", ok=False)
    assert "90d" in keys("create", "--tenant", "a", "--expires", "soon", ok=False)
    keys.environ["ORCHESTRATOR_KEY_PEPPER"] = ""
    assert "openssl rand -hex 32" in keys("create", "--tenant", "a", ok=False)
    keys.environ["ORCHESTRATOR_API_KEYS_FILE"] = ""
    assert "ORCHESTRATOR_API_KEYS_FILE" in keys("list", ok=False)


House = tuple[Served, Served, Keys, RedisServer]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two web processes and a worker over a Redis that has the keys, too."""
    folder = tmp_path_factory.mktemp("house")
    with redis_server.running(folder) as redis:
        keys = Keys(folder, ORCHESTRATOR_API_KEYS_FILE="redis", REDIS_URL=redis.url)
        with (
            working(folder / "worker", **keys.environ),
            serve(**keys.environ) as one,
            serve(**keys.environ) as two,
        ):
            until(lambda: is_ready(one) and is_ready(two))
            yield one, two, keys, redis


def test_with_redis_keys_are_the_same_everywhere(house: House) -> None:
    one, two, keys, _ = house
    key = keys.create()
    headers = {"X-API-Key": key}
    for web in (one, two):
        assert call(web, "GET", "/models", headers=headers).status_code == 200
    (listed,) = (line for line in keys("list").splitlines() if key.partition(".")[0] in line)
    assert "never" not in listed
    keys("revoke", key)
    until(lambda: call(one, "GET", "/models", headers=headers).status_code == 401, 30)
    until(lambda: call(two, "GET", "/models", headers=headers).status_code == 401, 30)


def test_with_redis_a_stream_token_is_good_everywhere_once_and_for_its_time(house: House) -> None:
    one, two, keys, redis = house
    headers = {"X-API-Key": keys.create()}
    asked = call(one, "POST", "/infer", json={"prompt": "x"}, headers=headers)
    request_id = asked.json()["request_id"]

    def issue() -> str:
        answer = call(one, "POST", f"/stream-token/{request_id}", headers=headers)
        return str(answer.json()["token"])

    def opened(web: Served, given: str) -> int:
        return call(web, "GET", f"/stream/{request_id}?token={given}").status_code

    given = issue()
    assert opened(two, given) == 200
    assert opened(one, given) == opened(two, given) == 401
    late = issue()
    (kept,) = redis.client.scan_iter(f"{names.TICKET}*")
    assert 0 < redis.client.ttl(kept) <= TTL_S
    redis.client.pexpire(kept, 1)
    until(lambda: not redis.client.exists(kept))
    assert opened(one, late) == opened(two, late) == 401
