"""Authentication: the credentials that a client has sent become a caller, or are refused."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.auth import keys
from orchestrator.auth.keys import Keys
from orchestrator.auth.tickets import Tickets
from orchestrator.auth.tokens import Refused, TokenReader
from orchestrator.caller import Caller, Scope
from orchestrator.errors import Forbidden, PipelineUnavailable, Unauthorized

HOW = "Send an API key (X-API-Key: <key>) or a token (Authorization: Bearer <token>)."


@dataclass(frozen=True, slots=True)
class Guard:
    """Knows callers by keys and tokens. ``clock`` gives seconds since the epoch."""

    keys: Keys | None
    pepper: str = field(repr=False)
    tokens: TokenReader | None
    clock: Callable[[], float] = time.time

    def admit(self, authorization: str | None, api_key: str | None) -> Caller:
        """Return who has sent these headers. Raises Unauthorized, PipelineUnavailable."""
        if authorization is not None and api_key is not None:
            raise Unauthorized("Send X-API-Key or Authorization, not both.")
        if api_key is not None:
            return self._by_key(api_key)
        if authorization is None:
            raise Unauthorized(f"Credentials are needed here. {HOW}")
        kind, _, credentials = authorization.partition(" ")
        if kind.lower() != "bearer":
            raise Unauthorized(f"Only the scheme Bearer is taken in Authorization. {HOW}")
        return self.identify(credentials)

    def identify(self, credentials: str) -> Caller:
        """Return whose key or token it is. Raises Unauthorized, PipelineUnavailable."""
        if self.tokens and not (self.keys and keys.split(credentials)):
            try:
                return self.tokens.caller(credentials)
            except Refused as error:
                raise Unauthorized(str(error)) from None
        return self._by_key(credentials)

    def check(self, caller: Caller) -> None:
        """Raise Unauthorized where a caller that was admitted has lost its right since."""
        # First what is known without a look, for a look may fail.
        if caller.expires_at is not None and caller.expires_at <= self.clock():
            raise Unauthorized("The credentials are no longer in force: they have expired.")
        if caller.key_id is not None:
            key = self.keys.find(caller.key_id) if self.keys else None
            if key is None or not key.is_good(self.clock()):
                raise Unauthorized("The API key is no longer in force.")

    def _by_key(self, text: str) -> Caller:
        parts = keys.split(text)
        if self.keys is None or parts is None:
            raise Unauthorized(f"This is no API key. {HOW}")
        key_id, secret = parts
        key = self.keys.find(key_id)
        now = self.clock()
        if not keys.matches(self.pepper, key, key_id, secret) or key is None:
            raise Unauthorized("This API key is not known here.")
        if not key.is_good(now):
            word = "was revoked" if key.revoked_at is not None else "has expired"
            raise Unauthorized(f"This API key {word}. Ask for a new one.")
        self.keys.note_use(key_id, now)
        return key.caller()


@dataclass(frozen=True, slots=True)
class Entrance:
    """What lets callers in: the guard, and the stream tokens that it has given out."""

    guard: Guard
    tickets: Tickets

    def lasting(self, caller: Caller) -> Callable[[], bool]:
        """Return a function that tells whether a caller may still watch what it has opened."""

        def may_stay() -> bool:
            try:
                self.guard.check(caller)
            except Unauthorized:
                return False
            except PipelineUnavailable:
                # Nobody can tell now. Who is here may stay until somebody can.
                return True
            return True

        return may_stay


def require(caller: Caller, scope: Scope) -> None:
    """Raise Forbidden where a caller may not do this."""
    if not caller.may(scope):
        raise Forbidden(f"This needs the scope {scope}, which these credentials don't have.")
