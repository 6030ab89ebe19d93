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
from typing import NamedTuple, Protocol

from orchestrator.caller import Caller, Scope
from orchestrator.errors import PipelineUnavailable, Unauthorized

TTL_S = 60
MOST_EACH = 100
"""How many unused tokens one caller may have; the oldest makes room for a new one."""
MOST = 100_000
"""How many unused tokens one process keeps."""


class Tickets(Protocol):
    """Where stream tokens wait, by their digests, for TTL_S seconds."""

    def put(self, owner: str, digest: str, value: str) -> None:
        """Keep a value for its owner, and forget the oldest of its MOST_EACH others.

        Raises PipelineUnavailable where too many wait already.
        """
        ...

    def look(self, digest: str) -> str | None:
        """Return a value; None where there is none."""
        ...

    def take(self, digest: str) -> str | None:
        """Return a value and forget it; None where there is none."""
        ...


class _Ticket(NamedTuple):
    """An unused token, and when it ends, in monotonic seconds."""

    until: float
    owner: str
    value: str


class MemoryTickets:
    """See Tickets. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Ticket] = OrderedDict()
        self._owned: dict[str, dict[str, None]] = {}

    def put(self, owner: str, digest: str, value: str) -> None:
        with self._lock:
            self._forget()
            owned = self._owned.get(owner, {})
            if len(owned) >= MOST_EACH:
                self._drop(next(iter(owned)))
            if len(self._waiting) >= MOST:
                raise PipelineUnavailable(
                    "Too many stream tokens wait to be used. Try again in a while, or send the "
                    "credentials with the stream."
                )
            self._waiting[digest] = _Ticket(self._clock() + TTL_S, owner, value)
            self._owned.setdefault(owner, owned)[digest] = None

    def look(self, digest: str) -> str | None:
        with self._lock:
            self._forget()
            return self._waiting[digest].value if digest in self._waiting else None

    def take(self, digest: str) -> str | None:
        with self._lock:
            self._forget()
            return self._drop(digest).value if digest in self._waiting else None

    def _forget(self) -> None:
        while self._waiting:
            digest, ticket = next(iter(self._waiting.items()))
            if ticket.until > self._clock():
                return
            self._drop(digest)

    def _drop(self, digest: str) -> _Ticket:
        ticket = self._waiting.pop(digest)
        owned = self._owned[ticket.owner]
        del owned[digest]
        if not owned:
            del self._owned[ticket.owner]
        return ticket


def issue(tickets: Tickets, request_id: str, caller: Caller) -> str:
    """Return a token with which ``caller`` may watch one request, in a stream."""
    token = secrets.token_urlsafe(32)
    value = {"request_id": request_id, "caller": caller._asdict() | {"scopes": [Scope.READ]}}
    owner = _digest(json.dumps([caller.tenant, caller.name]))
    tickets.put(owner, _digest(token), json.dumps(value))
    return token


def holder(tickets: Tickets, token: str, request_id: str) -> Caller:
    """Return who may watch a request with this token. Raises Unauthorized."""
    ticket = json.loads(_found(tickets.look(_digest(token))))
    if ticket["request_id"] != request_id:
        use(tickets, token)
        raise Unauthorized("This stream token is for another request. Ask for one for this.")
    record = ticket["caller"]
    return Caller(**record | {"scopes": frozenset(map(Scope, record["scopes"]))})


def use(tickets: Tickets, token: str) -> None:
    """Have a token open no other stream. Raises Unauthorized where somebody else was faster."""
    _found(tickets.take(_digest(token)))


def _found(value: str | None) -> str:
    if value is None:
        raise Unauthorized("This stream token was used, or has expired. Ask for a new one.")
    return value


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
