"""Which addresses belong to the public internet, and which ones a name resolves to."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Address = IPv4Address | IPv6Address
Rule = Callable[[Address], bool]

_GLOBAL_UNICAST = IPv6Network("2000::/3")
# What Python counts as global in one of its versions, and leads elsewhere all the same: relays
# and protocols that carry an IPv4 address inside, which may be private.
_DETOURS_4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
_DETOURS_6 = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16"))
)


def is_public(address: Address) -> bool:
    """Return whether ``address`` is a public host, and embeds no other address (as 6to4 does)."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DETOURS_4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _DETOURS_6)


def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of ``host``, in the system's order. Raises OSError."""
    return _addresses(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


def literal(host: str) -> Address | None:
    """Return the address that ``host`` is, however it is written (0x7f.1); None for a name."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None
    return _addresses(found)[0]


def _addresses(found: Sequence[tuple[Any, ...]]) -> Sequence[Address]:
    # A zone (fe80::1%eth0) is of a link, and so of no public address.
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return [ip_address(text) for text in texts]
