"""Pages of other origins: who may read answers, and who may open a WebSocket."""

from collections.abc import Iterator

import pytest
import requests
import websocket

from tests.e2e.client import call, connected, post
from tests.served import Served, serve

FRIEND = "https://app.example.com"
OTHER_FRIEND = "http://localhost:3000"
STRANGER = "https://evil.example"
LOOKALIKES = [
    "http://app.example.com",
    "https://app.example.com:444",
    "https://app.example.com.evil.example",
    "https://app.example.co",
    "https://evilapp.example.com",
    "https://app.example.com@evil.example",
    "https://app.example.com/",
    "https://app.example.com:443",
    "https://app.example.com.",
    "https://app.example.com, https://evil.example",
    "https://evil.example https://app.example.com",
    "https://appxexample.com",
    "HTTPS://app.example.com",
    "//app.example.com",
    "app.example.com",
    "http://localhost",
    "http://localhost:30000",
    "file://",
    "https://sub.app.example.com",
    "https://APP.example.com",
    "null",
    "*",
]


@pytest.fixture(scope="module")
def friendly() -> Iterator[Served]:
    """A server that lets the pages of two origins in."""
    with serve(ORCHESTRATOR_CORS_ORIGINS=f"{FRIEND}, {OTHER_FRIEND}") as served:
        yield served


def allowed(answer: requests.Response) -> str | None:
    return answer.headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize("origin", [FRIEND, OTHER_FRIEND])
def test_a_named_origin_may_read_every_answer(friendly: Served, origin: str) -> None:
    headers = {"Origin": origin}
    answers = [
        post(friendly, "/infer", {"prompt": "x"}, headers=headers),
        post(friendly, "/infer", {"prompt": ""}, headers=headers),
        call(friendly, "GET", "/status/nope", headers=headers),
        call(friendly, "PUT", "/infer", headers=headers),
        call(friendly, "GET", "/nowhere", headers=headers),
        requests.get(f"{friendly.url}/health", headers=headers, timeout=10),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 405, 404, 200]
    for answer in answers:
        assert allowed(answer) == origin
        assert "Origin" in answer.headers["Vary"]
        exposed = answer.headers["Access-Control-Expose-Headers"]
        for name in ("Location", "Retry-After", "Preference-Applied", "Idempotent-Replayed"):
            assert name in exposed
        assert "X-Cache" in exposed


def test_a_named_origin_may_read_a_stream(friendly: Served) -> None:
    request_id = post(friendly, "/infer", {"prompt": "x"}).json()["request_id"]
    answer = call(friendly, "GET", f"/stream/{request_id}", headers={"Origin": FRIEND})
    assert allowed(answer) == FRIEND


@pytest.mark.parametrize("origin", [STRANGER, *LOOKALIKES])
def test_no_other_origin_may_read_anything(friendly: Served, origin: str) -> None:
    answer = call(friendly, "GET", "/models", headers={"Origin": origin})
    assert answer.status_code == 200
    assert allowed(answer) is None
    assert "Origin" in answer.headers["Vary"], "or a cache would hand it to the wrong page"


def preflight(server: Served, path: str, method: str, origin: str) -> requests.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type, x-api-key",
    }
    return call(server, "OPTIONS", path, headers=headers)


@pytest.mark.parametrize(
    ("path", "method"),
    [("/infer", "POST"), ("/requests/x", "DELETE"), ("/cancel/x", "POST"), ("/stream/x", "GET")],
)
def test_a_preflight_is_answered_for_named_origins_only(
    friendly: Served, path: str, method: str
) -> None:
    answer = preflight(friendly, path, method, FRIEND)
    assert answer.ok
    assert allowed(answer) == FRIEND
    assert method in answer.headers["Access-Control-Allow-Methods"].split(", ")
    taken = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"content-type", "idempotency-key", "prefer", "last-event-id"} <= set(taken)
    assert {"cache-control", "authorization", "x-api-key"} <= set(taken)
    assert "Access-Control-Allow-Credentials" not in answer.headers, "there are no cookies to send"
    assert allowed(preflight(friendly, path, method, STRANGER)) is None


def test_without_the_setting_no_other_origin_may_read_anything(server: Served) -> None:
    for origin in (FRIEND, STRANGER):
        assert allowed(preflight(server, "/infer", "POST", origin)) is None
        assert allowed(call(server, "GET", "/models", headers={"Origin": origin})) is None


@pytest.mark.parametrize("origin", [FRIEND, OTHER_FRIEND])
def test_a_named_origin_may_open_a_websocket(friendly: Served, origin: str) -> None:
    with connected(friendly, origin=origin) as socket:
        assert socket.lives()


@pytest.mark.parametrize("origin", [STRANGER, *LOOKALIKES])
def test_no_other_origin_may_open_a_websocket(friendly: Served, origin: str) -> None:
    with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
        websocket.create_connection(friendly.ws, origin=origin, timeout=10)
    assert refusal.value.status_code == 403


def test_the_service_s_own_pages_may_still_open_a_websocket(friendly: Served) -> None:
    with connected(friendly, origin=friendly.url) as socket:
        assert socket.lives()
