"""Many tenants at once, over every door: nobody reads a word of anybody else's.

In one process, and over a Redis whose answers get lost. ISOLATION_REQUESTS=20000 (make isolation)
runs it in full.
"""

import contextlib
import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import websocket

from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
from orchestrator.ids import new_id
from tests import redis_server
from tests.e2e.client import PATIENCE_S, until
from tests.fakes.redis_proxy import LosingProxy
from tests.scaled import is_ready, scaled, working
from tests.served import Served, serve

PEPPER = "0123456789abcdef" * 4
TENANTS = 50
REQUESTS = int(os.environ.get("ISOLATION_REQUESTS", "600"))
LOSSES = 0.005
MARKER = re.compile(r"tenant-\d+")
BY_ID = (
    ("GET", "status/{}"),
    ("GET", "result/{}"),
    ("GET", "result/{}?wait=5"),
    ("GET", "stream/{}"),
    ("GET", "events/{}"),
    ("POST", "cancel/{}"),
    ("POST", "stream-token/{}"),
    ("DELETE", "requests/{}"),
)


class Tenant:
    """One tenant's client, which looks at all that it is told for others' markers."""

    def __init__(self, server: Served, number: int, key: str) -> None:
        self.name = f"tenant-{number}"
        self.server = server
        self.key = key
        self.ids: list[str] = []
        self.foreign: list[str] = []

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        url = f"{self.server.api}/{path}"
        headers = {"X-API-Key": self.key} | options.pop("headers", {})
        answer = requests.request(method, url, headers=headers, timeout=PATIENCE_S, **options)
        self.look(answer.text)
        return answer

    def look(self, text: str) -> None:
        """Note each marker that is not this tenant's."""
        others = set(MARKER.findall(text)) - {self.name}
        if others:
            self.foreign.append(f"{self.name} reads of {others}: {text[:200]}")

    def ask(self, chance: random.Random) -> None:
        """Do one request, in one of many ways, and look at what comes of it."""
        body: dict[str, Any] = {
            "prompt": f"I am {self.name}. {new_id()}",
            "session_id": "chat",
            "metadata": {"who": self.name},
        }
        if chance.random() < 0.3:
            body |= {"on_busy": "parallel"}
        if chance.random() < 0.1:
            body |= {"queue_timeout_s": 0.01}
        way = chance.choice(("poll", "stream", "events", "socket"))
        if way == "socket":
            self.by_socket(body)
            return
        answer = self.call(
            "POST", "infer", json=body, headers={"Idempotency-Key": str(chance.randrange(10**9))}
        )
        if answer.status_code == 503:
            return
        request_id = answer.json()["request_id"]
        self.ids.append(request_id)
        if chance.random() < 0.2:
            self.call("POST", f"cancel/{request_id}")
        if way == "stream":
            self.call("GET", f"stream/{request_id}")
        elif way == "events":
            self.call("GET", f"events/{request_id}?wait=1")
        else:
            self.call("GET", f"result/{request_id}?wait=1")
        if chance.random() < 0.1:
            for path in ("requests?limit=100", "sessions", "sessions/chat"):
                self.call("GET", path)

    def by_socket(self, body: dict[str, Any]) -> None:
        socket = websocket.create_connection(
            self.server.ws, timeout=PATIENCE_S, header={"X-API-Key": self.key}
        )
        try:
            socket.send(json.dumps(body | {"stream": True}))
            while True:
                text = str(socket.recv())
                self.look(text)
                frame = json.loads(text)
                if frame["type"] == "ack":
                    self.ids.append(frame["request_id"])
                if frame["type"] in ("result", "error"):
                    return
        finally:
            socket.shutdown()


@pytest.fixture(scope="module", params=["memory", "redis"])
def tenants(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Tenant]]:
    """Tenants of one process, or of one that loses answers of Redis in the middle of calls."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    shown = []
    for number in range(TENANTS):
        key, text = keys.create(PEPPER, f"tenant-{number}", frozenset({Scope.INFER}), 0.0)
        KeyFile(path).add(key)
        shown.append(text)
    environ = {"ORCHESTRATOR_API_KEYS_FILE": str(path), "ORCHESTRATOR_KEY_PEPPER": PEPPER}
    with contextlib.ExitStack() as stack:
        proxy = None
        if request.param == "redis":
            folder = tmp_path_factory.mktemp("redis")
            redis = stack.enter_context(redis_server.running(folder))
            proxy = stack.enter_context(LosingProxy(redis.port, LOSSES))
            environ = scaled(redis, **environ, ORCHESTRATOR_ECHO_DELAY_S="0")
            stack.enter_context(working(folder / "worker", **environ))
            environ |= {"REDIS_URL": proxy.url}
        server = stack.enter_context(serve(**environ))
        until(lambda: is_ready(server))
        if proxy:
            proxy.lose()
        yield [Tenant(server, number, key) for number, key in enumerate(shown)]
        assert proxy is None or proxy.lost


def test_nobody_reads_a_word_of_anybody_elses(tenants: list[Tenant]) -> None:
    faults: list[BaseException] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        try:
            tenants[number % TENANTS].ask(random.Random(number))
        except BaseException as error:
            with lock:
                faults.append(error)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(REQUESTS)))
    assert not faults
    assert not [sentence for tenant in tenants for sentence in tenant.foreign]
    for tenant in tenants[:5]:
        theirs = {name for other in tenants if other is not tenant for name in other.ids}
        listed = patiently(tenant.call, "GET", "requests?limit=100")
        shown = {entry["request_id"] for entry in listed.json()["data"]}
        assert shown & set(tenant.ids)
        assert not shown & theirs


def test_anothers_is_the_same_404_to_the_byte_as_one_that_never_was(
    tenants: list[Tenant],
) -> None:
    mine, other = tenants[:2]
    body = {"prompt": f"I am {mine.name}", "session_id": "mine-alone"}
    made = patiently(mine.call, "POST", "infer?wait=5", json=body)
    request_id = made.json()["request_id"]
    never = new_id()
    for method, path in BY_ID:
        theirs, nobodys = (
            patiently(other.call, method, path.format(name)) for name in (request_id, never)
        )
        assert theirs.status_code == nobodys.status_code == 404, (method, path)
        assert theirs.content.replace(request_id.encode(), b"") == nobodys.content.replace(
            never.encode(), b""
        )
        drop = ("Date",)
        assert {k: v for k, v in theirs.headers.items() if k not in drop} == {
            k: v for k, v in nobodys.headers.items() if k not in drop
        }
    for method in ("GET", "DELETE"):
        theirs, nobodys = (
            patiently(other.call, method, f"sessions/mine-{name}") for name in ("alone", "nobody")
        )
        assert theirs.status_code == 404
        assert theirs.text.replace("mine-alone", "") == nobodys.text.replace("mine-nobody", "")
    frames = [_subscribed(other, name) for name in (request_id, never)]
    assert frames[0].replace(request_id, "") == frames[1].replace(never, "")
    until(lambda: mine.call("GET", f"result/{request_id}").status_code == 200)
    seen = patiently(mine.call, "GET", "sessions/mine-alone")
    assert seen.status_code == 200


def patiently(ask: Callable[..., requests.Response], *asked: Any, **body: Any) -> requests.Response:
    """Ask until Redis has answered: some of its answers get lost."""
    answers: list[requests.Response] = []

    def is_answered() -> bool:
        answers.append(ask(*asked, **body))
        return answers[-1].status_code != 503

    until(is_answered)
    return answers[-1]


def _subscribed(tenant: Tenant, request_id: str) -> str:
    socket = websocket.create_connection(
        tenant.server.ws, timeout=PATIENCE_S, header={"X-API-Key": tenant.key}
    )
    try:
        texts = []
        for kind in ("subscribe", "cancel"):
            socket.send(json.dumps({"type": kind, "request_id": request_id}))
            texts.append(str(socket.recv()))
            while "PIPELINE_UNAVAILABLE" in texts[-1]:
                socket.send(json.dumps({"type": kind, "request_id": request_id}))
                texts[-1] = str(socket.recv())
        return " ".join(texts)
    finally:
        socket.shutdown()
