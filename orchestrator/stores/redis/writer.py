"""Writes the logs of all requests that run here, together, every few milliseconds."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from orchestrator.errors import PipelineUnavailable
from orchestrator.events import Restarted, Token
from orchestrator.job import Job
from orchestrator.stores.redis import codec
from orchestrator.stores.redis.link import Argument, Call, Link
from orchestrator.stores.redis.scripts import ATTEMPT, EMIT

logger = logging.getLogger("orchestrator")

T = TypeVar("T")

FLUSH_S = 0.025
"""How long tokens are gathered: one entry of ten costs a quarter of ten entries."""
FLUSH_JOBS = 64
"""How many requests are written on one round trip."""
SEND_BYTES = 512 * 1024
"""How much text goes on one, twice: Redis has to answer in time, after an outage too."""
BATCH_TOKENS = 256
BATCH_BYTES = 64 * 1024
"""How much an entry holds."""
BUFFER_BYTES = 1024 * 1024
"""What a request may have unwritten while Redis is away; past it its run waits."""
FLUSH_ROUNDS = BUFFER_BYTES // SEND_BYTES + 1
"""How many round trips all that goes on, with what could not be sent before."""
RETRY_S = 0.25
LOG_BYTES = 16 * 1024 * 1024
"""What the tokens of a log may hold, so that no request fills Redis alone."""


@dataclass(slots=True)
class _Tokens:
    """``at`` is when the first one came; see Writer for the clock."""

    first: int
    at: float
    texts: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.texts) >= BATCH_TOKENS or self.size >= BATCH_BYTES

    def call(self, head: Sequence[Argument], now: float) -> Call:
        tokens = (codec.dump_texts(self.texts), "".join(self.texts))
        return EMIT, (*head, self.first, len(self.texts), now - self.at, *tokens, LOG_BYTES)


@dataclass(slots=True)
class _Attempt:
    """``first`` is the seq of its restart, None where nothing was said that it takes back."""

    first: int | None
    number: int
    backend: str | None
    size: int = 0

    def call(self, head: Sequence[Argument], now: float) -> Call:
        first = "" if self.first is None else self.first
        quoted = orjson.dumps(self.backend)
        return ATTEMPT, (*head, first, self.number, self.backend or "", quoted)


class Held:
    """A job that was claimed here, and what of its log is not written yet.

    ``owner`` is who claimed it: what another one writes, of whatever run, changes nothing.
    ``sending`` is held by whoever writes it, so that its parts keep their order.
    """

    def __init__(
        self, job: Job, owner: str, seq: int, patience_s: float, clock: Callable[[], float]
    ) -> None:
        self.job = job
        self.owner = owner
        self._patience_s = patience_s
        self._clock = clock
        self.sending = threading.Lock()
        self.refusal: Exception | None = None
        self.is_closed = False
        self._is_sealed = False
        self.seq = seq
        """What the log comes to with all that was taken."""
        self._changed = threading.Condition(threading.Lock())
        self._unsent: deque[_Tokens | _Attempt] = deque()
        self._sent: list[_Tokens | _Attempt] = []
        self._size = 0

    @property
    def is_clean(self) -> bool:
        """Whether all is written."""
        return not self._unsent and not self._sent

    @property
    def has_more(self) -> bool:
        """Whether there is more than goes on one round trip."""
        return bool(self._unsent)

    @property
    def sent_bytes(self) -> int:
        """How much goes on the round trip that is not settled."""
        return sum(part.size for part in self._sent)

    def add(self, event: Token | Restarted) -> bool:
        """Take a part of the log; False where no more is wanted. Raises PipelineUnavailable."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, self._patience_s):
                raise PipelineUnavailable("Redis has been away for too long. Submit it again.")
            if self.is_closed or self._is_sealed:
                return self._refuse()
            if isinstance(event, Restarted):
                self._unsent.append(_Attempt(self.seq, event.attempt, event.backend))
            else:
                self._add_token(event.text)
            self.seq += 1
            return True

    def note(self, number: int, backend: str) -> bool:
        """Take the note that an attempt begins; False where no more is wanted."""
        with self._changed:
            if self.is_closed or self._is_sealed:
                return self._refuse()
            self._unsent.append(_Attempt(None, number, backend))
            return True

    def seal(self) -> None:
        """Take no more, and keep what there is to be written."""
        with self._changed:
            self._is_sealed = True
            self._changed.notify_all()

    def calls(self, *head: Argument, room: int = SEND_BYTES) -> list[Call]:
        """Return how to write the first ``room`` bytes of what is not written, to be settled next.

        What was sent before goes as it was.
        """
        with self._changed:
            room -= sum(part.size for part in self._sent)
            while self._unsent and room > 0:
                self._sent.append(self._unsent.popleft())
                room -= self._sent[-1].size
            parts = list(self._sent)
        return [part.call((*head, self.owner), self._clock()) for part in parts]

    def settle(self, results: Sequence[Any]) -> None:
        """Take what became of these calls."""
        bad = [result for result in results if result != b"taken"]
        if bad:
            self.close(_refusal(bad[0]))
            return
        with self._changed:
            self._size -= sum(part.size for part in self._sent)
            self._sent = []
            self._changed.notify_all()

    def close(self, refusal: Exception | None = None) -> None:
        """Take no more: the request has ended, is to stop, or runs elsewhere."""
        with self._changed:
            self.is_closed = True
            self.refusal = self.refusal or refusal
            self._unsent.clear()
            self._sent, self._size = [], 0
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self.is_closed or self._is_sealed or self._size < BUFFER_BYTES

    def _refuse(self) -> bool:
        if self.refusal:
            raise self.refusal
        return False

    def _add_token(self, text: str) -> None:
        last = self._unsent[-1] if self._unsent else None
        if not isinstance(last, _Tokens) or last.is_full:
            last = _Tokens(self.seq, self._clock())
            self._unsent.append(last)
        size = len(text) if text.isascii() else len(text.encode())
        last.texts.append(text)
        last.size += size
        self._size += size


def _refusal(result: object) -> Exception | None:
    """Return what a run is told of a refused part; None where it is only to stop."""
    if isinstance(result, Exception):
        return result
    if result == b"full":
        return PipelineUnavailable(
            f"The answer is longer than {LOG_BYTES // 1024 // 1024} MiB, more than is kept. Ask "
            "for less with max_tokens."
        )
    return None


class Writer:
    """All jobs claimed here, by id and run.

    ``head`` gives what every script is called with; ``patience_s`` is how long a run waits for
    Redis before it gives up; ``clock`` gives seconds from any point in time.
    """

    def __init__(
        self,
        link: Link,
        head: Callable[[str], tuple[Argument, ...]],
        patience_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._head = head
        self._patience_s = patience_s
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._held: dict[str, dict[int, Held]] = {}
        self._dirty: dict[Held, None] = {}
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def hold(self, job: Job, owner: str, seq: int) -> None:
        """Note a job that ``owner`` claimed here; its log goes on at ``seq``."""
        with self._changed:
            self._held.setdefault(job.id, {})[job.run] = Held(
                job, owner, seq, self._patience_s, self._clock
            )
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redis-writer", daemon=True)
                self._thread.start()

    def held(self, job_id: str, run: int) -> Held | None:
        """Return a job that was claimed here and has not ended."""
        return self._held.get(job_id, {}).get(run)

    def all(self) -> list[Held]:
        """Return the jobs that were claimed here and have not ended."""
        with self._changed:
            return [held for runs in self._held.values() for held in runs.values()]

    def touch(self, held: Held) -> bool:
        """Have what was added to a job written soon. Returns True, for callers that say so."""
        if held not in self._dirty:
            with self._changed:
                self._dirty[held] = None
                self._changed.notify_all()
        return True

    def flush(self, job_id: str) -> None:
        """Write what there is of a job, so that it is seen. Raises PipelineUnavailable."""
        for held in list(self._held.get(job_id, {}).values()):
            # What is said meanwhile is not waited for.
            for _ in range(FLUSH_ROUNDS):
                if held.is_clean:
                    break
                with held.sending:
                    held.settle(self._link.call_all(held.calls(*self._head(job_id))))

    def close_job(self, job_id: str) -> None:
        """Take no more of a job that is to stop."""
        for held in list(self._held.get(job_id, {}).values()):
            held.close()

    @contextmanager
    def releasing(self, held: Held) -> Iterator[None]:
        """Write to a job for the last time; it is no longer held after that."""
        try:
            with held.sending:
                yield
        finally:
            held.close()
            with self._changed:
                runs = self._held.get(held.job.id, {})
                runs.pop(held.job.run, None)
                if not runs:
                    self._held.pop(held.job.id, None)
                self._dirty.pop(held, None)

    def patiently(self, act: Callable[[], T]) -> T:
        """Call ``act`` until Redis is there. Raises PipelineUnavailable where that takes long."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return act()
            except PipelineUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_S)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause = 0.0
        while True:
            time.sleep(pause)
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._is_closed)
                if self._is_closed:
                    return
                dirty = list(self._dirty)[:FLUSH_JOBS]
                for held in dirty:
                    del self._dirty[held]
            try:
                pause = 0.0 if self._write(dirty) else FLUSH_S
            except PipelineUnavailable:
                pause = RETRY_S
            except Exception:
                logger.exception("what was said could not be written; it is tried again")
                pause = RETRY_S

    def _write(self, dirty: Sequence[Held]) -> bool:
        """Write what these jobs have, on one round trip. Returns whether another is due at once.

        What others write at the moment is left to them, and looked at again later.
        """
        locked = [held for held in dirty if held.sending.acquire(blocking=False)]
        try:
            room = SEND_BYTES
            calls: list[tuple[Held, list[Call]]] = []
            for held in locked:
                if room > 0:
                    calls.append((held, held.calls(*self._head(held.job.id), room=room)))
                    room -= held.sent_bytes
            results = iter(self._link.call_all([call for _, part in calls for call in part]))
            for held, part in calls:
                held.settle([next(results) for _ in part])
            return room <= 0 or len(locked) == FLUSH_JOBS
        finally:
            for held in locked:
                held.sending.release()
            for held in dirty:
                if not held.is_clean:
                    self.touch(held)
