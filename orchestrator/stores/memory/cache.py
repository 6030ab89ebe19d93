"""The default cache: packed answers in this process's memory, the least recently used go first."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from orchestrator.stores.cache import Answer, pack, unpack

ENTRY_BYTES = 300
"""What an answer costs beside its bytes: measured, with its key and its place in the order."""


class MemoryCache:
    """See stores.cache.Cache. It holds ``limit`` bytes at most; ``clock`` gives monotonic seconds.

    An answer is packed: in bytes of its own it takes what it counts, and the garbage collector
    visits nothing.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """What is held, in bytes."""
        return self._size

    def get(self, key: bytes) -> Answer | None:
        with self._lock:
            packed, until = self._kept.get(key, (b"", 0.0))
            if not packed:
                return None
            if until <= self._clock():
                self._drop(key)
                return None
            self._kept.move_to_end(key)
        return unpack(packed)

    def put(self, key: bytes, answer: Answer, ttl_s: float) -> None:
        packed = pack(answer)
        with self._lock:
            self._drop(key)
            if _cost(packed) > self._limit:
                return
            while self._size + _cost(packed) > self._limit:
                self._drop(next(iter(self._kept)))
            self._kept[key] = packed, self._clock() + ttl_s
            self._size += _cost(packed)

    def _drop(self, key: bytes) -> None:
        packed, _ = self._kept.pop(key, (b"", 0.0))
        if packed:
            self._size -= _cost(packed)


def _cost(packed: bytes) -> int:
    return len(packed) + ENTRY_BYTES
