"""JSON web tokens: whose they are, and every way in which one is not good."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from orchestrator.auth.keys import TENANT
from orchestrator.auth.tokens import LEEWAY_S, TOKEN_MOST, OneKey, Refused, TokenReader
from orchestrator.caller import Caller, Scope

SECRET = "s" * 32
NOW = time.time()
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW + 60}
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))


def reader(**changes: Any) -> TokenReader:
    given = {
        "verifiers": OneKey(SECRET),
        "algorithm": "HS256",
        "issuer": None,
        "audience": None,
        "tenant_claim": "sub",
        "clock": lambda: NOW,
    }
    return TokenReader(**(given | changes))


def signed(
    claims: dict[str, Any] | None = None,
    key: Any = SECRET,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    return jwt.encode((claims or CLAIMS) | changes, key, algorithm, headers)


def raw(header: dict[str, Any], claims: dict[str, Any], signature: bytes | None = None) -> str:
    """A token as no library would make it; well signed unless ``signature`` says otherwise."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, claims)
    ]
    body = b".".join(parts)
    if signature is None:
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).digest()
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def repr_of(value: Any) -> str:
    return repr(value)[:10]


def test_a_token_says_who_asks() -> None:
    expected = Caller(
        "sub:alice", "alice", frozenset({Scope.INFER}), expires_at=NOW + 60 + LEEWAY_S
    )
    assert reader().caller(signed()) == expected


def test_a_subject_is_never_the_tenant_of_a_key() -> None:
    tenants = [reader().caller(signed(sub=name)).tenant for name in ("acme", "bolt")]
    assert len(set(tenants)) == 2
    assert not any(TENANT.fullmatch(tenant) for tenant in tenants)


def test_the_tenant_comes_from_the_claim_that_is_set() -> None:
    assert reader(tenant_claim="org").caller(signed(org="acme")).tenant == "acme"
    with pytest.raises(Refused, match="org"):
        reader(tenant_claim="org").caller(signed())


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("read", {Scope.READ}),
        ("openid read profile infer", {Scope.READ, Scope.INFER}),
        ("admin", {Scope.ADMIN}),
        ("", set()),
        ("openid", set()),
        ("INFER", set()),
    ],
)
def test_scopes_come_from_the_claim_scope(scope: str, scopes: set[Scope]) -> None:
    assert reader().caller(signed(scope=scope)).scopes == scopes


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA), ("ES256", CURVE)])
def test_public_keys(algorithm: str, key: Any) -> None:
    public = reader(verifiers=OneKey(key.public_key()), algorithm=algorithm)
    assert public.caller(signed(key=key, algorithm=algorithm)).name == "alice"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "RS256":
        with pytest.raises(Refused):
            public.caller(signed(key=other, algorithm=algorithm))


HEADER = {"alg": "HS256", "typ": "JWT"}
BAD: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no token": lambda: "no.token",
    "two dots": lambda: "..",
    "deep": lambda: raw(HEADER, json.loads("[" * 500 + "]" * 500)),
    "another secret": lambda: signed(key="t" * 32),
    "alg none": lambda: jwt.encode(CLAIMS, "", "none"),
    "alg None": lambda: raw({"alg": "None"}, CLAIMS, b""),
    "alg nonE, signed": lambda: raw({"alg": "nonE"}, CLAIMS),
    "no alg": lambda: raw({"typ": "JWT"}, CLAIMS),
    "another alg": lambda: signed(key="t" * 64, algorithm="HS512"),
    "the signature taken off": lambda: signed().rpartition(".")[0] + ".",
    "the signature cut": lambda: signed()[:-4],
    "claims changed": lambda: ".".join(
        [*signed().split(".")[:1], signed(sub="root").split(".")[1], signed().split(".")[2]]
    ),
    "no exp": lambda: raw(HEADER, {"sub": "alice"}),
    "past exp": lambda: signed(exp=NOW - LEEWAY_S - 1),
    "exp is text": lambda: raw(HEADER, CLAIMS | {"exp": str(int(NOW + 60))}),
    "exp is true": lambda: raw(HEADER, CLAIMS | {"exp": True}),
    "exp is null": lambda: raw(HEADER, CLAIMS | {"exp": None}),
    "exp is huge": lambda: raw(HEADER, CLAIMS | {"exp": 10**30}),
    "exp is no float any more": lambda: raw(HEADER, CLAIMS | {"exp": 10**400}),
    "exp has too many digits": lambda: raw(HEADER, CLAIMS | {"exp": 10**4290}),
    "exp is infinite": lambda: raw(HEADER, CLAIMS | {"exp": float("inf")}),
    "exp is NaN": lambda: raw(HEADER, CLAIMS | {"exp": float("nan")}),
    "exp is negative": lambda: raw(HEADER, CLAIMS | {"exp": -1}),
    "exp is a list": lambda: raw(HEADER, CLAIMS | {"exp": [NOW + 60]}),
    "future nbf": lambda: signed(nbf=NOW + LEEWAY_S + 5),
    "nbf is no float any more": lambda: raw(HEADER, CLAIMS | {"nbf": 10**400}),
    "nbf is text": lambda: raw(HEADER, CLAIMS | {"nbf": "0"}),
    "future iat": lambda: signed(iat=NOW + LEEWAY_S + 5),
    "iat is no float any more": lambda: raw(HEADER, CLAIMS | {"iat": -(10**400)}),
    "no sub": lambda: raw(HEADER, {"exp": NOW + 60}),
    "sub is empty": lambda: raw(HEADER, CLAIMS | {"sub": ""}),
    "sub is a number": lambda: raw(HEADER, CLAIMS | {"sub": 1}),
    "sub has a line break": lambda: raw(HEADER, CLAIMS | {"sub": "a\nb"}),
    "sub is long": lambda: raw(HEADER, CLAIMS | {"sub": "a" * 256}),
    "jti is a number": lambda: raw(HEADER, CLAIMS | {"jti": 1}),
    "scope is a list": lambda: signed(scope=["admin"]),
    "unknown crit": lambda: signed(headers={"crit": ["exp2"], "exp2": 1}),
    "claims are a list": lambda: raw(HEADER, [1]),  # type: ignore[arg-type]
    "too long": lambda: signed(extra="x" * TOKEN_MOST),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_refused(kind: str) -> None:
    with pytest.raises(Refused):
        reader().caller(BAD[kind]())


@pytest.mark.parametrize("claim", ["sub", "jti", "exp", "nbf", "iat", "iss", "aud", "scope", "org"])
@pytest.mark.parametrize("value", [5.5e300, 10**400, True, [["x"]], {"a": 1}], ids=repr_of)
def test_a_claim_of_another_kind_is_named(claim: str, value: Any) -> None:
    strict = reader(issuer="me", audience="us", tenant_claim="org")
    good = CLAIMS | {"iss": "me", "aud": "us", "org": "acme"}
    assert strict.caller(raw(HEADER, good)).name == "alice"
    names = {"iss": "issuer", "aud": "audience"}
    with pytest.raises(Refused, match=names.get(claim, claim)):
        strict.caller(raw(HEADER, good | {claim: value}))


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    # A token signed, as with a secret, with the public key that everyone knows.
    body = raw({"alg": "HS256"}, CLAIMS, b"").rpartition(".")[0].encode()
    signature = hmac.new(pem(RSA), body, hashlib.sha256).digest()
    forged = body.decode() + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    with pytest.raises(Refused, match="RS256"):
        reader(verifiers=OneKey(RSA.public_key()), algorithm="RS256").caller(forged)


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/chain"},
        {"jwk": {"kty": "oct", "k": base64.urlsafe_b64encode(b"t" * 32).decode()}},
        {"kid": "../../etc/passwd"},
    ],
)
def test_keys_that_a_token_brings_along_are_passed_over(header: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        reader().caller(signed(key="t" * 32, headers=header))
    assert reader().caller(signed(headers=header)).name == "alice"


def test_issuer_and_audience_are_checked_where_they_are_set() -> None:
    strict = reader(issuer="https://id.example", audience="orchestrator")
    good = {"iss": "https://id.example", "aud": ["other", "orchestrator"]}
    assert strict.caller(signed(**good)).name == "alice"
    for wrong in (
        {},
        {"iss": "https://id.example"},
        {"aud": "orchestrator"},
        good | {"iss": "https://id.example.attacker.example"},
        good | {"iss": "https://id.example/"},
        good | {"aud": "orchestrator2"},
        good | {"aud": []},
        good | {"aud": None},
    ):
        with pytest.raises(Refused):
            strict.caller(signed(**wrong))
    assert reader().caller(signed(iss="anyone", aud="anything")).name == "alice"


def test_clocks_may_differ_by_the_leeway() -> None:
    assert reader().caller(signed(exp=NOW - LEEWAY_S + 1))
    assert reader().caller(signed(nbf=NOW + LEEWAY_S - 1, iat=NOW + LEEWAY_S - 1))


def test_a_refusal_quotes_nothing_of_the_token() -> None:
    for make in BAD.values():
        token = make()
        with pytest.raises(Refused) as refused:
            reader().caller(token)
        assert not [part for part in token.split(".") if len(part) > 8 and part in str(refused)]
