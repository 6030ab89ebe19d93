"""The addresses of other servers: which are taken, and what of one may be shown."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_USER = re.compile(r"^([^/@?]*//)?.*@", re.DOTALL)


def base_url(text: str) -> str:
    """Return ``text`` without a last slash. Raises ValueError where it is no base URL.

    It may have a query, which goes with every request. Credentials in it are refused, since no
    request would carry them, and so is a fragment.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("no address with http:// or https://, or a wrong port")
    if "@" in parts.netloc or "#" in text or re.search(r"\s", text) or not text.isprintable():
        raise ValueError("credentials, a fragment or blanks")
    return parts._replace(path=parts.path.rstrip("/")).geturl()


def joined(url: str, path: str) -> str:
    """Return a base URL with ``path`` added to its own; its query stays behind them."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rstrip("/") + path).geturl()


def shown(text: str) -> str:
    """Return what of an address, even of a wrong one, holds no secret: no user and no query."""
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
