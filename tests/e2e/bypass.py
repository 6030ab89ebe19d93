"""What is tried to come in without good credentials: headers, tokens, spellings of addresses."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from orchestrator.auth.tokens import LEEWAY_S
from tests.e2e.client import PATIENCE_S, call
from tests.fakes.upstream import Upstream
from tests.served import Served

SECRET = "a secret that tokens are signed with"
ID = "01980000-0000-7000-8000-000000000000"
ISSUER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ATTACKER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = ISSUER.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
REFUSED = (401, 403)
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
)
SPOOFS = {
    "nothing": (),
    "from this machine": tuple(
        f"{name}: {value}"
        for name, value in {
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Host": "localhost",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Prefix": "/health",
            "X-Real-IP": "127.0.0.1",
            "Forwarded": "for=127.0.0.1;host=localhost",
        }.items()
    ),
    "another address": ("X-Original-URL: /health", "X-Rewrite-URL: /health"),
    "another method": ("X-HTTP-Method-Override: OPTIONS", "X-Method-Override: OPTIONS"),
}


@dataclass(frozen=True)
class Route:
    """A method and an address; ``lines`` are headers that go with it."""

    method: str
    address: str
    lines: tuple[str, ...] = ()


@dataclass
class Line:
    """A connection to a server, opened anew when that has closed it."""

    server: Served
    sock: socket.socket | None = None

    def status(self, route: Route, *lines: str, prompt: str = "") -> int:
        """Call an address and return the status of the answer."""
        body = json.dumps({"prompt": prompt}) if route.method not in ("GET", "DELETE") else ""
        head = [
            f"{route.method} {route.address} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *route.lines,
            *lines,
        ]
        data = ("\r\n".join(head) + f"\r\n\r\n{body}").encode()
        with contextlib.suppress(ConnectionError, http.client.BadStatusLine):
            return self._ask(route.method, data)
        self.close()
        return self._ask(route.method, data)

    def _ask(self, method: str, data: bytes) -> int:
        if self.sock is None:
            self.sock = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE_S)
        self.sock.sendall(data)
        with http.client.HTTPResponse(self.sock, method=method) as response:
            response.begin()
            if response.status == 101:
                self.close()
                return 101
            response.read()
            if response.will_close:
                self.close()
            return response.status

    def close(self) -> None:
        if self.sock:
            self.sock.close()
            self.sock = None


@dataclass
class House:
    """A server, a key that opens it, and how the tokens that it takes are signed."""

    server: Served
    upstream: Upstream
    good: str
    bad_keys: dict[str, str]
    secret: Any
    algorithm: str
    line: Line = field(init=False)

    def __post_init__(self) -> None:
        self.line = Line(self.server)

    def token(self, *, key: Any = None, header: Any = None, **claims: Any) -> str:
        """A token that is good but for what is said here."""
        given = {"sub": "a", "exp": int(time.time()) + 300, "iss": "issuer", "aud": "audience"}
        given = {name: value for name, value in (given | claims).items() if value is not None}
        return jwt.encode(given, key or self.secret, self.algorithm, header)

    def tries(self, route: Route, *lines: str, prompt: str = "let me in") -> str | None:
        """Say it where an address lets somebody in, or has the model asked."""
        status = self.line.status(route, *lines, prompt=prompt)
        return None if status in REFUSED else f"{route.method} {route.address}: {status}"

    def is_untouched(self, prompt: str = "let me in") -> bool:
        """Whether no model was asked, and nothing accepted."""
        answer = call(self.server, "GET", "/requests", headers={"X-API-Key": self.good})
        return self.upstream.seen(prompt)["calls"] == 0 and answer.json()["data"] == []


def encoded(header: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """A token made by hand, for what a library would refuse to make."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    body = ".".join(part(json.dumps(one).encode()) for one in (header, claims))
    return f"{body}.{part(sign(body.encode()))}"


def forged(house: House) -> dict[str, str]:
    """Tokens that are no good, by what is wrong with them."""
    now = int(time.time())
    claims = {"sub": "a", "exp": now + 300, "iss": "issuer", "aud": "audience"}
    by_attacker = ATTACKER if house.algorithm == "RS256" else "x" * 32
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(ATTACKER.public_key(), as_dict=True)

    def hmac_by(key: bytes) -> Callable[[bytes], bytes]:
        return lambda data: hmac.new(key, data, hashlib.sha256).digest()

    return {
        "another key": house.token(key=by_attacker),
        "alg none": encoded({"alg": "none"}, claims, lambda _: b""),
        "alg NoNe": encoded({"alg": "NoNe"}, claims, lambda _: b""),
        "alg list": encoded({"alg": ["HS256", "RS256"]}, claims, hmac_by(SECRET.encode())),
        "HS256 by the public key": encoded({"alg": "HS256"}, claims, hmac_by(PEM)),
        "HS256 by it, stripped": encoded({"alg": "HS256"}, claims, hmac_by(PEM.strip())),
        "RS256 by a digest": encoded({"alg": "RS256"}, claims, hmac_by(PEM)),
        "RS256 by another": jwt.encode(claims, ATTACKER, "RS256"),
        "HS512": jwt.encode(claims, "y" * 64, "HS512"),
        "stripped signature": house.token().rpartition(".")[0] + ".",
        "two parts": house.token().rpartition(".")[0],
        "five parts": "a.b.c.d.e",
        "no exp": house.token(exp=None),
        "past exp": house.token(exp=int(now - LEEWAY_S - 60)),
        "huge exp": house.token(exp=10**30),
        "exp of 400 digits": house.token(exp=10**400),
        "nbf of 400 digits": house.token(nbf=10**400),
        "iat of 400 digits": house.token(iat=-(10**400)),
        "text exp": house.token(exp=str(now + 300)),
        "no sub": house.token(sub=None),
        "future nbf": house.token(nbf=int(now + LEEWAY_S + 60)),
        "sub of a number": house.token(sub=5),
        "jti of a number": house.token(jti=5),
        "nested aud": house.token(aud=[["audience"]]),
        "wrong issuer": house.token(iss="another"),
        "wrong audience": house.token(aud="another"),
        "unknown crit": house.token(header={"crit": ["x"], "x": 1}),
        "empty crit": house.token(header={"crit": []}),
        "its own kid": house.token(key=by_attacker, header={"kid": "/dev/null"}),
        "its own jku": house.token(key=by_attacker, header={"jku": house.upstream.url}),
        "its own jwk": house.token(key=by_attacker, header={"jwk": jwk}),
    }


def attempts(house: House) -> dict[str, tuple[str, ...]]:
    """Headers that are no good credentials, by what is wrong with them."""
    good, token = house.good, house.token()
    lines = {
        "empty key": "X-API-Key:",
        "blank key": "X-API-Key:   ",
        "unknown key": f"X-API-Key: ok_{'0' * 16}.{'A' * 43}",
        "prefix": f"X-API-Key: {good[:-1]}",
        "id alone": f"X-API-Key: {good.partition('.')[0]}",
        "not ASCII": f"X-API-Key: {good[:-1]}é",
        "long key": f"X-API-Key: {'A' * 6000}",
        "list": f"X-API-Key: {good}, {good}",
        "a token as a key": f"X-API-Key: {token} {token}",
        "Bearer alone": "Authorization: Bearer",
        "empty": "Authorization:",
        "wrong scheme": f"Authorization: Basic {good}",
        "basic": f"Authorization: Basic {base64.b64encode(f'{good}:'.encode()).decode()}",
        "no scheme": f"Authorization: {good}",
        "twice in one": f"Authorization: Bearer {good} {good}",
        "another name": f"X-Key: {good}",
        "underscore": f"X_API_Key: {good}",
        "cookie": f"Cookie: X-API-Key={good}; token={good}",
        "forwarded": f"X-Forwarded-Authorization: Bearer {good}",
        "by a proxy": f"Proxy-Authorization: Bearer {good}",
    }
    found = {name: (line,) for name, line in lines.items()} | SPOOFS
    found |= {name: (f"X-API-Key: {key}",) for name, key in house.bad_keys.items()}
    found |= {name: (f"Authorization: Bearer {text}",) for name, text in forged(house).items()}
    for name, line in {
        "key": f"X-API-Key: {good}",
        "bearer": f"Authorization: Bearer {token}",
    }.items():
        found[f"{name} twice"] = (line, line)
    found["both"] = (f"X-API-Key: {good}", f"Authorization: Bearer {good}")
    return found


def spellings(route: Route) -> Iterator[Route]:
    address = route.address
    for spelling in {
        f"{address}/",
        f"/{address}",
        f"/.{address}",
        address.replace("/v1/", "//v1/"),
        address.replace("/v1/", "/%76%31/"),
        address.replace("/v1/", "/v1/%2e/"),
        address.replace("/v1/", "/v1/x/../"),
        address.upper(),
        f"{address}%00",
        f"{address};x",
        f"{address}?_method=OPTIONS",
        f"/health/..{address}",
        f"/health/%2e%2e{address}",
        f"/docs/..{address}",
        f"http://localhost/health/..{address}",
    }:
        yield replace(route, address=spelling)
    for method in ("PUT", "PATCH", "TRACE", "PROPFIND"):
        yield replace(route, method=method)
