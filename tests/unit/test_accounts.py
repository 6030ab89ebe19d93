"""Whom limits count, and where a call came from."""

from ipaddress import ip_network

import pytest

from orchestrator.caller import ANYONE, STRANGER, Caller
from orchestrator.limits.accounts import HOPS_MOST, account_of, block, client_address
from orchestrator.rate import Rate

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def test_who_has_a_name_is_counted_by_it_wherever_it_calls_from() -> None:
    key = Caller("acme", "k1", key_id="k1", rate="5/minute")
    assert account_of(key, "192.0.2.1") == account_of(key, "192.0.2.2")
    assert account_of(key, "192.0.2.1").rates == (Rate(5, 60),)


def test_who_has_none_is_counted_by_its_address() -> None:
    here, there = account_of(ANYONE, "192.0.2.1"), account_of(ANYONE, "192.0.2.2")
    assert here != there
    assert here.rates is None


def test_who_has_not_said_who_it_is_is_counted_as_who_never_will() -> None:
    assert account_of(STRANGER, "192.0.2.1") == account_of(ANYONE, "192.0.2.1")


def test_keys_subjects_and_addresses_share_no_account_whatever_they_are_called() -> None:
    name = "192.0.2.1"
    callers = [Caller("acme", name, key_id=name), Caller("acme", name), ANYONE]
    assert len({account_of(caller, name).name for caller in callers}) == 3


def test_a_subject_of_another_tenant_is_another_caller() -> None:
    callers = [
        Caller("acme", "a"),
        Caller("other", "a"),
        Caller("acme/a", "a"),
        Caller("acme", "a/a"),
    ]
    assert len({account_of(caller, "").name for caller in callers}) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff:1"),
        ("2001:db8:0:0:1::", "2001:0DB8::2"),
        ("fe80::1%eth0", "fe80::2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_of_one_customer_are_one(one: str, other: str) -> None:
    assert block(one) == block(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("", "192.0.2.1")],
)
def test_addresses_of_two_are_two(one: str, other: str) -> None:
    assert block(one) != block(other)


@pytest.mark.parametrize("forwarded", [None, "", "198.51.100.7", "10.0.0.1, 198.51.100.7"])
def test_nobody_is_believed_who_is_not_trusted(forwarded: str | None) -> None:
    assert client_address("192.0.2.1", forwarded, PROXIES) == "192.0.2.1"
    assert client_address("10.0.0.1", forwarded, []) == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (None, "10.0.0.1"),
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, 10.0.0.2, 10.0.0.3", "198.51.100.7"),
        ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("203.0.113.9,198.51.100.7 ,fd00::1", "198.51.100.7"),
        ("::ffff:198.51.100.7", "::ffff:198.51.100.7"),
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("unknown", "10.0.0.1"),
        ("198.51.100.7, nonsense, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.7,", "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_where_a_call_came_from(forwarded: str | None, address: str) -> None:
    assert client_address("10.0.0.1", forwarded, PROXIES) == address


def test_a_proxy_is_known_by_its_mapped_address_too() -> None:
    assert client_address("::ffff:10.0.0.1", "198.51.100.7", PROXIES) == "198.51.100.7"


def test_only_so_many_hops_are_looked_at() -> None:
    hops = ["198.51.100.7"] + ["10.0.0.2"] * HOPS_MOST
    assert client_address("10.0.0.1", ", ".join(hops), PROXIES) == "10.0.0.2"
