"""API keys: ``id.secret``, of which the secret is shown once and kept only as a keyed digest."""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.caller import Caller, Scope
from orchestrator.rate import parse

ID = re.compile(r"ok_[0-9a-z]{16}", re.ASCII)
TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
NOTE_EVERY_S = 60.0
"""How often, at most, the use of a key is written down."""
_SHOWN = re.compile(rf"({ID.pattern})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept. Times are seconds since the epoch."""

    id: str
    tenant: str
    scopes: frozenset[Scope]
    digest: str
    created_at: float
    rate: str | None = None
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_good(self, now: float) -> bool:
        """Whether it is in force."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def caller(self) -> Caller:
        """Return who uses it."""
        return Caller(self.tenant, self.id, self.scopes, self.rate, self.expires_at, self.id)

    def as_json(self) -> dict[str, Any]:
        """Return it as ``read`` takes it."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "scopes": sorted(self.scopes),
            "digest": self.digest,
            "created_at": self.created_at,
            "rate": self.rate,
            "expires_at": self.expires_at,
            "revoked_at": self.revoked_at,
        }


def read(record: Any) -> Key:
    """Return a key that was kept. Raises ValueError, which says what is wrong, and no more."""
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    fields: dict[str, Any] = {}
    for name, made_of in _FIELDS.items():
        try:
            fields[name] = made_of(record.get(name))
        except (ValueError, TypeError):
            raise ValueError(f"its {name} is none") from None
    return Key(**fields)


def _text(form: re.Pattern[str]) -> Callable[[Any], str]:
    def made_of(value: Any) -> str:
        if not form.fullmatch(value):
            raise ValueError
        return str(value)

    return made_of


def _scopes(value: Any) -> frozenset[Scope]:
    if not value:
        raise ValueError
    return frozenset(map(Scope, value))


def _rate(value: Any) -> str | None:
    if value is not None:
        parse(value)
    return None if value is None else str(value)


def _moment(value: Any) -> float:
    moment = float(value)
    if not math.isfinite(moment):
        raise ValueError
    return moment


def _moment_or_none(value: Any) -> float | None:
    return None if value is None else _moment(value)


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _text(ID),
    "tenant": _text(TENANT),
    "scopes": _scopes,
    "digest": _text(re.compile(r"[0-9a-f]{64}", re.ASCII)),
    "created_at": _moment,
    "rate": _rate,
    "expires_at": _moment_or_none,
    "revoked_at": _moment_or_none,
}


class Keys(Protocol):
    """Where keys are kept. What is out of reach raises PipelineUnavailable."""

    def find(self, key_id: str) -> Key | None:
        """Return a key, as it was at most 10 seconds ago."""
        ...

    def all(self) -> Iterable[tuple[Key, float | None]]:
        """Return all keys, oldest first, each with the time of its last use, to the minute."""
        ...

    def add(self, key: Key) -> None:
        """Keep a new key."""
        ...

    def revoke(self, key_id: str, at: float) -> bool:
        """Revoke a key. Returns False where there is none with that id."""
        ...

    def note_use(self, key_id: str, at: float) -> None:
        """Note that a key is used. It raises nothing: a note is not worth a request."""
        ...


def create(
    pepper: str,
    tenant: str,
    scopes: frozenset[Scope],
    now: float,
    rate: str | None = None,
    expires_at: float | None = None,
) -> tuple[Key, str]:
    """Return a new key, and its ``id.secret``, which can't be recovered later."""
    key_id = "ok_" + "".join(secrets.choice(_ALPHABET) for _ in range(16))
    secret = secrets.token_urlsafe(32)
    key = Key(key_id, tenant, scopes, digest(pepper, key_id, secret), now, rate, expires_at)
    return key, f"{key_id}.{secret}"


def digest(pepper: str, key_id: str, secret: str) -> str:
    """Return the HMAC-SHA256 of a secret, in hexadecimal; the same secret of another id differs."""
    message = f"{key_id}.{secret}".encode()
    return hmac.new(pepper.encode(), message, hashlib.sha256).hexdigest()


def split(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of what a caller has sent; None where it is no key."""
    found = _SHOWN.fullmatch(text)
    return (found[1], found[2]) if found else None


def matches(pepper: str, key: Key | None, key_id: str, secret: str) -> bool:
    """Whether a secret is the key's. An unknown id takes as long as a wrong secret."""
    expected = key.digest if key else "0" * 64
    return hmac.compare_digest(expected, digest(pepper, key_id, secret)) and key is not None
