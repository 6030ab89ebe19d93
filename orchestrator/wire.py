"""Events as clients read them: SSE frames, WebSocket frames, and items of the events page."""

import orjson

from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    Restarted,
    Started,
    Terminal,
    Token,
)
from orchestrator.job import Job, Status
from orchestrator.strict_json import Json

SSE_RETRY = b"retry: 2000\n\n"
SSE_PING = b": ping\n\n"


def sse(seq: int, event: Event, job_id: str) -> bytes:
    """Return an event as one SSE frame."""
    if isinstance(event, Token):
        return b'id: %d\nevent: token\ndata: {"chunk":%d,"data":%s}\n\n' % (
            seq,
            event.chunk,
            orjson.dumps(event.text),
        )
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        seq,
        _name(event).encode(),
        orjson.dumps(_data(event, job_id)),
    )


def page_item(seq: int, event: Event, job_id: str) -> Json:
    """Return an event as an item of the events page."""
    return {"seq": seq, "event": _name(event), "data": _data(event, job_id)}


def ws_frame(seq: int, event: Event, job: Job) -> Json | None:
    """Return an event as a WebSocket frame; None for the start, which the ack stood for."""
    match event:
        case Token(chunk, text):
            return {
                "type": "token",
                "request_id": job.id,
                "chunk": chunk,
                "data": text,
                "seq": seq,
            }
        case Restarted(attempt=attempt):
            return {"type": "restart", "request_id": job.id, "attempt": attempt}
        case Started():
            return None
    return ws_end(job)


def ws_end(job: Job) -> Json:
    """Return the last WebSocket frame of an ended request."""
    if job.status is Status.COMPLETED:
        return {"type": "result", "request_id": job.id, "result": job.result}
    cancelled = job.status is Status.CANCELLED
    return {
        "type": "error",
        "request_id": job.id,
        "code": "CANCELLED" if cancelled else job.error_code,
        "message": "The request was cancelled." if cancelled else job.error,
    }


def cursor(text: str | None) -> int:
    """Return the seq that a client's cursor names; -1, which is before the first, for nonsense."""
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    return -1


def _name(event: Event) -> str:
    match event:
        case Started():
            return "start"
        case Token():
            return "token"
        case Restarted():
            return "restart"
        case _:
            return "complete"


def _data(event: Event, job_id: str) -> Json:
    match event:
        case Started():
            return {"request_id": job_id}
        case Token(chunk, text):
            return {"chunk": chunk, "data": text}
        case Restarted(attempt=attempt):
            return {"attempt": attempt}
        case _:
            return _ending(event)


def _ending(event: Terminal) -> Json:
    match event:
        case Completed(finish_reason, usage):
            done = {"status": "done", "finish_reason": finish_reason}
            return done | ({"usage": usage.as_json()} if usage else {})
        case Failed(code, message, stage):
            details = {"details": {"stage": stage}} if stage else {}
            error = {"code": code, "message": message} | details
            return {"status": "failed", "error": error}
        case Cancelled():
            return {"status": "cancelled"}
