"""The OpenAPI document: valid, complete, and true to the code that it is made from."""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from flask import Flask

from orchestrator import config, frames
from orchestrator.errors import InvalidRequest, OrchestratorError, PipelineUnavailable, RunError
from orchestrator.schemas import SubmitReader
from orchestrator.web import create_app
from orchestrator.web.context import EXTENSION, Context
from orchestrator.web.errors import STATUS
from orchestrator.web.openapi import samples
from orchestrator.web.openapi.document import PATHS, SCHEMAS
from orchestrator.web.openapi.faults import FAULTS
from orchestrator.web.openapi.guide import CAUSES, CODES
from orchestrator.web.openapi.parameters import HEADERS, PARAMETERS
from tests.described import Described, Json

PAGES = ("playground.", "docs.", "static")
# A code that only a wrong address has.
ELSEWHERE = {"METHOD_NOT_ALLOWED"}
LEFT = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(config.load({}))


@pytest.fixture(scope="module")
def described(app: Flask) -> Described:
    answer = app.test_client().get("/api/v1/openapi.json")
    assert answer.status_code == 200
    assert answer.json is not None
    return Described(answer.json)


def test_the_document_is_valid_openapi_3_1(described: Described) -> None:
    # Half a second, which each process would pay that only looks for tests.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    assert described.document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(described.document).validate()


def test_every_route_is_described_and_nothing_else_is(app: Flask, described: Described) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if not rule.endpoint.startswith(PAGES)
        for method in (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in described.operations()} == routes


def test_every_operation_has_a_name_of_its_own_and_a_known_tag(described: Described) -> None:
    operations = [operation for _, _, operation in described.operations()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in described.document["tags"]}
    assert {tag for operation in operations for tag in operation["tags"]} == tags


def test_every_operation_answers_well_and_may_have_a_fault(described: Described) -> None:
    for path, _, operation in described.operations():
        statuses = set(operation["responses"])
        assert {status for status in statuses if status < "400"}, path
        assert "500" in statuses, path


def test_every_operation_but_the_open_ones_may_be_limited_and_says_what_is_left(
    app: Flask, described: Described
) -> None:
    is_open = {
        re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule): rule.endpoint.startswith("health.")
        for rule in app.url_map.iter_rules()
    }
    for path, _, operation in described.operations():
        assert ("429" in operation["responses"]) is not is_open[path], path
        for status, answer in operation["responses"].items():
            tells = answer.get("headers", {}).keys() >= LEFT
            assert tells is not (is_open[path] or status == "101"), (path, status)


def test_every_answer_with_a_body_has_a_schema_and_an_example(described: Described) -> None:
    for path, _, operation in described.operations():
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                assert media["schema"], (path, status)
                assert media["examples"] or path.endswith("openapi.json"), (path, status)


def examples(described: Described) -> Iterator[tuple[str, Json, Any]]:
    """Every example there is, with its place and its schema."""
    for path, method, operation in described.operations():
        bodies = [("body", operation.get("requestBody", {})), *operation["responses"].items()]
        for place, body in bodies:
            for media in body.get("content", {}).values():
                for name, example in media["examples"].items():
                    yield f"{method} {path} {place} {name}", media["schema"], example["value"]
    components = described.document["components"]
    for name, parameter in components["parameters"].items():
        for example in parameter["schema"].get("examples", ()):
            yield name, parameter["schema"], example
    for name, schema in components["schemas"].items():
        for example in schema.get("examples", ()):
            yield name, schema, example


def test_every_example_is_as_its_schema_says(described: Described) -> None:
    found = list(examples(described))
    assert len(found) > 100
    wrong = {place: faults for place, *of in found if (faults := described.faults(*of))}
    assert not wrong


def test_every_example_of_a_body_can_be_submitted(described: Described) -> None:
    _, _, submit = described.operation("submit")
    reader = SubmitReader(["default"], 60, 60)
    for example in submit["requestBody"]["content"]["application/json"]["examples"].values():
        assert reader.read(example["value"]).prompt


GOOD: tuple[tuple[str, Any], ...] = (
    *(("prompt", value) for value in ("x", " x ", "\u00e9", "\n.")),
    *(("session_id", value) for value in ("a", "A.b_c:d-9", "x" * 128, None)),
    *(("metadata", value) for value in ({}, None, {"a": "x" * 1024}, {"k" * 128: 1.5, "b": None})),
    *(("metadata", {"priority": value}) for value in ("low", None)),
    ("metadata", {f"k{number}": True for number in range(50)}),
    *(("priority", value) for value in ("high", "normal", "low", None)),
    *(("stream", value) for value in (True, False, None)),
    *(("model", value) for value in ("echo", None)),
    *(("system", value) for value in ("", "Be short.", None)),
    *(("max_tokens", value) for value in (1, 10_000_000, None)),
    *(("temperature", value) for value in (0, 2, 0.5, None)),
    *(("top_p", value) for value in (0.001, 1, None)),
    *(("stop", value) for value in ("x", [], ["x"], ["x"] * 4, "x" * 256, None)),
    *(("seed", value) for value in (0, -(2**63), 2**63 - 1, None)),
    *(("timeout_s", value) for value in (0.001, 3600, None)),
    *(("queue_timeout_s", value) for value in (1, 3600.0, None)),
    *(("on_busy", value) for value in ("enqueue", "reject", "interrupt", "parallel", None)),
)
BAD: tuple[tuple[str, Any], ...] = (
    *(("prompt", value) for value in ("", "  ", "\n\t", None, 1, ["x"], {"a": 1})),
    *(("session_id", value) for value in ("", "a b", "x" * 129, "\u00e9", 1, "a/b")),
    *(("metadata", value) for value in ([], "x", {"a": []}, {"a": {}}, {"a": "x" * 1025})),
    *(("metadata", value) for value in ({"k" * 129: 1}, {"a": 2**63}, {"a": -(2**63)})),
    ("metadata", {"priority": "urgent"}),
    ("metadata", {f"k{number}": True for number in range(51)}),
    *(("priority", value) for value in ("urgent", "", 1, "HIGH")),
    *(("stream", value) for value in ("true", 1, 0, "yes")),
    *(("model", value) for value in ("another", "", 1)),
    *(("system", value) for value in (1, ["x"])),
    *(("max_tokens", value) for value in (0, -1, 10_000_001, 1.5, "1", True)),
    *(("temperature", value) for value in (-0.1, 2.1, "1", True)),
    *(("top_p", value) for value in (0, 1.1, "1")),
    *(("stop", value) for value in ("", ["x"] * 5, [""], [1], "x" * 257, {"a": 1})),
    *(("seed", value) for value in (2**63, -(2**63) - 1, 0.5, "1")),
    *(("timeout_s", value) for value in (0, -1, 3600.1, "1", True)),
    *(("queue_timeout_s", value) for value in (0, 3601)),
    *(("on_busy", value) for value in ("wait", "", 1)),
    ("promt", "x"),
)


@pytest.mark.parametrize(("field", "value"), GOOD)
def test_the_schema_and_the_reader_take_the_same_bodies(
    described: Described, field: str, value: object
) -> None:
    body = {"prompt": "x", field: value}
    assert not described.faults({"$ref": "#/components/schemas/Submit"}, body)
    SubmitReader(["echo"], 60, 60).read(body)


@pytest.mark.parametrize(("field", "value"), BAD)
def test_the_schema_and_the_reader_refuse_the_same_bodies(
    described: Described, field: str, value: object
) -> None:
    body = {"prompt": "x", field: value}
    assert described.faults({"$ref": "#/components/schemas/Submit"}, body)
    with pytest.raises(InvalidRequest):
        SubmitReader(["echo"], 60, 60).read(body)


def test_the_schema_names_the_models_that_there_are(described: Described) -> None:
    schemas = described.document["components"]["schemas"]
    assert schemas["Submit"]["properties"]["model"]["enum"] == ["echo", None]
    assert schemas["Submit"]["additionalProperties"] is False
    assert schemas["Submit"]["required"] == ["prompt"]


def test_everything_that_is_prepared_is_used(described: Described) -> None:
    used = str(PATHS) + str(described.document["paths"])
    assert [name for name in PARAMETERS if f"/parameters/{name}'" not in used] == []
    assert [name for name in HEADERS if f"/headers/{name}'" not in used] == []
    assert [name for name in FAULTS if f"'{name}':" not in used] == []
    whole = str(described.document)
    names = [schema.__name__.removesuffix("Schema") for schema in SCHEMAS]
    assert [name for name in names if f"/schemas/{name}'" not in whole] == []


def subclasses(root: type[OrchestratorError]) -> Iterator[type[OrchestratorError]]:
    for found in root.__subclasses__():
        yield found
        yield from subclasses(found)


def test_every_code_of_an_error_is_explained() -> None:
    explained = {row.partition("`")[2].partition("`")[0] for row in CODES}
    assert {fault.code for fault in FAULTS.values()} <= explained
    assert explained <= set(STATUS)
    assert set(STATUS) - {fault.code for fault in FAULTS.values()} <= ELSEWHERE
    for row in CODES:
        code, status = row.replace("`", "").split()
        assert STATUS[code] == int(status)


def test_every_cause_of_a_failure_is_explained() -> None:
    causes = {error.code for error in subclasses(RunError)}
    # A fault of the server, and memory that is full of what runs.
    causes |= {OrchestratorError.code, PipelineUnavailable.code}
    assert {row.strip("`") for row in CAUSES} == causes


def test_what_is_said_of_faults_and_stops_is_what_is_shown() -> None:
    app = create_app(config.load({}))

    @app.get("/broken")
    def broken() -> NoReturn:
        raise ZeroDivisionError

    client = app.test_client()
    context: Context = app.extensions[EXTENSION]
    answers = {"internal": client.get("/broken")}
    context.service.drain(timeout=0)
    answers["restarting"] = client.post("/api/v1/infer", json={"prompt": "x"})
    assert client.get("/health/ready").json == answers["restarting"].json
    away = create_app(config.load({"REDIS_URL": "redis://127.0.0.1:1"})).test_client()
    answers["redis_away"] = away.get("/api/v1/requests")
    assert away.get("/health/ready").json == answers["redis_away"].json
    for name, answer in answers.items():
        assert answer.status_code == FAULTS[name].status
        assert answer.json == FAULTS[name].envelope()


def test_every_kind_of_frame_has_its_example() -> None:
    for schemas, examples in (
        (frames.CLIENT_FRAMES, samples.CLIENT_FRAMES),
        (frames.SERVER_FRAMES, samples.SERVER_FRAMES),
    ):
        for schema, sample in zip(schemas, examples, strict=True):
            name = schema.__name__.removesuffix("FrameSchema").lower()
            assert sample.get("type", "submit") == name


def test_a_client_that_has_the_document_is_told_so(app: Flask) -> None:
    client = app.test_client()
    first = client.get("/api/v1/openapi.json")
    again = client.get("/api/v1/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert not again.data
    assert again.headers["ETag"] == first.headers["ETag"]
