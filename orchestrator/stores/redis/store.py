"""The store over Redis: each transition is a script, each wait a subscription."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from orchestrator.allowance import Allowance
from orchestrator.errors import OrchestratorError, WorkerLost
from orchestrator.events import Event, Failed, Restarted, Started, Terminal, Token
from orchestrator.job import IllegalMove, Job, OnBusy, Priority, Status
from orchestrator.stores import refusals
from orchestrator.stores.base import IDEMPOTENCY_S, SEEN_S, Change, Claim, Idempotency, Submission
from orchestrator.stores.redis import codec, names, scripts, trouble
from orchestrator.stores.redis.advice import check
from orchestrator.stores.redis.link import Call
from orchestrator.stores.redis.replies import change_of, ending, replayed
from orchestrator.stores.redis.views import Views
from orchestrator.stores.redis.writer import Held

SWEEP_STEP = 100
"""How many requests of each kind a script sweeps: Redis does nothing else meanwhile."""
SWEEP_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Leases:
    """When a running request is taken for lost. Times are in seconds.

    A lease that is not renewed for ``lease_s`` has run out. After Redis was away, those who hold
    leases have ``grace_s`` to renew them. ``losses`` is how often a request may be lost.
    """

    lease_s: float = 15.0
    grace_s: float = 7.0
    losses: int = 3


class RedisStore(Views):
    """See stores.base.LeasedStore. To be made in the process that uses it, after any fork.

    ``queue_limit`` counts pending requests of all processes; ``retention_s`` runs from a
    request's end and from a session's last use. A run waits ``patience_s`` for Redis to come back
    where it claims, says more than is buffered, or ends. ``clock`` gives seconds since the epoch;
    without one, all processes go by Redis's own.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_limit: int,
        retention_s: float,
        leases: Leases | None = None,
        patience_s: float = 60.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(url, retention_s, patience_s, clock)
        self._queue_limit = queue_limit
        self._leases = leases or Leases()

    def check(self) -> Sequence[str]:
        """Return what is unwise in how Redis is set up, a sentence each.

        Raises ConfigError for a Redis that can't be used, PipelineUnavailable.
        """
        return check(self._link.info())

    # Transitions

    def submit(
        self,
        job: Job,
        idempotency: Idempotency | None = None,
        allowance: Allowance | None = None,
    ) -> Submission:
        request = job.request
        if request.on_busy is OnBusy.INTERRUPT:
            self._flush_session(request.session)
        arguments = (
            self._queue_limit,
            request.session,
            request.on_busy,
            request.queue_timeout_s,
            idempotency.key if idempotency else "",
            idempotency.fingerprint if idempotency else "",
            IDEMPOTENCY_S,
            codec.dump_allowance(allowance) if allowance else "",
            *codec.dump_job(job),
        )
        submitted = partial(
            self._link.call_in_time,
            scripts.SUBMIT,
            lambda until: (*self._head(job.id), until, *arguments),
        )
        stopped: list[bytes] = []
        while (reply := submitted()) == [b"many"]:
            while found := self._call(scripts.INTERRUPT, "", request.session):
                stopped += found
        match reply:
            case [b"new", is_ready, others]:
                interrupted = tuple(other.decode() for other in (*stopped, *others))
                for other in interrupted:
                    self._writer.close_job(other)
                ready = (job,) if is_ready else ()
                return Submission(job.id, request.session, ready, interrupted)
            case [b"busy", running]:
                raise refusals.busy(request.session, running.decode())
            case [b"filled"]:
                raise trouble.full()
            case [b"full"]:
                raise refusals.full(self._queue_limit)
            case [b"crowded"] if allowance:
                raise refusals.crowded(allowance.live)
            case [b"spent", place, used, needed, left_s] if allowance:
                raise refusals.spent(allowance.budgets[place - 1], used, needed, float(left_s))
        return replayed(reply)

    def replay(self, idempotency: Idempotency) -> Submission | None:
        key = (idempotency.key, idempotency.fingerprint)
        reply = self._call(scripts.REPLAY, "", *key)
        return replayed(reply) if reply else None

    def claim(self, job_id: str, backend: str) -> Claim | None:
        # Whoever claims has a name of their own, so that asking again is no second claim.
        owner = uuid.uuid4().hex
        reply = self._writer.patiently(
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
        if forgotten := self._writer.held(job_id, job.run):
            # Redis forgot its claim, so both have the same run, and would write into one answer.
            # Who claims next has another.
            forgotten.close()
            script, arguments = self._requeue(job_id, job.run, owner)
            self._writer.patiently(lambda: self._link.call(script, *arguments))
            return None
        self._writer.hold(job, owner, int(values[b"seq"]))
        return Claim(job, codec.load_history(reply[1], reply[2]), float(reply[3]))

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
            reply = self._call(scripts.FINISH, job_id, run, "", "", *ending(event))
            return self._changed(job_id, reply)
        held.seal()
        with self._writer.releasing(held):
            return self._changed(
                job_id, self._writer.patiently(lambda: self._finish_held(held, event))
            )

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

    def delete_session(self, session: str) -> None:
        active = self._call(scripts.DELETE_SESSION, "", session)
        if active is None:
            raise refusals.unknown_session(session, self._retention_s)
        if active:
            raise refusals.live_session(session, active[0].decode())

    def sweep(self) -> Sequence[Change]:
        changes: list[Change] = []
        for _ in range(SWEEP_ROUNDS):
            forgotten, late, lost, unsent = self._call(scripts.SWEEP, "", SWEEP_STEP)
            is_sure = self._link.up_s >= self._leases.grace_s
            calls = [self._fail_late(job) for job in _readable(late)]
            calls += [self._requeue(job_id, "", "") for job_id in lost if is_sure]
            for reply in self._link.call_all(calls):
                with suppress(codec.ForeignData):
                    change = change_of(reply)
                    if change and change.changed:
                        changes.append(change)
            changes += [Change(job, False, (job,)) for job in _readable(unsent)]
            most = max(forgotten, len(late), len(unsent), len(lost) if is_sure else 0)
            if most < SWEEP_STEP:
                break
        return changes

    # Leases

    def renew(self) -> Sequence[tuple[str, int]]:
        held = self._writer.all()
        if not held:
            return ()
        mine = [part for one in held for part in (one.job.id, one.owner)]
        found = {
            owner.decode() for owner in self._call(scripts.RENEW, "", self._leases.lease_s, *mine)
        }
        to_stop = [one for one in held if one.owner in found]
        for one in to_stop:
            one.close()
        return tuple((one.job.id, one.job.run) for one in to_stop)

    def give_back(self, job_id: str, run: int) -> Change:
        held = self._writer.held(job_id, run)
        if held is None:
            return Change(self.get(job_id), changed=False)
        script, arguments = self._requeue(job_id, run, held.owner)
        with self._writer.releasing(held):
            # Not before: its run, told that no more is wanted, would end the request first.
            held.close()
            return self._changed(
                job_id, self._writer.patiently(lambda: self._link.call(script, *arguments))
            )

    def sent(self, job_id: str) -> None:
        self._call(scripts.SENT, job_id, scripts.SEND_AGAIN_S, 1)

    def pass_on(self, job_id: str) -> None:
        self._call(scripts.SENT, job_id, scripts.PASS_ON_S, scripts.PASS_ON_SHARE)

    def show_worker(self, models: Sequence[str]) -> None:
        self._call(scripts.SHOW_WORKER, "", SEEN_S, *models)

    def served(self) -> frozenset[str]:
        models, is_filled = self._call(scripts.LOOK, "")
        if is_filled:
            raise trouble.full()
        return frozenset(model.decode() for model in models)

    def position(self, job_id: str, priority: Priority) -> int:
        above = list(Priority)[: list(Priority).index(priority)]
        return int(self._call(scripts.POSITION, job_id, priority, *above))

    def on_stop(self, tell: Callable[[str], None]) -> None:
        def stop(job_id: str) -> None:
            self._writer.close_job(job_id)
            tell(job_id)

        self._hub.listen(names.STOP_CHANNEL, stop)

    def live(self) -> Sequence[Job]:
        return [held.job for held in self._writer.all()]

    # Inside

    def _changed(self, job_id: str, reply: Sequence[Any]) -> Change:
        change = change_of(reply)
        self._kept(job_id, change.job if change else None)
        assert change
        return change

    def _finish_held(self, held: Held, event: Terminal) -> Any:
        """End a job with the last of its log; as failed where there was no room for that."""
        job_id, run = held.job.id, held.job.run
        while not held.refusal:
            parts = held.calls(*self._head(job_id))
            if held.has_more:
                held.settle(self._link.call_all(parts))
                continue
            which = (run, held.owner, held.seq)
            last = (scripts.FINISH, (*self._head(job_id), *which, *ending(event)))
            *results, reply = self._link.call_all([*parts, last])
            held.settle(results)
            if not held.refusal:
                return reply
        error = held.refusal
        code = error.code if isinstance(error, OrchestratorError) else OrchestratorError.code
        failed = Failed(code, str(error), failed_usage=event.failed_usage)
        return self._call(scripts.FINISH, job_id, run, held.owner, "", *ending(failed))

    def _flush_session(self, session: str) -> None:
        for held in self._writer.all():
            if held.job.request.session == session:
                self._writer.flush(held.job.id)

    def _fail_late(self, job: Job) -> Call:
        event = refusals.waited_too_long(job.request)
        return scripts.FINISH, (*self._head(job.id), "", "", "", *ending(event))

    def _requeue(self, job_id: str, run: int | str, owner: str) -> Call:
        lost = Failed(
            WorkerLost.code,
            f"Whoever ran the request died, {self._leases.losses} times. What it asks for may be "
            "why: see the logs of the workers before you submit it again.",
        )
        last = (codec.dump_event(lost), lost.message, lost.code)
        return scripts.REQUEUE, (*self._head(job_id), run, owner, self._leases.losses, *last)


def _readable(found: Sequence[Sequence[bytes | None]]) -> Iterator[Job]:
    """Yield the jobs of fields; what another version wrote is left to that one's sweeps."""
    for values in found:
        with suppress(codec.ForeignData):
            yield codec.load_job(codec.chosen(codec.READ, values))
