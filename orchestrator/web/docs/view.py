"""The OpenAPI document as a page shows it: operations with their curl lines, schemas as tables."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from markupsafe import Markup

from orchestrator.strict_json import Json
from orchestrator.web.docs import markup
from orchestrator.web.docs.schema_words import rules_of, type_of

EVENT_STREAM = "text/event-stream"
LINE = 48
"""How many characters of a body fit on one line beside the text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter, header or field."""

    name: str
    kind: str
    required: bool
    type: Markup
    rules: Markup
    about: Markup


@dataclass(frozen=True, slots=True)
class Example:
    """A body, and what it is an example of."""

    about: Markup
    text: Markup


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation may answer with under one status."""

    status: str
    phrase: str
    well: bool
    about: Markup
    type: Markup
    headers: list[Row]
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class Call:
    """A line to paste, and what comes of it."""

    title: str
    line: str
    status: str
    answer: Markup


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    summary: str
    about: Markup
    parameters: list[Row]
    body_about: Markup
    body: list[Row]
    bodies: list[Example]
    calls: list[Call]
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of one tag."""

    id: str
    title: str
    about: Markup
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A part of the document's own description."""

    id: str
    title: str
    about: Markup


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """One schema: its fields, or the schemas that it is one of."""

    name: str
    about: Markup
    rows: list[Row]
    choices: Markup


class View:
    """A document, for a page; ``base`` is where the server is, without a slash at the end."""

    def __init__(self, document: Json, base: str) -> None:
        self._document = document
        self._base = base

    def opening(self) -> Markup:
        """Return what comes before everything else."""
        return markup.blocks(self._chapters()[0])

    def chapters(self) -> list[Chapter]:
        """Return the parts of the description that have a heading."""
        parted = [part.split("\n\n", 1) for part in self._chapters()[1:]]
        return [Chapter(markup.slug(title), title, markup.blocks(text)) for title, text in parted]

    def groups(self) -> list[Group]:
        """Return the operations by tag, in the document's order."""
        return [
            Group(
                markup.slug(tag["name"]),
                tag["name"],
                markup.blocks(tag["description"]),
                list(self._operations(tag["name"])),
            )
            for tag in self._document["tags"]
        ]

    def schemas(self) -> list[SchemaTable]:
        """Return the schemas by name."""
        return [
            SchemaTable(
                name,
                markup.inline(schema.get("description", "")),
                self._fields(schema),
                type_of(schema) if "oneOf" in schema else Markup(),
            )
            for name, schema in sorted(self._document["components"]["schemas"].items())
        ]

    def _chapters(self) -> list[str]:
        text: str = self._document["info"]["description"]
        return text.split("\n\n## ")

    def _operations(self, tag: str) -> Iterator[Operation]:
        for path, methods in self._document["paths"].items():
            for method, operation in methods.items():
                if tag in operation["tags"]:
                    yield self._operation(path, method, operation)

    def _operation(self, path: str, method: str, operation: Json) -> Operation:
        parameters = [self._resolved(item) for item in operation.get("parameters", ())]
        body = operation.get("requestBody", {"content": {}})
        media: Json = next(iter(body["content"].values()), {})
        return Operation(
            operation["operationId"],
            "ws" if "x-websocket" in operation else method,
            path,
            operation["summary"],
            markup.blocks(operation["description"]),
            [_row(item["name"], item["in"], item) for item in parameters],
            markup.inline(body.get("description", "")),
            self._fields(self._resolved(media.get("schema", {}))),
            _examples(media),
            list(self._calls(path, method, operation, media)),
            [self._answer(status, answer) for status, answer in operation["responses"].items()],
        )

    def _answer(self, status: str, answer: Json) -> Answer:
        content = answer.get("content", {})
        headers = answer.get("headers", {})
        return Answer(
            status,
            HTTPStatus(int(status)).phrase,
            status < "400",
            markup.inline(answer["description"]),
            Markup(", ").join(_media_type(name, media) for name, media in content.items()),
            [_row(name, "header", self._resolved(item)) for name, item in headers.items()],
            [example for media in content.values() for example in _examples(media)],
        )

    def _calls(self, path: str, method: str, operation: Json, body: Json) -> Iterator[Call]:
        status = next(iter(operation["responses"]))
        forms = operation["responses"][status].get("content", {})
        for sample in operation.get("x-codeSamples", ()):
            yield Call(sample["lang"], sample["source"], status, Markup())
        if "x-websocket" in operation:
            for title, side in (("You send", "client"), ("You get", "server")):
                frames = self._resolved(operation["x-websocket"][side])["examples"]
                yield Call(title, "", "", markup.json_lines(frames))
            return
        for form in forms or (None,):
            alone = len(forms) < 2
            line = self._curl(path, method, body, form, alone)
            examples = _examples(forms[form]) if form else []
            title = "curl" if alone else f"curl, for {form}"
            yield Call(title, line, status, examples[0].text if examples else Markup())

    def _curl(self, path: str, method: str, body: Json, form: str | None, alone: bool) -> str:
        address = self._base + path.replace("{request_id}", "$ID").replace(
            "{session_id}", "trip-to-lisbon"
        )
        words = ["curl -N" if form == EVENT_STREAM else "curl"]
        if method != "get" and not (method == "post" and body):
            words[0] += f" -X {method.upper()}"
        words[0] += f" {address}"
        if form == EVENT_STREAM and not alone:
            words.append(f"-H 'Accept: {EVENT_STREAM}'")
        if body:
            value = next(iter(body["examples"].values()))["value"]
            words += ["-H 'Content-Type: application/json'", f"-d {_quoted(value)}"]
        return " \\\n  ".join(words)

    def _fields(self, schema: Json) -> list[Row]:
        required = schema.get("required", ())
        return [
            _row(name, "", field | {"schema": field, "required": name in required})
            for name, field in schema.get("properties", {}).items()
        ]

    def _resolved(self, node: Json) -> Json:
        while "$ref" in node:
            found: Any = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node


def _row(name: str, kind: str, item: Json) -> Row:
    schema = item["schema"]
    return Row(
        name,
        kind,
        item.get("required") is True,
        type_of(schema),
        rules_of(schema),
        markup.inline(item.get("description", "")),
    )


def _examples(media: Json) -> list[Example]:
    return [
        Example(markup.inline(example["summary"]), _text(example["value"]))
        for example in media.get("examples", {}).values()
    ]


def _text(value: object) -> Markup:
    return Markup.escape(value.strip()) if isinstance(value, str) else markup.json_text(value)


def _media_type(name: str, media: Json) -> Markup:
    if name == EVENT_STREAM:
        return markup.inline(f"`{EVENT_STREAM}`")
    return type_of(media["schema"])


def _quoted(value: object) -> str:
    line = shlex.quote(markup.compact(value))
    if len(line) <= LINE:
        return line
    return shlex.quote(markup.indented(value).replace("\n", "\n  "))
