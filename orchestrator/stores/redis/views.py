"""All reads of Redis, and the waits for what is new."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.errors import NotFound, ResultExpired
from orchestrator.ids import created_at
from orchestrator.job import Job, Priority, Status
from orchestrator.session import Session, SessionHead
from orchestrator.stores import refusals
from orchestrator.stores.base import LIST_BYTES, SCAN_LIMIT, Listing, LogPage, Place, number_of
from orchestrator.stores.redis import codec, names, scripts
from orchestrator.stores.redis.hub import Hub, Topic
from orchestrator.stores.redis.link import Argument, Link
from orchestrator.stores.redis.replies import page_of
from orchestrator.stores.redis.tail import RECHECK_S, LogTail
from orchestrator.stores.redis.writer import Writer
from orchestrator.tenancy import quoted

SCAN_STEP = 500
"""How many requests a script looks at for a list: Redis does nothing else meanwhile."""
SHOWN = ("v", "created_at", "last_used_at")
"""What of a session lists show, as session_head.lua has it."""
UNSURE_S = 0.5
"""How often Redis is asked again while a subscription isn't there."""


class Views:
    """The half of the store that changes nothing; see RedisStore for what it is made with.

    What runs in this process is written before it is read, so that it sees its own events.
    """

    def __init__(
        self,
        url: str,
        retention_s: float,
        patience_s: float,
        clock: Callable[[], float] | None,
    ) -> None:
        self._retention_s = retention_s
        self._clock = clock
        self._link = Link(url)
        self._hub = Hub(self._link.connection)
        self._writer = Writer(self._link, self._head, patience_s, clock or time.monotonic)

    def close(self) -> None:
        """End the threads and close the connections."""
        self._writer.close()
        self._hub.close()
        self._link.close()

    def get(self, job_id: str) -> Job:
        self._writer.flush(job_id)
        values = self._link.hash(names.JOB + job_id)
        return self._kept(job_id, codec.load_job(values) if values else None)

    def absent(self, job_id: str) -> NotFound | ResultExpired:
        made_at = created_at(job_id)
        if made_at is not None and made_at <= self._now() - self._retention_s:
            return refusals.expired(job_id, self._retention_s)
        return refusals.unknown(job_id)

    def read(self, job_id: str, after: int, limit: int, timeout: float = 0.0) -> LogPage:
        self._writer.flush(job_id)
        after = max(after, -1)
        channel = names.LOG_CHANNEL + job_id
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
        if timeout > 0 and self._is_live(job_id):
            self._await_end(job_id, time.monotonic() + timeout)
        return self.get(job_id)

    def place(self, job_id: str) -> Place:
        ahead, *turn = self._call(scripts.PLACE, job_id)
        return Place(ahead, (turn[0].decode(), Priority(turn[1].decode())) if turn else None)

    def jobs(
        self,
        status: Status | None,
        session: str | None,
        limit: int,
        cursor: str | None,
        *,
        tenant: str,
    ) -> Listing[Job]:
        found: list[Job] = []
        seen: str | bytes = cursor or ""
        room = LIST_BYTES
        for _ in range(SCAN_LIMIT // SCAN_STEP):
            wanted = (limit - len(found), status or "", session or "", SCAN_STEP, quoted(tenant))
            seen, has_more, part, size = self._call(scripts.JOBS, "", seen, *wanted, room)
            found += self._listed([names.JOB + job_id.decode() for job_id in part])
            room -= size
            if not has_more:
                return Listing(found, None)
            if len(found) >= limit or room <= 0:
                break
        return Listing(found, seen.decode() if isinstance(seen, bytes) else seen)

    def session(self, session: str) -> Session:
        flat, turns, active = self._call(scripts.SESSION, "", session)
        if not flat:
            raise refusals.unknown_session(session, self._retention_s)
        return codec.load_session(session, codec.pairs(flat), turns, active)

    def sessions(self, limit: int, cursor: str | None, *, tenant: str) -> Listing[SessionHead]:
        number = number_of(cursor)
        before = math.inf if number is None else number
        flat = self._call(scripts.SESSIONS, "", before, limit + 1, quoted(tenant))
        names = [name.decode() for name in flat[: 2 * limit : 2]]
        calls = [(scripts.SESSION_HEAD, (*self._head(""), name)) for name in names]
        heads = [
            codec.load_head(name, codec.chosen(SHOWN, values), count, active)
            for name, (values, count, active) in zip(names, self._link.call_all(calls), strict=True)
            # One that was forgotten meanwhile is passed over.
            if any(values)
        ]
        following = flat[2 * limit - 1].decode() if len(flat) > 2 * limit else None
        return Listing(heads, following)

    # Inside

    def _head(self, job_id: str) -> tuple[Argument, ...]:
        """Return what every script is called with."""
        return job_id, repr(self._clock()) if self._clock else "", self._retention_s

    def _call(self, script: scripts.Script, job_id: str, *arguments: Argument) -> Any:
        return self._link.call(script, *self._head(job_id), *arguments)

    def _await_end(self, job_id: str, deadline: float) -> None:
        with self._hub.watch(names.END_CHANNEL + job_id, Topic) as topic:
            while True:
                version = topic.version
                left = deadline - time.monotonic()
                if left <= 0 or not self._is_live(job_id):
                    return
                topic.wait(version, min(left, _patience(topic)))

    def _is_live(self, job_id: str) -> bool:
        status = self._link.command("HGET", names.JOB + job_id, "status")
        return status is not None and not Status(status.decode()).is_terminal

    def _listed(self, names: Sequence[str]) -> list[Job]:
        fields = self._link.fields(names, codec.LISTED)
        found = [codec.chosen(codec.LISTED, values) for values in fields]
        # One that expired meanwhile is passed over.
        return [codec.load_job(values) for values in found if values]

    def _read(self, job_id: str, after: int, limit: int) -> tuple[LogPage, int]:
        """Return a page, and the seq of the log's last event."""
        found, entries, result = self._call(scripts.READ, job_id, after, limit)
        values = codec.chosen(codec.READ, found)
        if result is not None:
            values[b"result"] = result
        job = self._kept(job_id, codec.load_job(values) if values else None)
        end = int(values[b"seq"]) - 1
        events = page_of(after, limit, entries)
        last = events[-1][0] if events else after
        return LogPage(events, job, job.status.is_terminal and last >= end), end

    def _kept(self, job_id: str, job: Job | None) -> Job:
        """Return a job that is still kept. Raises NotFound, ResultExpired."""
        if job is None:
            raise self.absent(job_id)
        # Redis forgets it by itself, by its own time; by that of the tests it can't.
        if self._clock and job.expires_at is not None and job.expires_at <= self._clock():
            raise refusals.expired(job_id, self._retention_s)
        return job

    def _now(self) -> float:
        return self._clock() if self._clock else time.time()


def _patience(topic: Topic) -> float:
    return RECHECK_S if topic.is_live else UNSURE_S
