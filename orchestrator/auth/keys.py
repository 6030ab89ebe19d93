"""API keys: ``id.secret``, of which the secret is shown once and kept only as a keyed digest."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.caller import Caller, Scope

ID = re.compile(r"ok_[0-9a-z]{16}", re.ASCII)
TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
RATE = re.compile(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", re.ASCII)
_SHOWN = re.compile(rf"({ID.pattern})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
PEPPER_LEAST = 32
"""Characters: as many as make 128 bits of even the poorest alphabet, hexadecimal digits."""


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
    """Return a key that was kept. Raises ValueError where it is none."""
    try:
        key = Key(
            id=record["id"],
            tenant=record["tenant"],
            scopes=frozenset(map(Scope, record["scopes"])),
            digest=record["digest"],
            created_at=float(record["created_at"]),
            rate=record.get("rate"),
            expires_at=_moment(record.get("expires_at")),
            revoked_at=_moment(record.get("revoked_at")),
        )
        texts_fit = ID.fullmatch(key.id) and TENANT.fullmatch(key.tenant)
        if not texts_fit or len(bytes.fromhex(key.digest)) != 32 or not key.scopes:
            raise ValueError(key.id)
        if key.rate is not None and not RATE.fullmatch(key.rate):
            raise ValueError(key.id)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return key


def _moment(value: Any) -> float | None:
    return None if value is None else float(value)


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
        """Put a key out of force from now on. Returns False where there is none of that id."""
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
    """Return a new key, and ``id.secret``, which nobody can tell again."""
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
