"""Errors as clients get them: one envelope for every answer that is no success."""

import logging
from http import HTTPStatus

from flask import Flask, Response
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.routing import WebsocketMismatch

from orchestrator.errors import InternalError, OrchestratorError
from orchestrator.strict_json import Json
from orchestrator.views import error_view
from orchestrator.web.json_io import json_response

logger = logging.getLogger("orchestrator")

STATUS = {
    "INVALID_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "RESULT_EXPIRED": 404,
    "METHOD_NOT_ALLOWED": 405,
    "NOT_ACCEPTABLE": 406,
    "CANCELLED": 409,
    "IN_PROGRESS": 409,
    "SESSION_BUSY": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "IDEMPOTENCY_KEY_REUSED": 422,
    "RATE_LIMITED": 429,
    "INTERNAL": 500,
    "PROCESSING_FAILED": 500,
    "PIPELINE_UNAVAILABLE": 503,
}
_CODES = {
    400: "INVALID_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}


def envelope(
    code: str, message: str, status: int | None = None, details: Json | None = None
) -> Response:
    """Return the error envelope as a response; the status follows from the code."""
    return json_response(error_view(code, message, details), status or STATUS[code])


def of_error(error: OrchestratorError) -> Response:
    """Return the envelope of an error of ours."""
    response = envelope(error.code, error.message, details=error.details)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def register(app: Flask) -> None:
    """Have every error of ``app`` leave as an envelope, Werkzeug's own included."""
    app.register_error_handler(OrchestratorError, of_error)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(WebsocketMismatch, _of_mismatch)
    app.register_error_handler(ClientDisconnected, _of_cut_body)
    app.register_error_handler(Exception, _of_fault)


def _of_http(error: HTTPException) -> Response:
    status = error.code or 500
    code = _CODES.get(status, "INVALID_REQUEST" if status < 500 else "INTERNAL")
    message = {
        404: "There is nothing at this address. See /docs for what there is.",
        405: "This address does not take that method. The Allow header says which it takes.",
    }.get(status, error.description or HTTPStatus(status).phrase)
    response = envelope(code, message, status)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _of_mismatch(error: WebsocketMismatch) -> Response:
    response = envelope(
        "INVALID_REQUEST",
        "This address and this kind of connection don't go together: /api/v1/ws takes WebSocket "
        "connections, every other address plain HTTP.",
        426,
    )
    response.headers["Upgrade"] = "websocket"
    return response


def _of_cut_body(error: ClientDisconnected) -> Response:
    return envelope("INVALID_REQUEST", "The body did not arrive in full, or not in time.")


def _of_fault(error: Exception) -> Response:
    logger.error("a fault while answering", exc_info=error)
    return of_error(InternalError())
