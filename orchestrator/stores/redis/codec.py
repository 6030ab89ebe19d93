"""Requests, events and sessions as bytes, and back.

What another version of this package wrote in another form is refused, never guessed at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from orchestrator.allowance import Allowance
from orchestrator.errors import OrchestratorError
from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Terminal,
    Token,
    Usage,
)
from orchestrator.job import GenerateRequest, Job, OnBusy, Priority, Reuse, Status
from orchestrator.session import History, Message, Session, SessionHead
from orchestrator.tenancy import session_id_of

VERSION = 1
"""The form that this version writes, and the only one it reads."""

Hash = dict[bytes, bytes]

_OWN_FIELDS = ("prompt", "system", "session_id", "priority", "queue_timeout_s")
"""What the scripts look at of a request; the rest of it is one JSON text."""
_TIMES = (
    "started_at",
    "first_token_at",
    "completed_at",
    "expires_at",
    "cancel_requested_at",
)
_TEXTS = ("backend", "result", "error", "error_code", "error_stage")

LISTED = (
    *("v", "id", "session", "priority", "queue_timeout_s", "request", "created_at", "status"),
    *("run", "attempts", "finish_reason", "usage", "failed_usage", *_TIMES, *_TEXTS),
)
"""What of a request lists show: all but what it asks."""
READ = (*(name for name in LISTED if name != "result"), "seq")
"""What goes with each page of a log."""


class ForeignData(OrchestratorError):
    """Redis holds what this version can't read."""


def pairs(flat: Sequence[bytes]) -> Hash:
    """Return a hash as a script gives it, name and value by turns, as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def chosen(names: Sequence[str], values: Sequence[bytes | None]) -> Hash:
    """Return those fields of a hash that are there, as HMGET gives them; empty for no hash."""
    found = zip(names, values, strict=True)
    return {name.encode(): value for name, value in found if value is not None}


def dump_job(job: Job) -> list[str | bytes]:
    """Return the fields of a pending job, name and value by turns."""
    request = job.request
    rest = {name: value for name, value in request._asdict().items() if name not in _OWN_FIELDS}
    values: dict[str, str | bytes] = {
        "v": str(VERSION),
        "id": job.id,
        "session": request.session,
        "prompt": request.prompt,
        "priority": request.priority,
        "queue_timeout_s": repr(request.queue_timeout_s),
        "request": orjson.dumps(rest),
        "created_at": repr(job.created_at),
        "status": job.status,
        "run": str(job.run),
        "attempts": str(job.attempts),
        "losses": "0",
        "seq": "0",
        "begin": "-1",
        "size": "0",
    }
    if request.system is not None:
        values["system"] = request.system
    return [part for pair in values.items() for part in pair]


def dump_allowance(allowance: Allowance) -> bytes:
    """Return what may be taken with a submit, as submit.lua is told it."""
    return orjson.dumps(
        {
            "account": allowance.account,
            "live": allowance.live,
            "names": [budget.name for budget in allowance.budgets],
            "limits": [budget.limit for budget in allowance.budgets],
            "input": allowance.input_tokens,
            "answer": allowance.answer_tokens,
        }
    )


def load_job(values: Hash) -> Job:
    """Return the job that a hash holds; what it asks is empty where that was left out.

    Raises ForeignData.
    """
    check_version(values)
    known: dict[str, Any] = {
        name: float(values[name.encode()]) for name in _TIMES if name.encode() in values
    }
    known |= {name: values[name.encode()].decode() for name in _TEXTS if name.encode() in values}
    if b"finish_reason" in values:
        known["finish_reason"] = FinishReason(values[b"finish_reason"].decode())
    for name in ("usage", "failed_usage"):
        if name.encode() in values:
            known[name] = load_usage(orjson.loads(values[name.encode()]))
    return Job(
        id=values[b"id"].decode(),
        request=_load_request(values),
        created_at=float(values[b"created_at"]),
        status=Status(values[b"status"].decode()),
        run=int(values[b"run"]),
        attempts=int(values[b"attempts"]),
        **known,
    )


def _load_request(values: Hash) -> GenerateRequest:
    rest = orjson.loads(values[b"request"])
    rest["stop"] = tuple(rest["stop"])
    rest["on_busy"] = OnBusy(rest["on_busy"])
    rest["reuse"] = Reuse(rest["reuse"])
    system = values.get(b"system")
    return GenerateRequest(
        prompt=values.get(b"prompt", b"").decode(),
        system=None if system is None else system.decode(),
        session_id=session_id_of(values[b"session"].decode()),
        priority=Priority(values[b"priority"].decode()),
        queue_timeout_s=float(values[b"queue_timeout_s"]),
        **rest,
    )


def dump_texts(texts: Sequence[str]) -> bytes:
    """Return the texts of tokens as an entry of a log has them."""
    return orjson.dumps(texts)


def load_tokens(first: int, begin: int, payload: bytes) -> list[tuple[int, Event]]:
    """Return the tokens of an entry with their seq; ``begin`` is the seq before chunk 0."""
    return [
        (seq, Token(seq - begin - 1, text)) for seq, text in enumerate(orjson.loads(payload), first)
    ]


def dump_event(event: Event) -> bytes:
    """Return an event other than a token as it stands in an entry of a log."""
    match event:
        case Started(backend):
            value: dict[str, Any] = {"type": "started", "backend": backend}
        case Restarted(attempt, backend):
            value = {"type": "restarted", "attempt": attempt, "backend": backend}
        case Completed(finish_reason, usage):
            value = {
                "type": "completed",
                "finish_reason": finish_reason,
                "usage": dump_usage(usage),
            }
        case Failed(code, message, stage):
            value = {"type": "failed", "code": code, "message": message, "stage": stage}
        case Cancelled():
            value = {"type": "cancelled"}
        case Token():
            raise TypeError("tokens are written by the entry: see dump_texts")
    if isinstance(event, Terminal):
        value["failed_usage"] = dump_usage(event.failed_usage)
    return orjson.dumps(value)


def load_event(payload: bytes) -> Event:
    """Return the event of an entry. Raises ForeignData."""
    value = orjson.loads(payload)
    failed_usage = load_usage(value.get("failed_usage"))
    match value:
        case {"type": "started", "backend": backend}:
            return Started(backend)
        case {"type": "restarted", "attempt": attempt, "backend": backend}:
            return Restarted(attempt, backend)
        case {"type": "completed", "finish_reason": reason, "usage": usage}:
            return Completed(FinishReason(reason), load_usage(usage), failed_usage)
        case {"type": "failed", "code": code, "message": message, "stage": stage}:
            return Failed(code, message, stage, failed_usage)
        case {"type": "cancelled"}:
            return Cancelled(failed_usage)
    raise ForeignData(f"Redis holds an event that this version does not know: {payload[:100]!r}.")


def dump_usage(usage: Usage | None) -> list[int] | None:
    """Return what a request cost as JSON has it."""
    return [usage.input_tokens, usage.output_tokens] if usage else None


def load_usage(numbers: Sequence[int] | None) -> Usage | None:
    """Return what a request cost."""
    return Usage(*numbers) if numbers else None


def load_history(system: bytes | None, turns: Sequence[bytes]) -> History:
    """Return what a session remembers, from prompts and answers by turns."""
    messages = tuple(
        Message("assistant" if place % 2 else "user", text.decode())
        for place, text in enumerate(turns)
    )
    return History(None if system is None else system.decode(), messages)


def load_head(name: str, values: Hash, messages_count: int, active: Sequence[bytes]) -> SessionHead:
    """Return a session without what was said in it. Raises ForeignData."""
    check_version(values)
    return SessionHead(
        name,
        float(values[b"created_at"]),
        float(values[b"last_used_at"]),
        messages_count,
        tuple(job_id.decode() for job_id in active),
    )


def load_session(
    name: str, values: Hash, turns: Sequence[bytes], active: Sequence[bytes]
) -> Session:
    """Return the session that a hash holds. Raises ForeignData."""
    head = load_head(name, values, len(turns), active)
    return Session(
        head.name,
        head.created_at,
        head.last_used_at,
        head.messages_count,
        head.active,
        load_history(values.get(b"system"), turns),
    )


def check_version(values: Mapping[bytes, bytes]) -> None:
    """Raise ForeignData for what another version wrote in another form."""
    version = values.get(b"v", b"none")
    if version != b"%d" % VERSION:
        raise ForeignData(
            f"Redis holds data in form {version.decode(errors='replace')}, and this version reads "
            f"form {VERSION}. Run one version everywhere, or give this one a database of its own."
        )
