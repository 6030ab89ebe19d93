"""How a setting is declared, and what it may be.

Each rule makes a value of a text, or raises ValueError. Its docstring says what is allowed: errors
and docs/settings.md quote it.
"""

import re
from collections.abc import Callable
from dataclasses import field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from orchestrator.routes_file import KINDS, RoutesFile, fits_header, read
from orchestrator.urls import base_url, is_private, port_is_valid

Parser = Callable[[str], Any]

_HOST = re.compile(r"(\.?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

_DATABASE = re.compile(r"[0-9]{1,5}")
_TLS_OPTIONS = {
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
}

CACHE_HOME = Path("~/.cache")
SECRET_LEAST = 32
"""Bytes: as many as the digest of HS256 has (RFC 7518, 3.2); in hexadecimal digits 128 bits."""


def setting(variable: str, default: Any, parse: Parser, meaning: str, secret: bool = False) -> Any:
    """Declare a setting: the variable it comes from, its rule and its meaning."""
    return field(
        default=default,
        repr=not secret,
        metadata={"variable": variable, "parse": parse, "meaning": meaning},
    )


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


def yes(text: str) -> bool:
    """yes or no"""
    if text.lower() not in ("yes", "no"):
        raise ValueError
    return text.lower() == "yes"


def text(text: str) -> str:
    """a text without control characters"""
    if not text.isprintable():
        raise ValueError
    return text


def key(text: str) -> str:
    """a key of printable ASCII characters"""
    if not fits_header(text):
        raise ValueError
    return text


def secret(text: str) -> str:
    """a secret of at least 32 characters"""
    if len(text.encode()) < SECRET_LEAST:
        raise ValueError
    return text


def one_of(*allowed: str) -> Parser:
    """Return the rule for one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    parse.__doc__ = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
    return parse


def file(text: str) -> Path:
    """the path of a file"""
    return Path(text)


def backend(text: str) -> str:
    """echo, openai, anthropic, engine, or package.module:callable"""
    named = [name for name, kind in KINDS.items() if "callable" not in kind.required]
    if text not in named and not all(text.partition(":")):
        raise ValueError
    return text


def url(text: str) -> str:
    """an address with http:// or https://, without credentials"""
    return base_url(text)


def private_url(text: str) -> str:
    """an address with https://, or with http:// on this machine"""
    url = base_url(text)
    if not is_private(url):
        raise ValueError("it leads to another machine, unencrypted")
    return url


def redis(text: str) -> str:
    """an address such as redis://:password@host:6379/0, or rediss:// for TLS"""
    parts = urlsplit(text)
    database = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError
    if re.search(r"\s", text) or parts.fragment or (database and not _DATABASE.fullmatch(database)):
        raise ValueError
    # The client would take more from there: its timeouts, say, and what an answer is made of.
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    if options and (parts.scheme == "redis" or not options.keys() <= _TLS_OPTIONS):
        raise ValueError
    if options.get("ssl_cert_reqs", "none") not in ("none", "optional", "required"):
        raise ValueError
    return urlunsplit(parts)


def folder(text: str) -> Path:
    """the absolute path of a folder; another is ignored, as its standard says"""
    path = Path(text)
    return path if path.is_absolute() or path.parts[:1] == ("~",) else CACHE_HOME


def origins(text: str) -> tuple[str, ...]:
    """exact origins separated by commas, such as https://app.example.com"""
    origins = tuple(item.strip().rstrip("/") for item in text.split(",") if item.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError
    return origins


def hosts(text: str) -> tuple[str, ...]:
    """names separated by commas: api.example.com, .example.com (all below it), [::1]:8080"""
    hosts = tuple(item.strip().lower() for item in text.split(",") if item.strip())
    for host in hosts:
        if not _HOST.fullmatch(host) or not port_is_valid(urlsplit(f"//{host}")):
            raise ValueError
    return hosts


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """addresses or networks separated by commas, such as 10.0.0.0/8"""
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


def routes(text: str) -> RoutesFile:
    """a TOML file as docs/routing.md describes it"""
    return read(text)
