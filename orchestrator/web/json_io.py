"""JSON at the HTTP edge: strict reading of bodies, fast writing of answers."""

from typing import Any

import orjson
from flask import Response, request
from flask.json.provider import JSONProvider

from orchestrator.errors import UnsupportedMediaType
from orchestrator.schemas import Json, parse_object

PIECE = 64 * 1024


class OrjsonProvider(JSONProvider):
    """Flask's JSON through orjson."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        obj = self._prepare_response_obj(args, kwargs)
        body = orjson.dumps(obj)
        return Response(body, mimetype="application/json")


def json_body() -> Json:
    """Return the request's body, a JSON object.

    Raises UnsupportedMediaType, InvalidRequest, and Werkzeug's 413 past the limit.
    """
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType(
            "The body must be JSON. Send it with the header Content-Type: application/json."
        )
    return parse_object(request.get_data(cache=False))
