"""What a client is shown of requests and sessions."""

from datetime import UTC, datetime

from orchestrator.job import Job, Status
from orchestrator.session import Session, SessionHead
from orchestrator.strict_json import Json
from orchestrator.tenancy import session_id_of


def timestamp(seconds: float | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def error_view(code: str, message: str, details: Json | None = None) -> Json:
    """Return the error envelope."""
    return {"error": {"code": code, "message": message, "details": details or {}}}


def accepted_view(request_id: str, session_id: str) -> Json:
    """Return what a submit is answered with."""
    return {
        "request_id": request_id,
        "session_id": session_id,
        "status": Status.PROCESSING,
        "result": None,
        "error": None,
    }


def result_view(job: Job) -> Json:
    """Return the five base fields of a request."""
    return {
        "request_id": job.id,
        "session_id": job.request.session_id,
        "status": job.status,
        "result": job.result,
        "error": job.error,
    }


def status_view(job: Job, queue_position: int | None) -> Json:
    """Return all that is known of a request."""
    return result_view(job) | {
        "model": job.request.model,
        "backend": job.backend,
        "priority": job.request.priority,
        "metadata": job.request.metadata,
        "attempts": job.attempts,
        "cached": job.cached,
        "finish_reason": job.finish_reason,
        "error_code": job.error_code,
        "queue_position": queue_position,
        "usage": job.usage and job.usage.as_json(),
        "failed_usage": job.failed_usage and job.failed_usage.as_json(),
        "metrics": {
            "queue_ms": _milliseconds(job.created_at, job.started_at),
            "ttft_ms": _milliseconds(job.started_at, job.first_token_at),
            "run_ms": _milliseconds(job.started_at, job.completed_at),
        },
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "first_token_at": timestamp(job.first_token_at),
        "completed_at": timestamp(job.completed_at),
        "expires_at": timestamp(job.expires_at),
        "cancel_requested_at": timestamp(job.cancel_requested_at),
    }


def _milliseconds(begin: float | None, end: float | None) -> int | None:
    return None if begin is None or end is None else max(0, round((end - begin) * 1000))


def session_view(session: SessionHead) -> Json:
    """Return a session without its messages."""
    return {
        "session_id": session_id_of(session.name),
        "messages_count": session.messages_count,
        "active_requests": session.active,
        "created_at": timestamp(session.created_at),
        "last_used_at": timestamp(session.last_used_at),
    }


def conversation_view(session: Session) -> Json:
    """Return a session with its messages in order."""
    history = session.history
    system = [{"role": "system", "content": history.system}] if history.system else []
    turns = [{"role": message.role, "content": message.content} for message in history.messages]
    return session_view(session) | {"messages": system + turns}
