"""Stream tokens: each opens one stream of one request, once, within a minute.

For a browser's EventSource, which can send no headers.
"""

import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from orchestrator.caller import Caller, Scope
from orchestrator.errors import PipelineUnavailable, Unauthorized

TTL_S = 60
MOST = 100_000
"""Tokens that one process keeps for those who have not come yet."""


class Tickets(Protocol):
    """Where stream tokens wait, by their digests, for TTL_S seconds."""

    def put(self, digest: str, value: str) -> None:
        """Keep a value. Raises PipelineUnavailable where too many wait already."""
        ...

    def take(self, digest: str) -> str | None:
        """Return a value and forget it; None where there is none."""
        ...


class MemoryTickets:
    """See Tickets. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def put(self, digest: str, value: str) -> None:
        with self._lock:
            self._forget()
            if len(self._waiting) >= MOST:
                raise PipelineUnavailable(
                    "Too many stream tokens wait to be used. Try again in a while, or send the "
                    "credentials with the stream."
                )
            self._waiting[digest] = (self._clock() + TTL_S, value)

    def take(self, digest: str) -> str | None:
        with self._lock:
            self._forget()
            _, value = self._waiting.pop(digest, (0.0, None))
            return value

    def _forget(self) -> None:
        while self._waiting and next(iter(self._waiting.values()))[0] <= self._clock():
            self._waiting.popitem(last=False)


def issue(tickets: Tickets, request_id: str, caller: Caller) -> str:
    """Return a token with which ``caller`` may watch one request, in a stream."""
    token = secrets.token_urlsafe(32)
    value = {"request_id": request_id, "caller": caller._asdict() | {"scopes": [Scope.READ]}}
    tickets.put(_digest(token), json.dumps(value))
    return token


def redeem(tickets: Tickets, token: str, request_id: str) -> Caller:
    """Return who may watch a request with this token. Raises Unauthorized."""
    value = tickets.take(_digest(token))
    if value is None:
        raise Unauthorized("This stream token was used, or has expired. Ask for a new one.")
    ticket = json.loads(value)
    if ticket["request_id"] != request_id:
        raise Unauthorized("This stream token is for another request. Ask for one for this.")
    record = ticket["caller"]
    return Caller(**record | {"scopes": frozenset(map(Scope, record["scopes"]))})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
