"""The OpenAPI document: made of the marshmallow schemas, once, and served as it is."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Response, request
from marshmallow import Schema, fields, validate

from orchestrator import __version__, answers
from orchestrator.frames import CLIENT_FRAMES, SERVER_FRAMES
from orchestrator.schemas import SubmitSchema
from orchestrator.strict_json import Json
from orchestrator.web import dates
from orchestrator.web.context import context
from orchestrator.web.json_io import json_response
from orchestrator.web.openapi import requests, samples, service, watch
from orchestrator.web.openapi.guide import DESCRIPTION, TAGS
from orchestrator.web.openapi.parameters import HEADERS, PARAMETERS
from orchestrator.web.openapi.parts import about

bp = Blueprint("openapi", __name__)
dates.register(bp)

OPENAPI = "3.1.0"
SECURITY: dict[str, Json] = {
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key that `orchestrator keys create` printed.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A JSON web token, or a key.",
    },
}

PATHS = requests.SUBMIT_PATHS | watch.PATHS | requests.LIST_PATHS | service.PATHS

# Each after those that it has in it.
SCHEMAS: tuple[type[Schema], ...] = (
    SubmitSchema,
    answers.RequestSchema,
    answers.UsageSchema,
    answers.MetricsSchema,
    answers.StatusSchema,
    answers.RequestListSchema,
    answers.StreamTokenSchema,
    answers.StartDataSchema,
    answers.TokenDataSchema,
    answers.RestartDataSchema,
    answers.DetailsSchema,
    answers.RunFaultSchema,
    answers.CompleteDataSchema,
    answers.StartEventSchema,
    answers.TokenEventSchema,
    answers.RestartEventSchema,
    answers.CompleteEventSchema,
    answers.EventPageSchema,
    answers.SessionSchema,
    answers.SessionListSchema,
    answers.MessageSchema,
    answers.ConversationSchema,
    answers.ModelSchema,
    answers.ModelListSchema,
    answers.HealthSchema,
    answers.LiveSchema,
    answers.ReadySchema,
    answers.FaultSchema,
    answers.ErrorSchema,
    *CLIENT_FRAMES,
    *SERVER_FRAMES,
)


@bp.get("/openapi.json")
def openapi() -> Response:
    """Answer with the document, or with 304 for a client that has it."""
    response = json_response(document())
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


def document() -> Json:
    """Return the document of the app that answers now."""
    return _document(models())


def models() -> tuple[str, ...]:
    """Return the names of the models that the document lists: all that it depends on."""
    return tuple(model.id for model in context().service.models)


@lru_cache(maxsize=1)
def _document(names: Sequence[str]) -> Json:
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="LLM orchestrator",
        version=__version__,
        openapi_version=OPENAPI,
        plugins=[plugin],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/", "description": "This server."}],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    converter: Any = plugin.converter
    converter.add_attribute_function(_either)
    converter.add_attribute_function(_open_range)
    converter.add_attribute_function(_key_rule)
    _add_components(spec)
    for name, scheme in SECURITY.items():
        spec.components.security_scheme(name, copy.deepcopy(scheme))
    for path, operations in copy.deepcopy(PATHS).items():
        spec.path(path, operations=operations)
    found: Json = orjson.loads(orjson.dumps({"openapi": OPENAPI} | spec.to_dict()))
    known = found["components"]["schemas"]
    for name in ("Submit", "SubmitFrame"):
        known[name]["properties"]["model"]["enum"] = [*names, None]
    return found


def _add_components(spec: APISpec) -> None:
    for schema in SCHEMAS:
        spec.components.schema(_name(schema), {"description": about(schema)}, schema=schema)
    to_server = _frame("A message to the server.", CLIENT_FRAMES, samples.CLIENT_FRAMES)
    to_client = _frame("A message from the server.", SERVER_FRAMES, samples.SERVER_FRAMES)
    spec.components.schema("ClientFrame", to_server)
    spec.components.schema("ServerFrame", to_client)
    for name, parameter in PARAMETERS.items():
        spec.components.parameter(name, parameter["in"], copy.deepcopy(parameter))
    for name, header in HEADERS.items():
        spec.components.header(name, copy.deepcopy(header))


def _frame(description: str, schemas: Sequence[type[Schema]], examples: Sequence[Json]) -> Json:
    return {
        "description": description,
        "oneOf": [{"$ref": f"#/components/schemas/{_name(schema)}"} for schema in schemas],
        "examples": list(examples),
    }


def _name(schema: type[Schema]) -> str:
    return schema.__name__.removesuffix("Schema")


def _either(self: Any, field: fields.Field[Any], ret: Json) -> Json:
    """Tell what apispec can't know: that an object has one of several schemas."""
    if not isinstance(field, answers.Either):
        return {}
    mapping = {
        value: self.resolve_nested_schema(schema)["$ref"] for value, schema in field.schemas.items()
    }
    return {
        "oneOf": [{"$ref": ref} for ref in mapping.values()],
        "discriminator": {"propertyName": field.by, "mapping": mapping},
    }


def _open_range(self: Any, field: fields.Field[Any], ret: Json) -> Json:
    """Mend a bound that may not be reached: apispec writes each as one that may."""
    for check in field.validators:
        if isinstance(check, validate.Range) and not check.min_inclusive:
            return {"exclusiveMinimum": ret.pop("minimum")}
    return {}


def _key_rule(self: Any, field: fields.Field[Any], ret: Json) -> Json:
    """Add a keyword that OpenAPI 3.0 didn't have, and apispec therefore drops."""
    rule = field.metadata.get("propertyNames")
    return {"propertyNames": rule} if rule else {}
