"""The default cache: packed answers in this process's memory, the least recently used go first."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from orchestrator.events import FinishReason, Usage
from orchestrator.stores.cache import Answer

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


def pack(answer: Answer) -> bytes:
    """Return an answer as bytes. Not by orjson: a model may stop inside a surrogate pair."""
    usage = answer.usage and (answer.usage.input_tokens, answer.usage.output_tokens)
    parts = (answer.pieces, answer.finish_reason, usage, answer.backend)
    return json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")


def unpack(packed: bytes) -> Answer:
    """Return the answer that was packed."""
    pieces, reason, usage, backend = json.loads(packed.decode("utf-8", "surrogatepass"))
    return Answer(tuple(pieces), FinishReason(reason), usage and Usage(*usage), backend)
