"""What the scripts are given for the end of a request, and how their answers are read."""

from collections.abc import Sequence
from typing import Any

import orjson

from orchestrator.events import Cancelled, Completed, Failed, FinishReason, Terminal, Usage
from orchestrator.job import IllegalMove, Job, Status
from orchestrator.stores import refusals
from orchestrator.stores.base import Change, Submission
from orchestrator.stores.redis import codec
from orchestrator.stores.redis.link import Argument


def ending(event: Terminal) -> tuple[Argument, ...]:
    """Return what finish.lua is told of an end, and of the cancel that it may turn out to be."""
    always = (
        codec.dump_event(event),
        codec.dump_event(Cancelled(event.failed_usage)),
        _usage(event.failed_usage),
    )
    match event:
        case Completed(reason, usage):
            return (Status.COMPLETED, reason, *always, _usage(usage), "", "", "")
        case Failed(code, message, stage):
            return (Status.FAILED, FinishReason.ERROR, *always, "", message, code, stage or "")
        case Cancelled():
            return (Status.CANCELLED, FinishReason.CANCELLED, *always, "", "", "", "")


def _usage(usage: Usage | None) -> bytes:
    return orjson.dumps(codec.dump_usage(usage)) if usage else b""


def job_of(flat: Sequence[bytes]) -> Job | None:
    """Return the job of a hash as scripts give it; None for an empty one."""
    return codec.load_job(codec.pairs(flat)) if flat else None


def change_of(reply: Sequence[Any]) -> Change | None:
    """Return what became of a transition; None where there is no such request."""
    if reply[0] == b"missing":
        return None
    if reply[0] == b"illegal":
        raise IllegalMove("Completed after pending")
    job, following = job_of(reply[1]), job_of(reply[2])
    assert job
    return Change(job, reply[0] == b"changed", (following,) if following else ())


def replayed(reply: Sequence[bytes]) -> Submission:
    """Return what an idempotency key stands for. Raises IdempotencyKeyReused."""
    kind, request_id, session = reply
    if kind == b"reused":
        raise refusals.reused(request_id.decode())
    return Submission(request_id.decode(), session.decode(), replayed=True)


def page_of(
    after: int, limit: int, entries: Sequence[tuple[int, int, int, bytes]]
) -> list[tuple[int, Any]]:
    """Return up to ``limit`` events after a cursor from the entries of a log."""
    events: list[tuple[int, Any]] = []
    for first, _, begin, payload in entries:
        if begin < -1:
            events.append((first, codec.load_event(payload)))
        else:
            events += codec.load_tokens(first, begin, payload)
    return [event for event in events if event[0] > after][:limit]
