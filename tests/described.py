"""The OpenAPI document as a judge: whether a value or an answer is as the document says."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
from jsonschema import Draft202012Validator

from orchestrator.headers import DATA, NO_STORE
from orchestrator.web.openapi.samples import REQUEST_ID, SESSION_ID

Json = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "patch", "options", "head", "trace")
# What each answer has, whatever it says.
COMMON_HEADERS = {
    *("allow", "connection", "content-length", "content-type", "date", "server"),
    "transfer-encoding",
    # What protects every answer: see orchestrator/headers.py.
    *(name.lower() for name, _ in (*DATA, NO_STORE)),
}
IDS_AND_NUMBERS = rf"{REQUEST_ID}|{SESSION_ID}|-?\d+"


@dataclass(frozen=True)
class Described:
    """An OpenAPI document."""

    document: Json

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        """Yield each operation with its path and method."""
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method, item[method]

    def operation(self, name: str) -> tuple[str, str, Json]:
        """Return one by its operationId, with its path and method."""
        return next(found for found in self.operations() if found[2]["operationId"] == name)

    def resolved(self, node: Json) -> Json:
        """Follow a reference, where it is one."""
        while "$ref" in node:
            found: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def faults(self, schema: Json, value: object) -> list[str]:
        """What is wrong with a value; a field that the schema doesn't name is wrong, too."""
        whole = {**schema, "components": self.document["components"]}
        checker = Draft202012Validator.FORMAT_CHECKER
        validator = Draft202012Validator(closed(whole), format_checker=checker)
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def check(self, name: str, answer: requests.Response) -> None:
        """Hold that an operation's answer is one of those it is described with."""
        responses = self.operation(name)[2]["responses"]
        assert str(answer.status_code) in responses, f"{name}: {answer.status_code} {answer.text}"
        described = responses[str(answer.status_code)]
        headers = {header.lower() for header in answer.headers} - COMMON_HEADERS
        assert headers <= {header.lower() for header in described.get("headers", {})}, headers
        if "content" not in described:
            assert not answer.content
            return
        form = answer.headers["Content-Type"].partition(";")[0]
        assert form in described["content"], form
        media = described["content"][form]
        value = answer.text if form.startswith("text/") else answer.json()
        assert not self.faults(media["schema"], value), value
        if not answer.ok:
            shown = [example["value"]["error"] for example in media["examples"].values()]
            assert any(is_like(one, value["error"]) for one in shown), (name, value)


def is_like(shown: Json, real: Json) -> bool:
    """Whether a real error is one that is shown, but for its ids and numbers."""
    rest = re.split(IDS_AND_NUMBERS, shown["message"])
    message = r"[\w.:-]+".join(map(re.escape, rest))
    return shown["code"] == real["code"] and re.fullmatch(message, real["message"]) is not None


def closed(node: Any) -> Any:
    """Return a schema that refuses fields it doesn't name, so that none goes undescribed."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: closed(inner) for name, inner in node.items()}
    if isinstance(node.get("properties"), dict):
        node.setdefault("additionalProperties", False)
    return node
