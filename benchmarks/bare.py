"""The least that answers: a WSGI app that reads JSON and gives the same JSON back for anything."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

ID = "00000000-0000-7000-8000-000000000000"


def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Answer a submit and a poll alike, in the form of the real ones."""
    data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    session_id = orjson.loads(data)["session_id"] if data else ID
    answer = {
        "request_id": ID,
        "session_id": session_id,
        "status": "completed",
        "result": "Echo: Hello",
        "error": None,
    }
    body = orjson.dumps(answer)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
