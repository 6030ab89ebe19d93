"""Text for pages: the little Markdown that the API's descriptions use, and JSON in colours."""

import json
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

_INLINE = re.compile(r"`([^`]+)`")
_JSON = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*")(?=\s*:)|(?P<text>"(?:[^"\\]|\\.)*")'
    r"|(?P<word>-?\d[\d.eE+-]*|true|false|null)|(?P<rest>[^\"\d\w-]+|.)",
    re.DOTALL,
)


def inline(text: str) -> Markup:
    """Return a line of Markdown as HTML: code is marked, all else is text."""
    parts = _INLINE.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def slug(text: str) -> str:
    """Return what a heading can be linked by."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def blocks(text: str) -> Markup:
    """Return Markdown as HTML: paragraphs, and tables of two columns."""
    return Markup("\n").join(_block(block) for block in text.split("\n\n"))


def json_text(value: object) -> Markup:
    """Return a JSON value as indented text with its parts marked, for a `pre`."""
    return Markup().join(_marked(found) for found in _JSON.finditer(indented(value)))


def json_lines(values: Sequence[object]) -> Markup:
    """Return JSON values, each on a line of its own, with their parts marked, for a `pre`."""
    lines = (compact(value) for value in values)
    return Markup("\n").join(
        Markup().join(_marked(found) for found in _JSON.finditer(line)) for line in lines
    )


def compact(value: object) -> str:
    """Return a JSON value on one line."""
    return json.dumps(value, ensure_ascii=False)


def indented(value: object) -> str:
    """Return a JSON value with each of its parts on a line of its own."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def _marked(found: re.Match[str]) -> Markup:
    if found.lastgroup in (None, "rest"):
        return escape(found.group())
    return Markup('<span class="json-{}">{}</span>').format(found.lastgroup, found.group())


def _block(text: str) -> Markup:
    if not text.startswith("|"):
        return Markup("<p>{}</p>").format(inline(text))
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]
    return _table(rows[0], rows[2:])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = Markup().join(Markup('<th scope="col">{}</th>').format(inline(cell)) for cell in heads)
    body = Markup().join(
        Markup('<tr><th scope="row">{}</th><td>{}</td></tr>').format(inline(first), inline(second))
        for first, second in rows
    )
    return Markup(
        '<table><colgroup><col class="names"><col></colgroup>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
    ).format(head, body)
