"""Callers of every kind, whom the limits count: by key, by token, by address.

Each is the headers that it sends with a call.
"""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import requests

from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
from tests.e2e.client import END, Json, Socket, get, post, refused, until
from tests.served import Served

Caller = dict[str, str]

PEPPER = "0123456789abcdef" * 4
SECRET = "a secret that tokens are signed with"
LONG = "fault:ok 2000 0.05"
"""What tests.fakes.upstream answers for longer than any test lasts."""
SHORT = "fault:ok 5"
"""And at once."""
NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_numbers = itertools.count(1)


class Register:
    """A file of keys, and what a server is told of it; tokens are taken there as well."""

    def __init__(self, path: Path) -> None:
        self._file = KeyFile(path)
        self.environ = {
            "ORCHESTRATOR_API_KEYS_FILE": str(path),
            "ORCHESTRATOR_KEY_PEPPER": PEPPER,
            "ORCHESTRATOR_JWT_SECRET": SECRET,
        }

    def key(self, rate: str | None = None, tenant: str = "acme", scope: Scope = Scope.INFER) -> str:
        """Make a key; a server that runs knows it within LOOK_EVERY_S."""
        made, shown = keys.create(PEPPER, tenant, frozenset({scope}), time.time(), rate)
        self._file.add(made)
        return shown


def keyed(key: str) -> Caller:
    return {"X-API-Key": key}


def name() -> str:
    """A name that nobody has had before."""
    return f"somebody-{next(_numbers)}"


def somebody(called: str | None = None) -> Caller:
    """Who comes with a token, and was never here before."""
    claims = {"sub": called or name(), "exp": int(time.time()) + 600}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def address() -> str:
    """An address that was never here before."""
    number = next(_numbers)
    return f"198.51.{number // 250}.{number % 250 + 1}"


def behind(*addresses: str) -> Caller:
    """Who comes through a proxy, as that says."""
    return {"X-Forwarded-For": ", ".join(addresses)}


def left(answer: requests.Response) -> tuple[int, int, int]:
    """Return what an answer says of the limit: how many, how many are left, and until when."""
    limit, remaining, reset = (int(answer.headers[name]) for name in NAMES)
    return limit, remaining, reset


def says_nothing(answer: requests.Response) -> bool:
    """Whether an answer says nothing of limits."""
    return not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


def limited(answer: requests.Response) -> tuple[str, int]:
    """Hold that an answer is a 429; return what it says, and in how many seconds to come again."""
    error = refused(answer, 429, "RATE_LIMITED")
    text = answer.headers["Retry-After"]
    assert text.isdigit(), text
    assert int(text) >= 1
    return str(error["message"]), int(text)


def codes(answers: Sequence[requests.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


# Requests, where nothing may wait: a long poll takes a place


def ask(server: Served, caller: Caller, prompt: str = SHORT, **fields: Any) -> requests.Response:
    body = {"prompt": prompt, "max_tokens": 100, **fields}
    return post(server, "/infer", body, headers=caller)


def accepted(server: Served, caller: Caller, prompt: str = SHORT, **fields: Any) -> str:
    answer = ask(server, caller, prompt, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def end_of(server: Served, caller: Caller, request_id: str) -> Json:
    """Wait for the end of a request, without a long poll, and return its status."""

    def now() -> Json:
        return dict(get(server, f"/status/{request_id}", headers=caller).json())

    return until(lambda: (found := now())["status"] in END and found)


def cancel(server: Served, caller: Caller, request_id: str) -> None:
    assert post(server, f"/cancel/{request_id}", headers=caller).ok
    end_of(server, caller, request_id)


def refused_submit(socket: Socket, **fields: Any) -> Json:
    socket.send({"prompt": SHORT, **fields})
    error = socket.receive()
    assert (error["type"], error["code"]) == ("error", "RATE_LIMITED"), error
    return error
