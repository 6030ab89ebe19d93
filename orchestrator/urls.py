"""The addresses of other servers: which are taken, and how one is shown without its secrets."""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_USER = re.compile(r"^([^/@?]*//)?.*@", re.DOTALL)


def base_url(text: str) -> str:
    """Return ``text`` without a last slash. Raises ValueError, which says why it is no base URL.

    It may have a query, which goes with every request. Credentials in it are refused, since no
    request would carry them, and so is a fragment.
    """
    if fault := _fault(text):
        raise ValueError(fault)
    parts = urlsplit(text)
    return parts._replace(path=parts.path.rstrip("/")).geturl()


def _fault(text: str) -> str | None:
    """Return what is wrong with an address, in words that quote nothing of it."""
    if re.search(r"\s", text) or not text.isprintable():
        return "it has blanks or control characters"
    if not text.lower().startswith(("http://", "https://")):
        return "it does not begin with http:// or https://"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "what is in its brackets is no IPv6 address"
    if "@" in parts.netloc:
        return "it has credentials"
    if "#" in text:
        return "it has a fragment"
    if not port_is_valid(parts):
        return "its port is no number from 1 to 65535"
    return _fault_of_host(parts.hostname or "")


def port_is_valid(parts: SplitResult) -> bool:
    """Return whether the port of an address is left out, or a number that a port can have."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _fault_of_host(host: str) -> str | None:
    if not host:
        return "it names no host"
    try:
        host.encode("idna")
    except UnicodeError:
        return "its host has a part that is empty, too long, or can't be in a name"
    return None


def joined(url: str, path: str) -> str:
    """Return a base URL with ``path`` added to its own; its query stays behind them."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rstrip("/") + path).geturl()


def without_secrets(text: str) -> str:
    """Return an address, even a wrong one, without what may be secret: its user and its query."""
    try:
        base_url(text)
    except ValueError:
        text = _USER.sub(lambda found: f"{found[1] or ''}...@", text)
    return text.partition("?")[0]


def is_private(url: str) -> bool:
    """Return whether nobody on the way can read or change what comes: TLS, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
