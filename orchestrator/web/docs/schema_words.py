"""JSON Schema in words: what type a value has, and which rules it must keep."""

from collections.abc import Iterator

from markupsafe import Markup, escape

from orchestrator.strict_json import Json
from orchestrator.web.docs import markup

_FORMATS = {"uuid": "UUID", "date-time": "time"}


def type_of(schema: Json) -> Markup:
    """Return the type in words, with links to the schemas that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return Markup(" or ").join(_unique(type_of(one) for one in schema[several]))
    types = schema.get("type", "any value")
    names = [types] if isinstance(types, str) else types
    return Markup(" or ").join(_named(name, schema) for name in names)


def rules_of(schema: Json) -> Markup:
    """Return the rules in words, parted by semicolons."""
    return Markup("; ").join(markup.inline(rule) for rule in _rules(schema))


def _named(name: str, schema: Json) -> Markup:
    if name == "array":
        return Markup("list of {}").format(type_of(schema.get("items", {})))
    if name == "string":
        return escape(_FORMATS.get(schema.get("format", ""), name))
    return escape(name)


def _unique(found: Iterator[Markup]) -> list[Markup]:
    return list(dict.fromkeys(found))


def _rules(schema: Json) -> Iterator[str]:
    if "enum" in schema:
        yield " ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    yield from _length(schema)
    yield from _range(schema)
    if "pattern" in schema:
        yield f"matches `{schema['pattern']}`"
    if "maxItems" in schema:
        yield f"at most {_number(schema['maxItems'])} items"
    if "maxProperties" in schema:
        yield f"at most {_number(schema['maxProperties'])} entries"
    for name, part in (("keys", "propertyNames"), ("values", "additionalProperties")):
        inner = schema.get(part)
        if inner:
            yield f"{name}: {', '.join((_plain_type(inner), *_rules(inner))).strip(', ')}"
    for one in schema.get("anyOf", ()):
        yield from (f"{_plain_type(one)}: {rule}" for rule in _rules(one))
    if "default" in schema:
        yield f"default `{markup.compact(schema['default'])}`"


def _plain_type(schema: Json) -> str:
    return type_of(schema).striptags() if "type" in schema else ""


def _length(schema: Json) -> Iterator[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if low and high:
        yield f"{low} to {_number(high)} characters"
    elif high:
        yield f"at most {_number(high)} characters"


def _range(schema: Json) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}"
    elif low is not None:
        yield f"at least {_number(low)}"
    if "exclusiveMinimum" in schema:
        yield f"more than {_number(schema['exclusiveMinimum'])}"
        if high is not None:
            yield f"at most {_number(high)}"
    if "exclusiveMaximum" in schema:
        yield f"less than {_number(schema['exclusiveMaximum'])}"


def _number(value: float) -> str:
    if abs(value) >= 10**15:
        return f"{value:.1e}".replace("+", "")
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
