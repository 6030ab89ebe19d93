"""The keys of an issuer of tokens, fetched over real HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from orchestrator.auth.key_set import (
    AGAIN_S,
    BODY_BYTES,
    FETCH_S,
    KEEP_S,
    LOOK_AT_LEAST_S,
    TRUST_S,
    KeySet,
)
from orchestrator.auth.tokens import Refused, TokenReader
from orchestrator.errors import PipelineUnavailable
from tests.fakes.asking import eventually
from tests.fakes.clock import Clock

KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in "abc"}


def public(name: str, **changes: Any) -> dict[str, Any]:
    made = jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True)
    return made | {"kid": name, "use": "sig"} | changes


@dataclass
class Issuer:
    """A server whose answer a test sets."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    answers: threading.Event = field(default_factory=threading.Event)

    def publish(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()


@contextmanager
def running() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.calls += 1
            issuer.answers.wait(20)
            self.send_response(issuer.status)
            for name, value in issuer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(issuer.body)))
            self.end_headers()
            self.wfile.write(issuer.body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}/keys"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def reader(issuer: Issuer, clock: Clock) -> TokenReader:
    keys = KeySet(issuer.url, "RS256", clock)
    return TokenReader(keys, "RS256", None, None, "sub", time.time)


def token(name: str, kid: str | None = None) -> str:
    claims = {"sub": "alice", "exp": time.time() + 60}
    return jwt.encode(claims, KEYS[name], "RS256", {"kid": kid or name})


def test_a_token_is_checked_with_the_key_that_it_names(issuer: Issuer, clock: Clock) -> None:
    issuer.publish(public("a"), public("b"))
    tokens = reader(issuer, clock)
    for _ in range(5):
        assert tokens.caller(token("a")).name == "alice"
        assert tokens.caller(token("b")).name == "alice"
    with pytest.raises(Refused, match="signature"):
        tokens.caller(token("a", kid="b"))
    assert issuer.calls == 1


def test_a_new_key_is_fetched_when_a_token_names_it_and_not_for_every_name(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.publish(public("a"))
    tokens = reader(issuer, clock)
    tokens.caller(token("a"))
    issuer.publish(public("a"), public("b"))
    for number in range(20):
        with pytest.raises(Refused, match="not known"):
            tokens.caller(token("b", kid=f"made up {number}"))
    assert issuer.calls == 1
    clock.advance(AGAIN_S)
    assert tokens.caller(token("b")).name == "alice"
    assert issuer.calls == 2


def test_a_key_that_was_withdrawn_is_forgotten(issuer: Issuer, clock: Clock) -> None:
    issuer.publish(public("a"), public("b"))
    tokens = reader(issuer, clock)
    tokens.caller(token("a"))
    issuer.publish(public("b"))
    clock.advance(KEEP_S)
    eventually(lambda: _is_unknown(tokens, "a"))
    issuer.publish(public("a"))
    # After long, not even the first comes in with it.
    clock.advance(LOOK_AT_LEAST_S)
    assert _is_unknown(tokens, "b")


def _is_unknown(tokens: TokenReader, name: str) -> bool:
    try:
        tokens.caller(token(name))
    except Refused as error:
        return "not known" in str(error)
    return False


def test_nobody_with_a_known_key_waits_for_an_issuer_that_hangs(
    issuer: Issuer, clock: Clock
) -> None:
    issuer.publish(public("a"))
    tokens = reader(issuer, clock)
    tokens.caller(token("a"))
    issuer.answers.clear()
    try:
        clock.advance(KEEP_S)
        began = time.monotonic()
        for _ in range(20):
            assert tokens.caller(token("a")).name == "alice"
        assert time.monotonic() - began < FETCH_S / 2
        eventually(lambda: issuer.calls == 2)
    finally:
        issuer.answers.set()


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"body": b"no JSON"},
        {"body": b"[]"},
        {"body": b"{}"},
        {"body": b'{"keys": {}}'},
        {"body": b'{"keys": []}'},
        {"body": b"[" * 100_000},
        {"body": b" " * (BODY_BYTES + 1)},
    ],
    ids=str,
)
def test_what_is_no_set_of_keys_leaves_those_that_were_known_for_a_day(
    issuer: Issuer, clock: Clock, answer: dict[str, Any]
) -> None:
    issuer.publish(public("a"))
    tokens = reader(issuer, clock)
    tokens.caller(token("a"))
    for name, value in answer.items():
        setattr(issuer, name, value)
    clock.advance(KEEP_S)
    assert tokens.caller(token("a")).name == "alice"
    eventually(lambda: issuer.calls == 2)
    assert tokens.caller(token("a")).name == "alice"
    clock.advance(TRUST_S)
    with pytest.raises(PipelineUnavailable):
        tokens.caller(token("a"))


def test_an_issuer_that_never_answered_is_an_outage_and_no_refusal(clock: Clock) -> None:
    with running() as gone:
        pass
    with pytest.raises(PipelineUnavailable):
        reader(gone, clock).caller(token("a"))


@pytest.mark.parametrize(
    "changes",
    [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct"}, {"kid": 1}, {"n": "!"}],
    ids=str,
)
def test_keys_for_something_else_are_passed_over(
    issuer: Issuer, clock: Clock, changes: dict[str, Any]
) -> None:
    issuer.publish(public("a", **changes), public("b"))
    tokens = reader(issuer, clock)
    assert tokens.caller(token("b")).name == "alice"
    with pytest.raises(Refused):
        tokens.caller(token("a"))


def test_keys_without_an_id_are_all_tried(issuer: Issuer, clock: Clock) -> None:
    issuer.publish(*(public(name, kid=None) for name in "ab"))
    tokens = reader(issuer, clock)
    claims = {"sub": "alice", "exp": time.time() + 60}
    for name in "ab":
        assert tokens.caller(jwt.encode(claims, KEYS[name], "RS256")).name == "alice"
    with pytest.raises(Refused, match="signature"):
        tokens.caller(jwt.encode(claims, KEYS["c"], "RS256"))


def test_a_short_key_is_passed_over(issuer: Issuer, clock: Clock) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    record = jwt.algorithms.RSAAlgorithm.to_jwk(short.public_key(), as_dict=True)
    issuer.publish(public("a"), record | {"kid": "short"})
    with pytest.raises(Refused, match="not known"):
        reader(issuer, clock).caller(token("a", kid="short"))


def test_a_private_address_is_not_called(clock: Clock) -> None:
    keys = KeySet("https://10.0.0.1/keys", "RS256", clock)
    with pytest.raises(PipelineUnavailable):
        keys.find("a")
