"""The route that asks once for identical requests in flight: all of them read one call's answer."""

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from orchestrator.backends.base import Finish, Message
from orchestrator.errors import InternalError, OrchestratorError, PipelineUnavailable
from orchestrator.job import GenerateRequest, Reuse
from orchestrator.routing.base import Admission, Item, Route, Stream
from orchestrator.routing.key import key_of, likeness
from orchestrator.stop import StopSignal

logger = logging.getLogger("orchestrator")

JOINABLE = 0.5
"""The share of ``timeout_s`` in which a call is joined, so that every reader has time for it, and
the last one has left after one and a half ``timeout_s``."""
MOST_AHEAD = 256 * 1024
"""How much of its answer a call keeps, in characters. Past it no reader can join, what all readers
have had is dropped, and the call waits for the slowest of them."""
ITEM_COST = 64
"""What an item counts beside its text."""
YIELD_EVERY = 32
"""Items between two pauses for other greenlets: a backend that never waits would starve them."""

Key = tuple[bytes, float]
Ask = Callable[[], Stream]


class Coalesced:
    """Asks ``inner`` once for all requests that ask the same at the same time.

    Each has the whole answer from its beginning, and leaves when it is stopped; the call goes on
    until the last one has left. Requests share a call only where they have the same ``timeout_s``,
    by which the call itself plans, and only for the first half of it: otherwise ever new readers
    would keep a call that gets nowhere alive. ``identity`` tells who is asked; ``clock`` gives
    monotonic seconds.
    """

    def __init__(
        self, inner: Route, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._identity = identity
        self._clock = clock
        # One lock for all: who joins and who leaves last must not miss each other.
        self._lock = threading.Lock()
        self._calls: dict[Key, _Call] = {}

    def admitted(self, admission: Admission) -> "Admitted":
        """Return the route for one request that was admitted to the inner one."""
        return Admitted(self, admission)

    @staticmethod
    def alike(request: GenerateRequest) -> Hashable | None:
        """Return what is equal for requests that may share a call."""
        return likeness(request) if request.reuse is Reuse.ALLOWED else None

    def stream(
        self,
        request: GenerateRequest,
        messages: Sequence[Message],
        stop: StopSignal,
        admission: Admission | None = None,
    ) -> Stream:
        """Yield the answer of a call that is under way, or of a new one, by ``admission``."""
        inner = admission.route if admission else self._inner
        if request.reuse is not Reuse.ALLOWED:
            yield from inner.stream(request, messages, stop)
            return
        key = key_of(self._identity, request, messages), request.timeout_s
        call, reader, is_new = self._join(key)
        if is_new:
            self._start(key, call, partial(inner.stream, request, messages, call.stop))
        elif admission:
            # It has a place already, the call's.
            admission.leave()
        try:
            with stop.waking(call.wake):
                while items := call.next_items(reader, stop):
                    yield from items
        finally:
            self._leave(key, call, reader, stop.reason)
        if call.error:
            # A copy: an error that several threads raise collects all their tracebacks.
            raise copy.copy(call.error)

    def _join(self, key: Key) -> "tuple[_Call, _Reader, bool]":
        """Return a call to read, and whether it is yet to be started."""
        reader = _Reader()
        with self._lock:
            call = self._calls.get(key)
            is_new = call is None or self._clock() >= call.joinable_until
            if call is None or is_new:
                joinable_until = self._clock() + JOINABLE * key[1]
                call = self._calls[key] = _Call(self._lock, joinable_until)
            call.readers.add(reader)
        return call, reader, is_new

    def _start(self, key: Key, call: "_Call", ask: Ask) -> None:
        thread = threading.Thread(
            target=self._run, args=(key, call, ask), name="shared call", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            logger.exception("no thread for a shared call")
            self._end(key, call, PipelineUnavailable("The server is full. Try again in a moment."))

    def _leave(
        self, key: Key, call: "_Call", reader: "_Reader", reason: OrchestratorError | None
    ) -> None:
        """Let a reader go. Where it was the last one, the call ends for its reason."""
        with self._lock:
            call.drop(reader)
            unwanted = not call.readers
            if unwanted:
                self._forget(key, call)
        if unwanted:
            call.stop.request(reason)

    def _run(self, key: Key, call: "_Call", ask: Ask) -> None:
        """Make the call, and tell its readers of the end once all that it held is free again."""
        last: Finish | OrchestratorError | None = None
        try:
            stream = ask()
            with contextlib.closing(stream), call.stop.waking(call.wake):
                last = self._relay(key, call, stream)
        except BaseException as error:
            # All there is: a backend's SystemExit or gevent.Timeout would leave readers waiting.
            last = self._fault(call, error)
        self._end(key, call, last)

    def _relay(self, key: Key, call: "_Call", stream: Stream) -> Finish | None:
        for count, item in enumerate(stream, 1):
            call.stop.check()
            if isinstance(item, Finish):
                return item
            with self._lock:
                if call.is_full:
                    self._forget(key, call)
                    call.make_room()
                call.add(item)
            if count % YIELD_EVERY == 0:
                time.sleep(0)
        return None

    def _fault(self, call: "_Call", error: BaseException) -> OrchestratorError | None:
        if call.stop.requested:
            return None
        if isinstance(error, OrchestratorError):
            return error
        logger.error("the backend %s is faulty", self.name, exc_info=error)
        return InternalError()

    def _end(self, key: Key, call: "_Call", last: Finish | OrchestratorError | None) -> None:
        with self._lock:
            self._forget(key, call)
            call.end(last)

    def _forget(self, key: Key, call: "_Call") -> None:
        """Let nobody join a call any more. To be used inside the lock."""
        if self._calls.get(key) is call:
            del self._calls[key]


class Admitted:
    """The route of ``coalesced`` for one request that has leave to make the call."""

    def __init__(self, coalesced: Coalesced, admission: Admission) -> None:
        self.name = coalesced.name
        self._coalesced = coalesced
        self._admission = admission

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Stream:
        """Yield the answer of a call that is under way, or of a new one."""
        return self._coalesced.stream(request, messages, stop, self._admission)


class _Reader:
    """Someone who reads a call's answer, and how many of its items it has had."""

    __slots__ = ("had",)

    def __init__(self) -> None:
        self.had = 0


class _Call:
    """A call to the model: what it has said so far, and who reads it.

    To be used inside the lock, but for ``wake`` and ``next_items``.
    """

    def __init__(self, lock: threading.Lock, joinable_until: float) -> None:
        self.joinable_until = joinable_until
        self.stop = StopSignal()
        self.readers: set[_Reader] = set()
        self.error: OrchestratorError | None = None
        self._changed = threading.Condition(lock)
        self._items: list[Item] = []
        self._dropped = 0
        self._size = 0
        self._over = False

    @property
    def is_full(self) -> bool:
        return self._size > MOST_AHEAD

    def wake(self) -> None:
        """Have everyone look whether to go on."""
        with self._changed:
            self._changed.notify_all()

    def next_items(self, reader: _Reader, stop: StopSignal) -> Sequence[Item]:
        """Return what ``reader`` has not had yet, and wait for it; empty at the end.

        Raises Stopped.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: stop.requested or self._over or self._has_more(reader),
            )
            stop.check()
            items = self._items[reader.had - self._dropped :]
            reader.had += len(items)
            if self.is_full:
                self._changed.notify_all()
            return items

    def add(self, item: Item) -> None:
        self._items.append(item)
        self._size += _cost(item)
        self._changed.notify_all()

    def make_room(self) -> None:
        """Drop what all readers have had, and wait until there is room. Raises Stopped."""
        self._changed.wait_for(lambda: self.stop.requested or self._drop_read())
        self.stop.check()

    def drop(self, reader: _Reader) -> None:
        """Let a reader go."""
        self.readers.discard(reader)
        self._changed.notify_all()

    def end(self, last: Finish | OrchestratorError | None) -> None:
        """Tell all readers the last word."""
        if isinstance(last, Finish):
            self._items.append(last)
        else:
            self.error = last
        self._over = True
        self._changed.notify_all()

    def _has_more(self, reader: _Reader) -> bool:
        return reader.had < self._dropped + len(self._items)

    def _drop_read(self) -> bool:
        had = min((reader.had for reader in self.readers), default=0) - self._dropped
        if had > 0:
            self._size -= sum(map(_cost, self._items[:had]))
            del self._items[:had]
            self._dropped += had
        return not self.is_full


def _cost(item: Item) -> int:
    return ITEM_COST + (len(item) if isinstance(item, str) else 0)
