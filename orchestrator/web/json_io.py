"""JSON at the HTTP edge: strict reading of bodies, fast writing of answers."""

from typing import Any

import orjson
from flask import Request, Response
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import get_content_length

from orchestrator import headers
from orchestrator.errors import PayloadTooLarge, UnsupportedMediaType
from orchestrator.strict_json import MAX_BODY, Json, parse_object

JSON = "application/json"
TOO_LARGE = "The body is larger than 1 MiB. Send a shorter prompt."
PIECE = 64 * 1024


class ApiResponse(Response):
    """A response whose headers are what they were set to, and its length.

    Werkzeug would parse and rebuild the Location of each: a sixth of a submit's cost.
    """

    default_mimetype = JSON
    automatically_set_content_length = False
    standing = headers.DATA
    """What protects it, beside the headers that are its own."""

    def get_wsgi_response(self, environ: Any) -> tuple[Any, str, list[tuple[str, str]]]:
        sent = [*self.headers.to_wsgi_list(), *self.standing]
        if "Cache-Control" not in dict(sent):
            sent.append(headers.NO_STORE)
        if self.is_sequence and self.status_code not in (204, 304):
            sent.append(("Content-Length", str(sum(map(len, self.response)))))
        return self.get_app_iter(environ), self.status, sent

    @classmethod
    def force_type(cls, response: Any, environ: Any = None) -> Any:
        """Leave a response what it is: flask-sock's ends its connection in a way of its own."""
        if isinstance(response, Response):
            return response
        return super().force_type(response, environ)


class PageResponse(ApiResponse):
    """A page of ours; its class says what it may load. Browsers keep it, and ask each time."""

    default_mimetype = "text/html"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.headers["Cache-Control"] = "no-cache"


def pieces_of(body: bytes) -> list[bytes]:
    """Return a body as what is written at once: a slow reader has its time for each piece."""
    if len(body) <= PIECE:
        return [body]
    return [body[at : at + PIECE] for at in range(0, len(body), PIECE)]


def json_response(value: object, status: int = 200) -> ApiResponse:
    """Return ``value`` as a JSON answer."""
    # Passed on as it is: nothing in it is to be encoded, or closed.
    pieces = pieces_of(orjson.dumps(value))
    return ApiResponse(pieces, status, content_type=JSON, direct_passthrough=True)


def no_content() -> ApiResponse:
    """Return an answer that has no body."""
    response = ApiResponse(status=204)
    del response.headers["Content-Type"]
    return response


def json_body(request: Request) -> Json:
    """Return a request's body, a JSON object.

    Raises UnsupportedMediaType, PayloadTooLarge, InvalidRequest, and ClientDisconnected.
    """
    if request.environ.get("CONTENT_TYPE") != JSON and not _is_json(request.mimetype):
        raise UnsupportedMediaType(
            "The body must be JSON. Send it with the header Content-Type: application/json."
        )
    if request.environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaType(
            "The body is encoded, as its Content-Encoding says. Send it uncompressed."
        )
    return parse_object(_body(request))


def _is_json(mimetype: str) -> bool:
    return mimetype == JSON or mimetype.endswith("+json")


def _body(request: Request) -> bytes:
    """Read the body whole. Werkzeug would cut a chunked one at its limit without a word."""
    declared = get_content_length(request.environ)
    if declared is None and "wsgi.input_terminated" not in request.environ:
        return b""
    if (declared or 0) > MAX_BODY:
        raise PayloadTooLarge(TOO_LARGE)
    try:
        limit = MAX_BODY + 1 if declared is None else declared
        body: bytes = request.environ["wsgi.input"].read(limit)
    except Exception as error:
        # Each server has errors of its own for a body that is late, cut, or badly chunked.
        raise ClientDisconnected from error
    if len(body) > MAX_BODY:
        raise PayloadTooLarge(TOO_LARGE)
    if len(body) < (declared or 0):
        raise ClientDisconnected
    return body
