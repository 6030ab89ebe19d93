"""Strict JSON: what the standard library lets pass, and no client should rely on, is refused."""

import json
import re
from typing import Any

from orchestrator.errors import InvalidRequest

MAX_BODY = 1024 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 300
MAX_VALUES = 1000
"""Values of one document, as its commas and opening brackets count them: a mebibyte has room for
so many that to read them would stop everybody else for a fifth of a second."""

Json = dict[str, Any]

_MARKS = ",[{"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXAMPLE = 'Send a JSON object such as {"prompt": "Hello"}.'


class _DuplicateKey(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateKey(name)
            seen.add(name)
    return result


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer)


def parse_object(data: bytes | str) -> Json:
    """Parse a JSON object strictly.

    Refuses NaN, duplicate keys, lone surrogates, nesting past 32 levels and more than 1,000
    values, which the standard library lets pass. Raises InvalidRequest.
    """
    try:
        text = (data if isinstance(data, bytes) else data.encode()).decode()
        if not text.strip():
            raise InvalidRequest(f"The body is empty. {_EXAMPLE}")
        if _has_too_many(text):
            raise InvalidRequest(f"The body has more than {MAX_VALUES} values.")
        value = _decoder.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not UTF-8. Send JSON in UTF-8.") from None
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The body has half of a surrogate pair, which is no character. Send whole ones."
        ) from None
    except RecursionError:
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    except _DuplicateKey as error:
        raise InvalidRequest(f"The key {excerpt(error)} comes twice. Send each key once.") from None
    except ValueError as error:
        reason = "it begins with a byte order mark" if text[0] == "\ufeff" else error
        raise InvalidRequest(f"The body is not JSON: {reason}. {_EXAMPLE}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body is no JSON object. {_EXAMPLE}")
    return value


def _has_too_many(text: str) -> bool:
    """Whether a text has more values than are read, told without reading it.

    Of what is no JSON it is told as far as a reader would come.
    """
    if sum(map(text.count, _MARKS)) <= MAX_VALUES:
        return False
    # Marks inside of strings are none: without escapes every other piece between quotes is one.
    bare = text.replace(r"\\", "").replace(r"\"", "")
    # A value has two strings at most, itself and its key.
    pieces = bare.split('"', 4 * MAX_VALUES)
    if len(pieces) > 4 * MAX_VALUES:
        return True
    return sum(piece.count(mark) for piece in pieces[::2] for mark in _MARKS) > MAX_VALUES


def excerpt(text: object) -> str:
    """Return a client's own text as an error may quote it."""
    return json.dumps(str(text)[:100])


def _depth(value: Any) -> int:
    depth = 0
    level = [value]
    while level:
        depth += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = [item for item in inner if isinstance(item, (dict, list))]
    return depth
