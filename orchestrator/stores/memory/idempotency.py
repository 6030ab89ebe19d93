"""The memory store's idempotency keys: which request each one stands for, and until when."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.stores import refusals
from orchestrator.stores.base import IDEMPOTENCY_S, Idempotency
from orchestrator.stores.memory.shelf import Shelf
from orchestrator.tenancy import tenant_of

KEY_BYTES = 580
"""What a key costs beside its text, in bytes: measured."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its first request."""

    name: str
    fingerprint: bytes
    request_id: str
    session: str
    expires_at: float


class Keys:
    """Each tenant's keys in the order they came. To be used inside a lock.

    ``size`` is what all of them hold, in bytes; ``clock`` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._size = 0
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._shelf: Shelf[Key] = Shelf(lambda key: key_bytes(key.name), lambda key: key.expires_at)

    @property
    def size(self) -> int:
        return self._size + self._shelf.overhead

    def find(self, idempotency: Idempotency) -> Key | None:
        """Return what a key stands for, if anything. Raises IdempotencyKeyReused."""
        earlier = self._keys.get(idempotency.key)
        if earlier is None or earlier.expires_at <= self._clock():
            return None
        if earlier.fingerprint != idempotency.fingerprint:
            raise refusals.reused(earlier.request_id)
        return earlier

    def add(self, idempotency: Idempotency, request_id: str, session: str) -> None:
        """Keep a new key for 24 hours."""
        expires_at = self._clock() + IDEMPOTENCY_S
        name, tenant = idempotency.key, tenant_of(session)
        if expired := self._shelf.take(tenant, name):
            self._forget(expired)
        key = Key(name, idempotency.fingerprint, request_id, session, expires_at)
        self._keys[name] = key
        self._shelf.put(tenant, name, key)
        self._size += key_bytes(name)

    def drop_expired(self) -> None:
        """Forget what is past its time."""
        for key in self._shelf.take_expired(self._clock()):
            self._forget(key)

    def drop_one(self) -> bool:
        """Forget the key that is to go first; False where there is none."""
        key = self._shelf.take_one()
        if key:
            self._forget(key)
        return key is not None

    def _forget(self, key: Key) -> None:
        del self._keys[key.name]
        self._size -= key_bytes(key.name)


def key_bytes(key: str) -> int:
    """Return what keeping a key costs, in bytes."""
    return KEY_BYTES + len(key)
