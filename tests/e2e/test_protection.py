"""What protects every answer, whoever gives it; TLS; and by which names the service goes."""

import re
import socket
import ssl
from collections.abc import Iterator

import pytest
import requests
import websocket

from tests.certificates import self_signed
from tests.e2e.client import call, connected, post
from tests.served import Served, serve

NAME = "api.example.com"
PATHS = [
    "/",
    "/docs",
    "/static/app.js",
    "/static/missing.js",
    "/health",
    "/health/ready",
    "/api/v1/models",
    "/api/v1/openapi.json",
    "/api/v1/status/nope",
    "/api/v1/infer",
    "/api/v1/ws",
    "/nowhere",
    "//",
    "/%00",
]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    certificate, key = map(str, self_signed(tmp_path_factory.mktemp("tls")))
    with serve(ORCHESTRATOR_TLS_CERT=certificate, ORCHESTRATOR_TLS_KEY=key) as served:
        yield served


@pytest.fixture(scope="module")
def named() -> Iterator[Served]:
    """A server that goes by a name of its own."""
    with serve(ORCHESTRATOR_TRUSTED_HOSTS=f"{NAME}, localhost:1") as served:
        yield served


def answers(server: Served) -> Iterator[requests.Response]:
    """Every kind of answer that there is."""
    trusted = server.certificate or True
    for path in PATHS:
        yield requests.get(f"{server.url}{path}", timeout=10, verify=trusted)
    for method in ("OPTIONS", "HEAD", "PUT"):
        yield requests.request(method, f"{server.url}/api/v1/infer", timeout=10, verify=trusted)
    submitted = requests.post(
        f"{server.api}/infer", json={"prompt": "x"}, timeout=10, verify=trusted
    )
    yield submitted
    yield requests.post(f"{server.api}/infer", json={}, timeout=10, verify=trusted)
    request_id = submitted.json()["request_id"]
    yield requests.get(f"{server.api}/result/{request_id}?wait=10", timeout=20, verify=trusted)
    yield requests.get(f"{server.api}/stream/{request_id}", timeout=20, verify=trusted)
    yield requests.delete(f"{server.api}/requests/{request_id}", timeout=20, verify=trusted)
    # What gunicorn's worker refuses itself.
    yield requests.get(f"{server.url}/", headers={"X": "x" * 70_000}, timeout=10, verify=trusted)


def test_every_answer_is_protected(server: Served) -> None:
    seen = set()
    for answer in answers(server):
        seen.add(answer.status_code)
        headers, where = answer.headers, f"{answer.status_code} {answer.url}"
        assert headers["X-Content-Type-Options"] == "nosniff", where
        assert headers["Referrer-Policy"] == "no-referrer", where
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", where
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';"), where
        assert "frame-ancestors 'none'" in policy, where
        assert "unsafe" not in policy, where
        assert headers["Cache-Control"] in ("no-store", "no-cache", "no-cache, no-transform")
        assert headers["Server"] == "web-api", where
        for name in ("X-Content-Type-Options", "Content-Security-Policy", "Cache-Control"):
            assert len(answer.raw.headers.getlist(name)) == 1, f"{name}: {where}"
        assert "Set-Cookie" not in headers
        assert "Strict-Transport-Security" not in headers, "it isn't served by TLS"
    assert {200, 204, 400, 404, 405, 426, 431} <= seen


def test_what_a_caller_has_asked_for_is_kept_by_no_cache(server: Served) -> None:
    request_id = post(server, "/infer", {"prompt": "x"}).json()["request_id"]
    for path in (f"/status/{request_id}", f"/result/{request_id}", "/requests", "/status/nope"):
        assert call(server, "GET", path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_has_no_powers_and_shares_no_window(server: Served, path: str) -> None:
    headers = requests.get(f"{server.url}{path}", timeout=10).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == "no-cache"


def test_no_answer_names_the_server_s_programs(server: Served) -> None:
    for answer in answers(server):
        assert not re.search(
            r"gunicorn|gevent|werkzeug|python/", str(answer.headers), re.IGNORECASE
        )


def test_with_tls_browsers_are_told_to_stay_with_it(secure: Served) -> None:
    for answer in answers(secure):
        if answer.request.headers.get("X") is None:
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def hello(version: bytes, *ciphers: bytes) -> bytes:
    """A ClientHello that speaks ``version`` and nothing newer."""
    # The curve P-256, its points uncompressed, signed with ECDSA and SHA-256.
    extensions = bytes.fromhex("000a000400020017000b00020100000d000400020403")
    offered = b"".join(ciphers)
    body = version + bytes(32) + b"\0" + len(offered).to_bytes(2, "big") + offered + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def answered(server: Served, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        return client.recv(7)


@pytest.mark.parametrize("version", [b"\3\0", b"\3\1", b"\3\2"], ids=["SSL 3", "1.0", "1.1"])
def test_tls_older_than_1_2_is_refused(secure: Served, version: bytes) -> None:
    reply = answered(secure, hello(version, b"\xc0\x09", b"\xc0\x13", b"\0\x2f"))
    # A fatal alert: protocol_version, or for SSL 3 whatever the library says.
    assert reply[:1] == b"\x15" and reply[5] == 2
    assert version == b"\3\0" or reply[6] == 70


def test_tls_1_2_and_1_3_are_spoken(secure: Served) -> None:
    assert answered(secure, hello(b"\3\3", b"\xc0\x2b"))[:1] == b"\x16"
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=secure.certificate)
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
        ):
            assert client.version() == version.name.replace("_", ".")


def test_a_page_that_came_without_tls_opens_no_socket_with_it(secure: Served) -> None:
    url = secure.ws.replace("ws:", "wss:")
    trusted = {"ca_certs": secure.certificate}
    with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
        websocket.create_connection(
            url, origin=f"http://127.0.0.1:{secure.port}", sslopt=trusted, timeout=10
        )
    assert refusal.value.status_code == 403
    websocket.create_connection(url, origin=secure.url, sslopt=trusted, timeout=10).close()


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/api/v1/models", "/nowhere"])
@pytest.mark.parametrize("host", ["evil.example", f"{NAME}.evil.example", "127.0.0.1", ""])
def test_a_host_that_is_not_named_is_refused(named: Served, path: str, host: str) -> None:
    answer = requests.get(f"{named.url}{path}", headers={"Host": host}, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "INVALID_REQUEST"
    assert "ORCHESTRATOR_TRUSTED_HOSTS" in answer.json()["error"]["message"]


def test_a_host_that_is_named_is_served(named: Served) -> None:
    for host in (NAME, f"{NAME}:8443", NAME.upper(), "localhost:1"):
        answer = requests.get(f"{named.api}/models", headers={"Host": host}, timeout=10)
        assert answer.status_code == 200


def test_a_submit_under_another_name_does_nothing(named: Served) -> None:
    headers = {"Host": "evil.example"}
    answer = requests.post(f"{named.api}/infer", json={"prompt": "x"}, headers=headers, timeout=10)
    assert answer.status_code == 400
    listed = requests.get(f"{named.api}/requests", headers={"Host": NAME}, timeout=10)
    assert listed.json()["data"] == []


def test_no_header_but_host_names_the_host(named: Served) -> None:
    for header in ("X-Forwarded-Host", "X-Host", "Forwarded"):
        headers = {"Host": "evil.example", header: NAME}
        assert requests.get(f"{named.api}/models", headers=headers, timeout=10).status_code == 400


@pytest.mark.parametrize("lines", [f"Host: {NAME}\r\nHost: evil.example\r\n", ""])
@pytest.mark.parametrize("target", ["/api/v1/models", f"http://{NAME}/api/v1/models"])
def test_two_hosts_and_none_are_refused(named: Served, lines: str, target: str) -> None:
    with socket.create_connection(("127.0.0.1", named.port), timeout=10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/api/v1/health"])
def test_probes_ask_by_address(named: Served, path: str) -> None:
    assert requests.get(f"{named.url}{path}", timeout=10).status_code == 200


def test_a_socket_is_opened_by_name_alone(named: Served) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
        websocket.create_connection(named.ws, host="evil.example", timeout=10)
    assert refusal.value.status_code == 400
    with connected(named, host=NAME, origin=f"http://{NAME}") as client:
        assert client.lives()
