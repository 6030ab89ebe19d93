"""Every error this package raises on purpose: one tree, each with a code and a way out.

The codes are those of the API. Which HTTP status a code becomes is the web floor's business.
"""

from typing import Any


class OrchestratorError(Exception):
    """Root of the tree.

    ``message`` is one sentence for the client that says what to do; ``details`` is JSON-ready.
    ``retry_after`` says in how many seconds to ask again, where that helps and is known.
    """

    code = "INTERNAL"
    retry_after: int | None = None

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InternalError(OrchestratorError):
    """A fault of the server itself."""

    def __init__(
        self, message: str = "The server has a fault; its log says more.", **details: Any
    ) -> None:
        super().__init__(message, **details)


class ConfigError(OrchestratorError):
    """A setting is missing or wrong; the message names it. Raised at start only."""


class InvalidRequest(OrchestratorError):
    """The client's input breaks a rule; ``details["fields"]`` maps field to messages."""

    code = "INVALID_REQUEST"


class PayloadTooLarge(OrchestratorError):
    """A body, frame or message exceeds its limit."""

    code = "PAYLOAD_TOO_LARGE"


class UnsupportedMediaType(OrchestratorError):
    """A body comes as something other than JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class NotAcceptable(OrchestratorError):
    """The client accepts no form that this answer can take."""

    code = "NOT_ACCEPTABLE"


class Unauthorized(OrchestratorError):
    """The caller is unknown: credentials are missing, wrong, or no longer in force."""

    code = "UNAUTHORIZED"


class Forbidden(OrchestratorError):
    """The caller is known, and may not do this."""

    code = "FORBIDDEN"


class NotFound(OrchestratorError):
    """No such request, session or model."""

    code = "NOT_FOUND"


class ResultExpired(OrchestratorError):
    """The id is older than the retention: there may have been a result, there is none now."""

    code = "RESULT_EXPIRED"


class InProgress(OrchestratorError):
    """The operation needs a request that has ended, and this one still runs."""

    code = "IN_PROGRESS"


class SessionBusy(OrchestratorError):
    """The session runs another request and the client asked not to queue behind it."""

    code = "SESSION_BUSY"


class NotNow(OrchestratorError):
    """What is asked for is refused now, and may be granted later."""

    def __init__(self, message: str, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        if retry_after is not None:
            self.retry_after = retry_after


class RateLimited(NotNow):
    """The caller has used up what it may have."""

    code = "RATE_LIMITED"


class IdempotencyKeyReused(OrchestratorError):
    """The same Idempotency-Key came with another body."""

    code = "IDEMPOTENCY_KEY_REUSED"


class PipelineUnavailable(NotNow):
    """No capacity now."""

    code = "PIPELINE_UNAVAILABLE"
    retry_after = 5


class Restarting(PipelineUnavailable):
    """The server is about to stop, and takes nothing new."""

    def __init__(
        self, message: str = "The server is restarting. Try again in a moment.", **options: Any
    ) -> None:
        super().__init__(message, **options)


class RunError(OrchestratorError):
    """A run ended badly. Its code is the ``error_code`` of the failed request."""


class UpstreamError(RunError):
    """The provider can't be reached, or sent an error, or something that is not an answer."""

    code = "UPSTREAM_ERROR"


class UpstreamTimeout(RunError):
    """The provider stayed silent past a timeout; ``details["stage"]`` says which."""

    code = "UPSTREAM_TIMEOUT"


class UpstreamRejected(RunError):
    """The provider refused the client's own input; the message quotes the provider's reason."""

    code = "UPSTREAM_REJECTED"


class UpstreamTruncated(RunError):
    """The provider's stream stopped before it said that it was done."""

    code = "UPSTREAM_TRUNCATED"


class DeadlineExceeded(RunError):
    """The request's own time limit ran out; ``details["stage"]`` is ``queue`` or ``run``."""

    code = "DEADLINE_EXCEEDED"


class WorkerLost(RunError):
    """The workers that ran the request died, again and again."""

    code = "WORKER_LOST"


class ShuttingDown(RunError):
    """The server stopped before the request could end."""

    code = "SHUTDOWN"

    def __init__(
        self, message: str = "The server is restarting. Submit the prompt again.", **details: Any
    ) -> None:
        super().__init__(message, **details)
