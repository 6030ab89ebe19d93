"""The store over Redis: each transition is a script, each wait a subscription."""

import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from orchestrator.errors import OrchestratorError, WorkerLost
from orchestrator.events import Event, Failed, Restarted, Started, Terminal, Token
from orchestrator.ids import created_at
from orchestrator.job import IllegalMove, Job, OnBusy, Priority, Status
from orchestrator.session import History, Session
from orchestrator.stores import refusals
from orchestrator.stores.base import (
    IDEMPOTENCY_S,
    SCAN_LIMIT,
    Change,
    Idempotency,
    Listing,
    LogPage,
    Submission,
)
from orchestrator.stores.redis import codec, keys, scripts
from orchestrator.stores.redis.hub import Hub, Topic
from orchestrator.stores.redis.link import Argument, Call, Link
from orchestrator.stores.redis.replies import change_of, ending, job_of, page_of
from orchestrator.stores.redis.tail import RECHECK_S, LogTail
from orchestrator.stores.redis.writer import Held, Writer, patiently

SCAN_STEP = 500
"""How many requests a script looks at for a list: Redis does nothing else meanwhile."""
SWEEP_STEP = 100
"""How many requests of each kind a script sweeps, for the same reason."""
SWEEP_ROUNDS = 20
UNSURE_S = 0.5
"""How often Redis is asked again while a subscription isn't there."""


@dataclass(frozen=True, slots=True)
class Leases:
    """When a running request is taken for lost. Times are in seconds.

    A lease that is not renewed for ``lease_s`` has run out. After Redis was away, those who hold
    leases have ``grace_s`` to renew them. ``losses`` is how often a request may be lost.
    """

    lease_s: float = 15.0
    grace_s: float = 7.0
    losses: int = 3


class RedisStore:
    """See stores.base.LeasedStore.

    ``queue_limit`` counts pending requests of all processes; ``retention_s`` runs from a
    request's end and from a session's last use. ``clock`` gives seconds since the epoch; without
    one, all processes go by Redis's own.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_limit: int,
        retention_s: float,
        leases: Leases | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._queue_limit = queue_limit
        self._retention_s = retention_s
        self._leases = leases or Leases()
        self._clock = clock
        self._link = Link(url)
        self._hub = Hub(self._link.connection)
        self._writer = Writer(self._link, self._head, clock or time.monotonic)

    def close(self) -> None:
        """End the threads and close the connections."""
        self._writer.close()
        self._hub.close()
        self._link.close()

    # Transitions

    def submit(self, job: Job, idempotency: Idempotency | None = None) -> Submission:
        request = job.request
        if request.on_busy is OnBusy.INTERRUPT:
            self._flush_session(request.session_id)
        reply = self._call(
            scripts.SUBMIT,
            job.id,
            self._queue_limit,
            request.session_id,
            request.on_busy,
            request.queue_timeout_s,
            idempotency.key if idempotency else "",
            idempotency.fingerprint if idempotency else "",
            IDEMPOTENCY_S,
            *codec.dump_job(job),
        )
        match reply:
            case [b"new", is_ready, others]:
                interrupted = tuple(other.decode() for other in others)
                for other in interrupted:
                    self._writer.close_job(other)
                ready = (job,) if is_ready else ()
                return Submission(job.id, request.session_id, ready, interrupted)
            case [b"replayed", earlier, session_id]:
                return Submission(earlier.decode(), session_id.decode(), replayed=True)
            case [b"reused", earlier, _]:
                raise refusals.reused(earlier.decode())
            case [b"busy", running]:
                raise refusals.busy(request.session_id, running.decode())
        raise refusals.full(self._queue_limit)

    def claim(self, job_id: str, backend: str) -> tuple[Job, History] | None:
        # Whoever claims has a name of their own, so that asking again is no second claim.
        owner = uuid.uuid4().hex
        reply = patiently(
            lambda: self._call(
                scripts.CLAIM,
                job_id,
                backend,
                orjson.dumps(backend),
                owner,
                self._leases.lease_s,
                codec.dump_event(Started(backend)),
            )
        )
        if reply is None:
            return None
        values = codec.pairs(reply[0])
        job = codec.load_job(values)
        self._writer.hold(job, int(values[b"seq"]))
        return job, codec.load_history(reply[1], reply[2])

    def append(self, job_id: str, event: Event, run: int = 1) -> bool:
        held = self._writer.held(job_id, run)
        if held is None:
            return False
        if not isinstance(event, Token | Restarted):
            raise IllegalMove(f"{type(event).__name__} after {Status.PROCESSING}")
        return held.add(event) and self._writer.touch(held)

    def attempt(self, job_id: str, number: int, backend: str, run: int = 1) -> bool:
        held = self._writer.held(job_id, run)
        return held is not None and held.note(number, backend) and self._writer.touch(held)

    def finish(self, job_id: str, event: Terminal, run: int = 1) -> Change:
        held = self._writer.held(job_id, run)
        if held is None:
            reply = self._call(scripts.FINISH, job_id, run, "", *ending(event))
            return self._changed(job_id, reply)
        held.seal()
        with self._writer.releasing(held):
            return self._changed(job_id, patiently(lambda: self._finish_held(held, event)))

    def cancel(self, job_id: str) -> Change:
        self._writer.flush(job_id)
        change = self._changed(job_id, self._call(scripts.CANCEL, job_id))
        if change.changed:
            self._writer.close_job(job_id)
        return change

    def delete(self, job_id: str) -> None:
        status = self.get(job_id).status
        if not status.is_terminal:
            raise refusals.live(job_id, status)
        self._call(scripts.DELETE, job_id)

    def delete_session(self, session_id: str) -> None:
        active = self._call(scripts.DELETE_SESSION, "", session_id)
        if active is None:
            raise refusals.unknown_session(session_id, self._retention_s)
        if active:
            raise refusals.live_session(session_id, active[0].decode())

    def sweep(self) -> Sequence[Change]:
        changes: list[Change] = []
        for _ in range(SWEEP_ROUNDS):
            forgotten, late, lost, unsent = self._call(scripts.SWEEP, "", SWEEP_STEP)
            is_sure = self._link.up_s >= self._leases.grace_s
            calls = [self._fail_late(codec.load_job(codec.pairs(flat))) for flat in late]
            calls += [self._requeue(job_id, "") for job_id in lost if is_sure]
            for reply in self._link.call_all(calls):
                change = change_of(reply)
                if change and change.changed:
                    changes.append(change)
            for flat in unsent:
                job = codec.load_job(codec.pairs(flat))
                changes.append(Change(job, False, (job,)))
            most = max(forgotten, len(late), len(unsent), len(lost) if is_sure else 0)
            if most < SWEEP_STEP:
                break
        return changes

    # Leases

    def renew(self) -> Sequence[tuple[str, int]]:
        held = self._writer.all()
        if not held:
            return ()
        mine = [part for one in held for part in (one.job.id, one.job.run)]
        found = self._call(scripts.RENEW, "", self._leases.lease_s, *mine)
        to_stop = {(job_id.decode(), int(run)) for job_id, run in found}
        for one in held:
            if (one.job.id, one.job.run) in to_stop:
                one.close()
        return tuple(to_stop)

    def give_back(self, job_id: str, run: int) -> Change:
        held = self._writer.held(job_id, run)
        script, arguments = self._requeue(job_id, run)
        if held is None:
            return self._changed(job_id, self._link.call(script, *arguments))
        held.close()
        with self._writer.releasing(held):
            return self._changed(job_id, patiently(lambda: self._link.call(script, *arguments)))

    def sent(self, job_id: str) -> None:
        self._call(scripts.SENT, job_id)

    def position(self, job: Job) -> int:
        above = list(Priority)[: list(Priority).index(job.request.priority)]
        return int(self._call(scripts.POSITION, job.id, job.request.priority, *above))

    def on_stop(self, tell: Callable[[str], None]) -> None:
        def stop(job_id: str) -> None:
            self._writer.close_job(job_id)
            tell(job_id)

        self._hub.listen(keys.STOP_CHANNEL, stop)

    def live(self) -> Sequence[Job]:
        return [held.job for held in self._writer.all()]

    # Views

    def get(self, job_id: str) -> Job:
        self._writer.flush(job_id)
        values = self._link.hash(keys.JOB + job_id)
        return self._kept(job_id, codec.load_job(values) if values else None)

    def read(self, job_id: str, after: int, limit: int, timeout: float = 0.0) -> LogPage:
        self._writer.flush(job_id)
        after = max(after, -1)
        channel = keys.LOG_CHANNEL + job_id
        if timeout <= 0 or not self._hub.has(channel):
            page, _ = self._read(job_id, after, limit)
            if timeout <= 0 or page.events or page.job.status.is_terminal:
                return page
        deadline = time.monotonic() + timeout
        with self._hub.watch(channel, LogTail) as tail:
            while True:
                glance = tail.look(after, limit)
                if glance.page:
                    page = glance.page
                else:
                    page, end = self._read(job_id, after, limit)
                    tail.note(page.job, end, glance.version)
                left = deadline - time.monotonic()
                if page.events or page.job.status.is_terminal or left <= 0:
                    return page
                tail.wait(glance.version, min(left, _patience(tail)))

    def wait(self, job_id: str, timeout: float) -> Job:
        job = self.get(job_id)
        if job.status.is_terminal or timeout <= 0:
            return job
        deadline = time.monotonic() + timeout
        with self._hub.watch(keys.END_CHANNEL + job_id, Topic) as topic:
            while True:
                version = topic.version
                job = self.get(job_id)
                left = deadline - time.monotonic()
                if job.status.is_terminal or left <= 0:
                    return job
                topic.wait(version, min(left, _patience(topic)))

    def line_position(self, job_id: str) -> int:
        return int(self._call(scripts.LINE_POSITION, job_id))

    def jobs(
        self, status: Status | None, session_id: str | None, limit: int, cursor: str | None
    ) -> Listing[Job]:
        found: list[Job] = []
        seen: str | bytes = cursor or ""
        for _ in range(SCAN_LIMIT // SCAN_STEP):
            wanted = (limit - len(found), status or "", session_id or "", SCAN_STEP)
            seen, has_more, part = self._call(scripts.JOBS, "", seen, *wanted)
            hashes = self._link.hashes([keys.JOB + job_id.decode() for job_id in part])
            # One that expired meanwhile is passed over.
            found += [codec.load_job(values) for values in hashes if values]
            if not has_more:
                return Listing(found, None)
            if len(found) == limit:
                break
        return Listing(found, seen.decode() if isinstance(seen, bytes) else seen)

    def session(self, session_id: str) -> Session:
        session = self._session(session_id, self._call(scripts.SESSION, "", session_id))
        if session is None:
            raise refusals.unknown_session(session_id, self._retention_s)
        return session

    def sessions(self, limit: int, cursor: str | None) -> Listing[Session]:
        is_number = cursor is not None and cursor.isdecimal() and len(cursor) < 20
        before: float = int(cursor or 0) if is_number else math.inf
        flat = self._call(scripts.SESSIONS, "", before, limit + 1)
        names = [name.decode() for name in flat[: 2 * limit : 2]]
        views = self._link.call_all(
            [(scripts.SESSION, (*self._head(""), session_id)) for session_id in names]
        )
        found = [self._session(name, reply) for name, reply in zip(names, views, strict=True)]
        following = flat[2 * limit - 1].decode() if len(flat) > 2 * limit else None
        return Listing([session for session in found if session], following)

    # Inside

    def _head(self, job_id: str) -> tuple[Argument, ...]:
        """Return what every script is called with."""
        return job_id, repr(self._clock()) if self._clock else "", self._retention_s

    def _call(self, script: scripts.Script, job_id: str, *arguments: Argument) -> Any:
        return self._link.call(script, *self._head(job_id), *arguments)

    def _read(self, job_id: str, after: int, limit: int) -> tuple[LogPage, int]:
        """Return a page, and the seq of the log's last event."""
        flat, entries = self._call(scripts.READ, job_id, after, limit)
        job = self._kept(job_id, job_of(flat))
        end = int(codec.pairs(flat)[b"seq"]) - 1
        events = page_of(after, limit, entries)
        last = events[-1][0] if events else after
        return LogPage(events, job, job.status.is_terminal and last >= end), end

    def _kept(self, job_id: str, job: Job | None) -> Job:
        """Return a job that is still kept. Raises NotFound, ResultExpired."""
        now = self._clock() if self._clock else time.time()
        if job is None:
            made_at = created_at(job_id)
            if made_at is not None and made_at <= now - self._retention_s:
                raise refusals.expired(job_id, self._retention_s)
            raise refusals.unknown(job_id)
        if job.expires_at is not None and job.expires_at <= now:
            raise refusals.expired(job_id, self._retention_s)
        return job

    def _changed(self, job_id: str, reply: Sequence[Any]) -> Change:
        change = change_of(reply)
        self._kept(job_id, change.job if change else None)
        assert change
        return change

    def _finish_held(self, held: Held, event: Terminal) -> Any:
        """End a job with the last of its log; as failed where there was no room for that."""
        job_id, run = held.job.id, held.job.run
        if not held.refusal:
            parts = held.calls(*self._head(job_id))
            last = (scripts.FINISH, (*self._head(job_id), run, held.seq, *ending(event)))
            *results, reply = self._link.call_all([*parts, last])
            held.settle(results)
            if not held.refusal:
                return reply
        error = held.refusal
        code = error.code if isinstance(error, OrchestratorError) else OrchestratorError.code
        return self._call(scripts.FINISH, job_id, run, "", *ending(Failed(code, str(error))))

    def _flush_session(self, session_id: str) -> None:
        for held in self._writer.all():
            if held.job.request.session_id == session_id:
                self._writer.flush(held.job.id)

    def _fail_late(self, job: Job) -> Call:
        event = refusals.waited_too_long(job.request)
        return scripts.FINISH, (*self._head(job.id), "", "", *ending(event))

    def _requeue(self, job_id: str, run: int | str) -> Call:
        lost = Failed(
            WorkerLost.code,
            f"Whoever ran the request died, {self._leases.losses} times. What it asks for may be "
            "why: see the logs of the workers before you submit it again.",
        )
        status, reason, payload, _, message, code, _ = ending(lost)
        arguments = (run, self._leases.losses, payload, message, code)
        return scripts.REQUEUE, (*self._head(job_id), *arguments)

    def _session(self, session_id: str, reply: Sequence[Any]) -> Session | None:
        flat, turns, active = reply
        return codec.load_session(session_id, codec.pairs(flat), turns, active) if flat else None


def _patience(topic: Topic) -> float:
    return RECHECK_S if topic.is_live else UNSURE_S
