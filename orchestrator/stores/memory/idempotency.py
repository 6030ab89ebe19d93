"""The memory store's idempotency keys: which request each one stands for, and until when."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.stores import refusals
from orchestrator.stores.base import IDEMPOTENCY_S, Idempotency

KEY_BYTES = 580
"""What a key costs beside its text, in bytes: measured."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key's first request."""

    fingerprint: bytes
    request_id: str
    session: str
    expires_at: float


class Keys:
    """Keys in the order they came. To be used inside a lock.

    ``size`` is what all of them hold, in bytes; ``clock`` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.size = 0
        self._clock = clock
        self._keys: OrderedDict[str, Key] = OrderedDict()

    def find(self, idempotency: Idempotency) -> Key | None:
        """Return what a key stands for, if anything. Raises IdempotencyKeyReused."""
        self.drop_expired()
        earlier = self._keys.get(idempotency.key)
        if earlier and earlier.fingerprint != idempotency.fingerprint:
            raise refusals.reused(earlier.request_id)
        return earlier

    def add(self, idempotency: Idempotency, request_id: str, session: str) -> None:
        """Keep a new key for 24 hours."""
        expires_at = self._clock() + IDEMPOTENCY_S
        self._keys[idempotency.key] = Key(idempotency.fingerprint, request_id, session, expires_at)
        self.size += key_bytes(idempotency.key)

    def drop_expired(self) -> None:
        """Forget what is past its time."""
        now = self._clock()
        while self._keys and next(iter(self._keys.values())).expires_at <= now:
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Forget the oldest key; False where there is none."""
        if not self._keys:
            return False
        key, _ = self._keys.popitem(last=False)
        self.size -= key_bytes(key)
        return True


def key_bytes(key: str) -> int:
    """Return what keeping a key costs, in bytes."""
    return KEY_BYTES + len(key)
