"""The app finds what werkzeug finds, and calls the hooks that Flask calls."""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from flask import Blueprint, Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from orchestrator import config
from orchestrator.errors import PipelineUnavailable
from orchestrator.job import Job
from orchestrator.service import Service
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.web import create_app
from orchestrator.web.app import App
from orchestrator.web.routes import Routes

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "DELETE", "PUT")
VALUES = ("x", "X", "0", "ü", "a b", "<x>", "", "a/b", "x/")


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(config.load({}))


def addresses(app: Flask) -> Iterator[str]:
    """Addresses for every rule of an app, good and bad ones."""
    for rule in app.url_map.iter_rules():
        begin, variable, _ = rule.rule.partition("<")
        for value in VALUES if variable else ("", "/", "x"):
            yield begin + value


def test_whatever_the_table_finds_werkzeug_finds_too(app: Flask) -> None:
    routes, werkzeugs = Routes(app.url_map), app.url_map.bind("localhost")
    for path in addresses(app):
        for method in METHODS:
            found = routes.find(method, path)
            try:
                expected = werkzeugs.match(path, method, return_rule=True)
            except HTTPException:
                assert found is None, (method, path)
            else:
                assert found in (None, expected), (method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/v1/infer"), ("GET", "/api/v1/status/x"), ("GET", "/api/v1/result/x")],
)
def test_what_is_asked_for_most_is_in_the_table(app: Flask, method: str, path: str) -> None:
    found = Routes(app.url_map).find(method, path)
    assert found is not None
    assert isinstance(found[0], Rule)


def an_app(bp: Blueprint) -> tuple[App, list[str]]:
    """An app of one blueprint with a view at /, and a list for its hooks to write to."""
    app = App("tests")
    bp.get("/")(lambda: "hello")
    return app, []


@pytest.mark.parametrize("whole_app", [True, False])
def test_hooks_are_called_in_order_wherever_they_are(whole_app: bool) -> None:
    bp = Blueprint("bp", __name__)
    app, called = an_app(bp)
    place = app if whole_app else bp
    place.before_request(lambda: called.append("before"))
    place.after_request(lambda response: called.append("after") or response)
    place.teardown_request(lambda error: called.append("teardown"))
    app.teardown_appcontext(lambda error: called.append("end"))
    app.register_blueprint(bp)
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.text) == (200, "hello")
    assert called == ["before", "after", "teardown", "end"]


def test_another_blueprints_hooks_are_not_called() -> None:
    bp, other = Blueprint("bp", __name__), Blueprint("other", __name__)
    app, called = an_app(bp)
    other.before_request(lambda: called.append("before"))
    app.register_blueprint(bp)
    app.register_blueprint(other)
    assert app.test_client().get("/").text == "hello"
    assert called == []


def test_a_hook_of_the_whole_app_sees_addresses_that_are_none() -> None:
    app, called = an_app(Blueprint("bp", __name__))
    app.before_request(lambda: called.append("before"))
    assert app.test_client().get("/nowhere").status_code == 404
    assert called == ["before"]


def test_a_store_that_goes_away_after_the_submit_takes_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> Job:
        raise PipelineUnavailable("Redis can't be reached.")

    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[backends.e]\nkind = "echo"\n[models.default]\ntargets = ["e"]\ncache_ttl_s = 60\n'
    )
    environ = {"ORCHESTRATOR_CONFIG": str(routes), "ORCHESTRATOR_STREAMS_PER_CALLER": "1"}
    client = create_app(config.load(environ)).test_client()
    monkeypatch.setattr(Service, "get", away)
    for _ in range(3):
        # Each gives its place back.
        streamed = {"Accept": "text/event-stream"}
        with client.post("/api/v1/infer", json={"prompt": "x"}, headers=streamed) as answer:
            assert answer.status_code == 200
    assert client.post("/api/v1/infer", json={"prompt": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "status"),
    [({"Accept": "text/event-stream"}, 200), ({"Prefer": "wait=5"}, 202), ({}, 200)],
)
def test_what_was_accepted_is_never_answered_with_503(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], status: int
) -> None:
    def away(*_: object) -> NoReturn:
        raise PipelineUnavailable("Redis can't be reached.")

    client = create_app(config.load({})).test_client()
    for owner, call in ((Service, "get"), (Service, "wait"), (MemoryStore, "read")):
        monkeypatch.setattr(owner, call, away)
    with client.post("/api/v1/infer", json={"prompt": "Hello"}, headers=asked) as answer:
        assert answer.status_code == status
        monkeypatch.undo()
        if asked.get("Accept"):
            # Its frames come once the store is back.
            assert b"event: complete" in answer.data
    request_id = answer.headers["Location"].rpartition("/")[2]
    assert client.get(f"/api/v1/result/{request_id}?wait=5").status_code == 200


def test_a_repeated_submit_of_what_is_forgotten_has_no_stream() -> None:
    client = create_app(config.load({})).test_client()
    headers = {"Idempotency-Key": "one", "Prefer": "wait=5"}
    first = client.post("/api/v1/infer", json={"prompt": "x"}, headers=headers)
    request_id = first.get_json()["request_id"]
    assert client.delete(f"/api/v1/requests/{request_id}").status_code == 204
    headers = {"Idempotency-Key": "one", "Accept": "text/event-stream"}
    again = client.post("/api/v1/infer", json={"prompt": "x"}, headers=headers)
    assert again.status_code == 404
