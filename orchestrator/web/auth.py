"""Credentials at the HTTP edge: who the caller is, and whether it may do this."""

from flask import Blueprint, Flask, Response

from orchestrator.auth import tickets
from orchestrator.auth.guard import Entrance, require
from orchestrator.auth.tickets import TTL_S
from orchestrator.caller import STRANGER, Caller, Scope
from orchestrator.web.context import caller, context, tenant
from orchestrator.web.json_io import json_response
from orchestrator.web.request import ApiRequest, asked

bp = Blueprint("auth", __name__)

OPEN = ("health", "playground", "docs")
"""Blueprints for everyone: they hold no data. The page asks for a key itself."""
BY_TOKEN = "rest.stream"
"""What a browser's EventSource asks for, which can send no headers."""
SOCKET = "ws.serve"
"""What a browser's WebSocket asks for: it says who it is in its first message."""


def register(app: Flask, entrance: Entrance) -> None:
    """Ask for credentials at every address but the open ones, those that don't exist included."""

    @app.before_request
    def _admit() -> None:
        request = asked()
        request.caller = STRANGER
        if request.method == "OPTIONS" or request.blueprint in OPEN:
            return
        request.caller = _caller(request, entrance)
        if request.caller is not STRANGER:
            require(request.caller, _scope(request))

    @app.after_request
    def _say_how(response: Response) -> Response:
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="orchestrator"'
        return response


def use_stream_token() -> None:
    """Use up the stream token that the request came with, if any. Raises Unauthorized.

    To be called last: an answer that opens no stream leaves it good.
    """
    token, entrance = asked().stream_token, context().entrance
    if token is not None and entrance:
        tickets.use(entrance.tickets, token)


def _caller(request: ApiRequest, entrance: Entrance) -> Caller:
    authorization = request.headers.get("Authorization")
    api_key = request.headers.get("X-API-Key")
    if authorization is None and api_key is None:
        token = request.args.get("token")
        if request.endpoint == BY_TOKEN and token is not None:
            assert request.view_args is not None
            holder = tickets.holder(entrance.tickets, token, request.view_args["request_id"])
            entrance.guard.check(holder)
            request.stream_token = token
            return holder
        if request.endpoint == SOCKET and "Origin" in request.headers:
            return STRANGER
    return entrance.guard.admit(authorization, api_key)


def _scope(request: ApiRequest) -> Scope:
    """Return what an address needs; for a socket, each of its messages is looked at as well."""
    reads = request.method in ("GET", "HEAD") or request.endpoint == "auth.stream_token"
    return Scope.READ if reads else Scope.INFER


@bp.post("/stream-token/<id:request_id>")
def stream_token(request_id: str) -> Response:
    """Answer with a token that opens the stream of a request once.

    Where no credentials are asked for, whatever token comes with a stream is passed over.
    """
    entrance = context().entrance
    context().service.get(request_id, tenant())
    token = tickets.issue(entrance.tickets, request_id, caller()) if entrance else ""
    return json_response({"token": token, "expires_in": TTL_S})
