"""By what name limits count a caller: its own, or its address where it has none."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from orchestrator.caller import ANYONE, STRANGER, Caller
from orchestrator.rate import Rate, parse
from orchestrator.tenancy import quoted

IPV6_PREFIX = 64
"""The IPv6 network that one customer has at least: all of it counts as one address."""
ADDRESS = "address:"
"""How the account of an address begins, and no other."""
HOPS_MOST = 20
"""Addresses in X-Forwarded-For that are looked at: it is as long as its sender likes."""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class Account(NamedTuple):
    """Who is counted, and the rates of its own; None where those of the settings hold."""

    name: str
    rates: tuple[Rate, ...] | None = None


def account_of(caller: Caller, address: str) -> Account:
    """Return whom a call of ``caller`` from ``address`` is counted for.

    Keys and the subjects of tokens never share an account, whatever they are called, nor do
    subjects of two tenants.
    """
    if caller in (ANYONE, STRANGER):
        return Account(f"{ADDRESS}{block(address)}")
    whose = f"subject:{quoted(caller.tenant)}/{caller.name}"
    name = f"key:{caller.key_id}" if caller.key_id else whose
    return Account(name, parse(caller.rate) if caller.rate else None)


def block(address: str) -> str:
    """Return the address as far as it tells callers apart: of IPv6 its network."""
    found = _address(address)
    if found is None:
        return address
    if isinstance(found, IPv6Address):
        return str(ip_network((found, IPV6_PREFIX), strict=False))
    return str(found)


def client_address(peer: str, forwarded: str | None, trusted: Sequence[Network]) -> str:
    """Return where a call came from: from ``peer``, or from where trusted proxies say.

    Each proxy adds who called it at the end of ``forwarded``, X-Forwarded-For. So this is the last
    one there that is no trusted proxy itself: all before it is said by nobody who is trusted.
    """
    if not trusted or not forwarded or not _is_within(peer, trusted):
        return peer
    came_from = peer
    for hop in reversed(forwarded.rsplit(",", HOPS_MOST)[-HOPS_MOST:]):
        text = _without_port(hop.strip())
        if _address(text) is None:
            return came_from
        came_from = text
        if not _is_within(text, trusted):
            return came_from
    return came_from


def _without_port(hop: str) -> str:
    """Return an address without the port that some proxies add, as RFC 7239 writes both."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_within(text: str, networks: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
