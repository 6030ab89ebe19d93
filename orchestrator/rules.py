"""What settings may be: each function makes a value of a text, or raises ValueError.

Its docstring says what is allowed, as errors and docs/settings.md have it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.routes_file import RoutesFile, fits_header, read

Parser = Callable[[str], Any]


def integer(low: int, high: int) -> Parser:
    """Return the rule for whole numbers between two, both allowed."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a whole number from {low} to {high}"
    return parse


def seconds(low: float, high: float) -> Parser:
    """Return the rule for numbers of seconds between two, both allowed."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a number of seconds from {low:g} to {high:.10g}"
    return parse


def text(text: str) -> str:
    """a text"""
    return text


def key(text: str) -> str:
    """a key of printable ASCII characters"""
    if not fits_header(text):
        raise ValueError
    return text


def backend(text: str) -> str:
    """echo, openai, anthropic, engine, or package.module:callable"""
    if text not in ("echo", "openai", "anthropic", "engine") and not all(text.partition(":")):
        raise ValueError
    return text


def url(text: str) -> str:
    """an address with http:// or https://"""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    return text.rstrip("/")


def redis(text: str) -> str:
    """an address such as redis://:password@host:6379/0, or rediss:// for TLS"""
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError
    if parts.path.strip("/"):
        int(parts.path.strip("/"))
    return text


def folder(text: str) -> Path:
    """the absolute path of a folder"""
    path = Path(text)
    if not path.is_absolute() and path.parts[:1] != ("~",):
        raise ValueError
    return path


def origins(text: str) -> tuple[str, ...]:
    """exact origins separated by commas, such as https://app.example.com"""
    origins = tuple(item.strip().rstrip("/") for item in text.split(",") if item.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError
    return origins


def routes(text: str) -> RoutesFile:
    """a TOML file as docs/routing.md describes it"""
    return read(text)
