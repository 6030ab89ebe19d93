"""The errors that every store raises alike, and the end of a request that waited too long."""

import math

from orchestrator.allowance import Budget
from orchestrator.errors import (
    DeadlineExceeded,
    IdempotencyKeyReused,
    InProgress,
    NotFound,
    PipelineUnavailable,
    RateLimited,
    ResultExpired,
    SessionBusy,
)
from orchestrator.events import Failed
from orchestrator.job import GenerateRequest, Status
from orchestrator.tenancy import session_id_of

CROWDED_S = 1
"""When to ask again where other requests have to end first, which may take any time."""


def expired(job_id: str, retention_s: float) -> ResultExpired:
    """Return the error for a request that was there, or may have been."""
    return ResultExpired(
        f"Request {job_id} is no longer kept: results are kept for {retention_s:g} "
        "seconds after their end, less when memory is short. Submit the prompt again."
    )


def unknown(job_id: str) -> NotFound:
    """Return the error for a request that never was."""
    return NotFound(
        f"There is no request {job_id!r}, or no longer. Use the request_id that a submit gave; in "
        "place of one that was deleted submit the prompt again, with a new Idempotency-Key."
    )


def unknown_session(session: str, retention_s: float) -> NotFound:
    """Return the error for a session that is not there."""
    return NotFound(
        f"There is no session {session_id_of(session)!r}. Sessions are kept for "
        f"{retention_s:g} seconds after their last use."
    )


def live(job_id: str, status: Status | str) -> InProgress:
    """Return the error for a request that is to be deleted before its end."""
    return InProgress(f"Request {job_id} is {status}. Cancel it first, or wait for its end.")


def live_session(session: str, running: str) -> InProgress:
    """Return the error for a session that is to be deleted while it is busy."""
    return InProgress(
        f"Session {session_id_of(session)} runs request {running}. Cancel it first, or wait for "
        "its end."
    )


def busy(session: str, running: str) -> SessionBusy:
    """Return the error for a request that will not wait for its session."""
    return SessionBusy(
        f"Session {session_id_of(session)} runs request {running}. Wait for it, cancel it, or "
        'submit with on_busy "enqueue", "interrupt" or "parallel".',
        request_id=running,
    )


def full(queue_limit: int) -> PipelineUnavailable:
    """Return the error for a queue that is full."""
    return PipelineUnavailable(
        f"{queue_limit} requests are waiting already. Try again later.", retry_after=5
    )


def crowded(limit: int) -> RateLimited:
    """Return the error for a caller that has as many requests as it may."""
    return RateLimited(
        f"You have {limit} requests that wait or run, and may not have more at once. Submit again "
        "when one has ended, or cancel one.",
        retry_after=CROWDED_S,
    )


def spent(budget: Budget, used: int, needed: int, left_s: float) -> RateLimited:
    """Return the error for a caller that has too few tokens left, ``left_s`` before midnight."""
    of_what = f" of model {budget.model!r}" if budget.model else ""
    # One that needs more than a day's tokens never fits.
    or_later = ", or after midnight, UTC" if needed <= budget.limit else ""
    return RateLimited(
        f"You may use {budget.limit} tokens{of_what} a day. {used} are used or reserved, and this "
        f"request may need {needed}. Submit it with fewer max_tokens{or_later}.",
        retry_after=math.ceil(left_s),
    )


def reused(job_id: str) -> IdempotencyKeyReused:
    """Return the error for a key that stands for another body."""
    return IdempotencyKeyReused(
        "This Idempotency-Key came before with another body. Use a new key for a new request.",
        request_id=job_id,
    )


def waited_too_long(request: GenerateRequest) -> Failed:
    """Return the end of a request whose queue timeout has passed."""
    error = DeadlineExceeded(
        f"The request waited {request.queue_timeout_s:g} seconds and no slot came free. Try "
        "again later, or allow more with queue_timeout_s.",
    )
    return Failed(error.code, error.message, stage="queue")
