"""The route that keeps whole answers, and the one that gives a kept answer again."""

import contextlib
import math
from collections.abc import Sequence

from orchestrator.backends.base import Finish, Message
from orchestrator.events import FinishReason
from orchestrator.job import GenerateRequest, Reuse
from orchestrator.routing.base import Attempt, Route, Stream
from orchestrator.routing.key import key_of
from orchestrator.stop import StopSignal
from orchestrator.stores.cache import Answer, Cache

LARGEST = 1024 * 1024
"""A longer answer, in characters, is not kept."""
MOST_PIECES = 1000
"""An answer in more pieces is kept in larger ones: it is said again in the submit itself."""

_WHOLE = (FinishReason.STOP, FinishReason.LENGTH)


class Recorded:
    """Gives a kept answer: it waits for nothing, and asks no model."""

    def __init__(self, answer: Answer) -> None:
        self.name = answer.backend
        self._answer = answer

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Stream:
        yield Attempt(0, self.name)
        yield from self._answer.pieces
        yield Finish(self._answer.finish_reason, self._answer.usage)


class Cached:
    """Asks ``inner`` where ``cache`` has no answer, and keeps whole answers for ``ttl_s`` seconds.

    ``identity`` tells it apart from other routes that share the cache.
    """

    def __init__(self, inner: Route, identity: str, cache: Cache, ttl_s: float) -> None:
        self.name = inner.name
        self._inner = inner
        self._identity = identity
        self._cache = cache
        self._ttl_s = ttl_s

    def recall(self, request: GenerateRequest, messages: Sequence[Message]) -> Recorded | None:
        """Return the kept answer to a question, as a route; None where there is none."""
        if request.reuse is not Reuse.ALLOWED:
            return None
        return self._recall(key_of(self._identity, request, messages))

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Stream:
        """Yield a kept answer, or the inner route's."""
        if request.reuse is Reuse.NEVER:
            yield from self._inner.stream(request, messages, stop)
            return
        key = key_of(self._identity, request, messages)
        if request.reuse is Reuse.ALLOWED and (recorded := self._recall(key)):
            yield from recorded.stream(request, messages, stop)
        else:
            yield from self._recording(key, self._inner.stream(request, messages, stop))

    def _recall(self, key: bytes) -> Recorded | None:
        answer = self._cache.get(key)
        return Recorded(answer) if answer else None

    def _recording(self, key: bytes, stream: Stream) -> Stream:
        backend, size = self.name, 0
        pieces: list[str] = []
        with contextlib.closing(stream):
            for item in stream:
                if isinstance(item, Attempt):
                    backend, pieces, size = item.backend, [], 0
                elif isinstance(item, Finish):
                    if 0 < size <= LARGEST and item.reason in _WHOLE:
                        answer = Answer(_merged(pieces), item.reason, item.usage, backend)
                        self._cache.put(key, answer, self._ttl_s)
                elif isinstance(item, str):
                    size += len(item)
                    if size <= LARGEST:
                        pieces.append(item)
                    else:
                        pieces.clear()
                yield item


def _merged(pieces: Sequence[str]) -> tuple[str, ...]:
    """Return at most MOST_PIECES pieces with the same text."""
    step = math.ceil(len(pieces) / MOST_PIECES) or 1
    return tuple("".join(pieces[at : at + step]) for at in range(0, len(pieces), step))
