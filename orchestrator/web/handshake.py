"""What a WebSocket handshake must satisfy before the connection is upgraded."""

import base64
import binascii

from flask import Response, request

from orchestrator.caller import STRANGER
from orchestrator.errors import Forbidden, InvalidRequest
from orchestrator.schemas import invalid
from orchestrator.web import limits
from orchestrator.web.context import caller, context
from orchestrator.web.errors import envelope
from orchestrator.web.origins import is_allowed
from orchestrator.web.ws_guard import UNNAMED, GuardedSocket

_SHOWN = (
    "HTTP_CONNECTION",
    "HTTP_UPGRADE",
    "HTTP_SEC_WEBSOCKET_KEY",
    "HTTP_SEC_WEBSOCKET_VERSION",
)


def check() -> Response | None:
    """Refuse a bad handshake as plain HTTP, and guard the socket of a good one."""
    if request.method != "GET" or request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
        raise InvalidRequest("A WebSocket connection begins with GET, and HTTP/1.1.")
    if request.headers.get("Sec-WebSocket-Version") != "13":
        response = envelope(
            "INVALID_REQUEST", "Only version 13 of the WebSocket protocol is spoken here.", 426
        )
        response.headers["Sec-WebSocket-Version"] = "13"
        response.headers["Upgrade"] = "websocket"
        return response
    if not _is_key(request.headers.get("Sec-WebSocket-Key", "")):
        raise invalid({"Sec-WebSocket-Key": ["Must be 16 bytes in base64."]})
    allowed = context().settings.cors_origins
    origin = request.headers.get("Origin")
    if not is_allowed(origin, request.host, request.is_secure, allowed):
        raise Forbidden(
            "Pages of this origin may not connect. Name it in ORCHESTRATOR_CORS_ORIGINS."
        )
    context().connections.check()
    if caller() is STRANGER:
        context().connections.check_unnamed()
        request.environ[UNNAMED] = True
    limits.seat_socket()
    _guard()
    return None


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _guard() -> None:
    environ = request.environ
    for name in ("gunicorn.socket", "werkzeug.socket"):
        if name in environ:
            environ[name] = GuardedSocket(environ[name])
    # simple-websocket reads the headers again, and raises where any of them is unusual. Nor is
    # it shown an offer of compression: with it, a connection costs 130 KiB more.
    for name in [name for name in environ if name.startswith("HTTP_")]:
        if name not in _SHOWN:
            del environ[name]
    environ["HTTP_HOST"] = "localhost"
