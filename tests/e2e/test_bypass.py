"""Nobody comes in without credentials that are good: whatever is tried, at every address."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import config
from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
from orchestrator.web import create_app
from orchestrator.web.auth import OPEN
from tests.e2e.bypass import (
    ID,
    ISSUER,
    PEM,
    SECRET,
    SPOOFS,
    UPGRADE,
    House,
    Route,
    attempts,
    forged,
    spellings,
)
from tests.e2e.callers import PEPPER
from tests.e2e.client import call, connected, exchange, until
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import serve


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


@pytest.fixture(scope="module", params=["HS256", "RS256"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[House]:
    """Takes keys of a file, and tokens that are signed with SECRET or by ISSUER."""
    folder, now = tmp_path_factory.mktemp("house"), time.time()
    file = KeyFile(folder / "keys.json")

    def key(**options: Any) -> str:
        made, shown = keys.create(PEPPER, "acme", frozenset({Scope.INFER}), now, **options)
        file.add(made)
        return shown

    good, revoked, expired = key(), key(), key(expires_at=now - 1)
    file.revoke(revoked.partition(".")[0], now)
    is_secret = request.param == "HS256"
    (folder / "issuer.pem").write_bytes(PEM)
    of_tokens = (
        {"ORCHESTRATOR_JWT_SECRET": SECRET}
        if is_secret
        else {"ORCHESTRATOR_JWT_KEY_FILE": str(folder / "issuer.pem")}
    )
    with serve(
        **of_tokens,
        ORCHESTRATOR_API_KEYS_FILE=str(folder / "keys.json"),
        ORCHESTRATOR_KEY_PEPPER=PEPPER,
        ORCHESTRATOR_JWT_ISSUER="issuer",
        ORCHESTRATOR_JWT_AUDIENCE="audience",
        ORCHESTRATOR_BACKEND="openai",
        ORCHESTRATOR_MODEL="fake",
        OPENAI_BASE_URL=upstream.url,
    ) as server:
        secret = SECRET if is_secret else ISSUER
        found = House(
            server, upstream, good, {"revoked": revoked, "expired": expired}, secret, request.param
        )
        models = Route("GET", "/api/v1/models")
        for credentials in (good, found.token()):
            assert found.line.status(models, f"Authorization: Bearer {credentials}") == 200
        yield found
        found.line.close()


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    """All that the app has and that is not for everyone, and an address that it has not."""
    found = [
        Route("GET", "/nowhere"),
        Route("POST", "/api/v1/infer", ("Accept: text/event-stream",)),
    ]
    for rule in create_app(config.load({})).url_map.iter_rules():
        if rule.endpoint.partition(".")[0] in OPEN:
            continue
        address = rule.rule.replace("<id:request_id>", ID).replace("<session_id>", "some")
        assert "<" not in address, f"say above what stands for the variable of {rule.rule}"
        lines = UPGRADE if rule.websocket else ()
        for method in (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}:
            found.append(Route(method, address, lines))
    assert len(found) > 15
    return found


def test_whatever_is_tried_nobody_comes_in(house: House, routes: list[Route]) -> None:
    came_in = []
    for name, lines in attempts(house).items():
        prompt = f"let in {name}"
        for route in routes:
            if got := house.tries(route, *lines, prompt=prompt):
                came_in.append(f"{name}: {got}")
        assert house.upstream.seen(prompt)["calls"] == 0, name
    assert not came_in
    assert house.is_untouched()


def test_no_spelling_of_an_address_leads_past_the_look(house: House, routes: list[Route]) -> None:
    came_in = [
        f"{name}: {got}"
        for name, lines in SPOOFS.items()
        for route in routes
        for spelling in spellings(route)
        if (got := house.tries(spelling, *lines))
    ]
    assert not came_in
    assert house.is_untouched()


@pytest.mark.parametrize("query", ["api_key", "key", "token", "access_token", "X-API-Key"])
def test_a_key_in_the_query_opens_nothing(house: House, routes: list[Route], query: str) -> None:
    came_in = [
        got
        for route in routes
        for text in (house.good, house.token())
        if (got := house.tries(replace(route, address=f"{route.address}?{query}={text}")))
    ]
    assert not came_in
    assert house.is_untouched()
    said = f"?{query}={house.good}"
    with connected(house.server, said, origin=house.server.url) as page:
        page.send({"prompt": "let me in"})
        assert page.receive()["code"] == "UNAUTHORIZED"
        assert page.close_code() == 1008


@pytest.mark.parametrize(
    ("value", "statuses"), [(b"a\x00b", (400,)), (b"A" * 1_000_000, (400, 431))]
)
def test_what_is_no_header_is_refused_by_the_server(
    house: House, routes: list[Route], value: bytes, statuses: tuple[int, ...]
) -> None:
    for name in (b"X-API-Key: ", b"Authorization: Bearer "):
        for route in routes:
            head = f"{route.method} {route.address} HTTP/1.1\r\nHost: x\r\n".encode()
            assert exchange(house.server, head + name + value + b"\r\n\r\n").status in statuses
    assert house.is_untouched()


def test_no_first_message_with_bad_credentials_lets_a_page_in(house: House) -> None:
    tried: dict[str, Any] = forged(house) | house.bad_keys
    tried |= {
        "prefix": house.good[:-1],
        "not ASCII": house.good[:-1] + "é",
        "NUL": f"{house.good}\x00",
        "long": "A" * 8192,
        "too long": "A" * 8193,
        "list": [house.good],
        "none": None,
        "empty": "",
        "with its scheme": f"Bearer {house.good}",
    }
    for name, credentials in tried.items():
        with connected(house.server, origin=house.server.url) as page:
            page.send({"type": "auth", "token": credentials})
            page.send({"prompt": "let me in"})
            answer = page.receive()
            assert answer["code"] in ("UNAUTHORIZED", "INVALID_REQUEST"), name
            assert page.close_code() == 1008, name
    assert house.is_untouched()


def test_a_stream_token_opens_nothing_but_its_stream(house: House, routes: list[Route]) -> None:
    headers = {"X-API-Key": house.good}
    asked = call(house.server, "POST", "/infer", json={"prompt": "mine"}, headers=headers)
    request_id = asked.json()["request_id"]
    given = call(house.server, "POST", f"/stream-token/{request_id}", headers=headers).json()
    came_in = []
    for route in routes:
        if "/stream/" in route.address:
            continue
        address = route.address.replace(ID, request_id)
        if got := house.tries(replace(route, address=f"{address}?token={given['token']}")):
            came_in.append(got)
    assert not came_in
    # After all that it is still good, where it belongs and nowhere else.
    stream = Route("GET", f"/api/v1/stream/{request_id}?token={given['token']}")
    assert house.line.status(stream) == 200
    assert house.line.status(stream) == 401
    until(lambda: call(house.server, "GET", f"/status/{request_id}", headers=headers).ok)
    assert (
        call(house.server, "DELETE", f"/requests/{request_id}", headers=headers).status_code == 204
    )
