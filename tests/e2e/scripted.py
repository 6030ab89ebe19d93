"""The playground over an API that says what a test wants it to say."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flask
from werkzeug.serving import make_server

from orchestrator.web import playground


@contextmanager
def scripted_api() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The page over an API of two models, whose one answer is begun twice.

    Yields its address, and what it was sent.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.register_blueprint(playground.bp)
    bodies: list[dict[str, Any]] = []
    known = {"request_id": "a", "session_id": "s", "status": "completed", "result": None}
    times = {"created_at": "2026-01-01T00:00:00.000Z", "completed_at": "2026-01-01T00:00:01.000Z"}
    stream = (
        'event: start\ndata: {"request_id": "a"}\n\n'
        'event: token\ndata: {"chunk": 0, "data": "the first"}\n\n'
        'event: restart\ndata: {"attempt": 2}\n\n'
        'event: token\ndata: {"chunk": 0, "data": "the second "}\n\n'
        'event: token\ndata: {"chunk": 1, "data": "attempt"}\n\n'
        'event: complete\ndata: {"status": "done"}\n\n'
    )
    answers: dict[str, Any] = {
        "models": {"data": [{"id": "flaky", "backend": "a"}, {"id": "steady", "backend": "b"}]},
        "requests": {"data": [], "next_cursor": None},
        "infer": known,
        "status/a": known | times,
        "stream/a": flask.Response(stream, mimetype="text/event-stream"),
    }

    @app.route("/api/v1/<path:name>", methods=["GET", "POST"])
    def answer(name: str) -> Any:
        if flask.request.method == "POST":
            bodies.append(flask.request.get_json())
        return answers[name]

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
