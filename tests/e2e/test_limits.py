"""How often callers may call: what every answer says of it, who is counted, and who is refused."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.caller import Scope
from tests.e2e.callers import (
    Register,
    address,
    behind,
    codes,
    keyed,
    left,
    limited,
    says_nothing,
    somebody,
)
from tests.e2e.client import PATIENCE_S, call, ended, exchange, get, post, request_head, submit
from tests.e2e.test_settings_at_start import SERVE, refused
from tests.served import Served, serve

FRIEND = "https://app.example.com"
ID = "01980000-0000-7000-8000-000000000000"
MOST = 12
HOUR_S = 3600
OPEN = ("/health", "/health/live", "/health/ready", "/api/v1/health", "/", "/docs")
HOPS = "127.0.0.1/32, 10.0.0.0/8"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """Lets anyone in, MOST times an hour by address; this machine is a proxy that it trusts."""
    with serve(
        ORCHESTRATOR_RATE_LIMIT=f"{MOST}/hour",
        ORCHESTRATOR_TRUSTED_PROXIES=HOPS,
        ORCHESTRATOR_CORS_ORIGINS=FRIEND,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    return Register(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def quick(register: Register) -> str:
    return register.key("3/second")


@pytest.fixture(scope="module")
def colleagues(register: Register) -> tuple[str, str]:
    """Two keys of one tenant, the first with a rate of its own."""
    return register.key("2/hour"), register.key()


@pytest.fixture(scope="module")
def reader(register: Register) -> str:
    return register.key(scope=Scope.READ)


@pytest.fixture(scope="module")
def closed(
    register: Register, quick: str, colleagues: tuple[str, str], reader: str
) -> Iterator[Served]:
    """Asks for keys or tokens, and lets each make MOST calls an hour."""
    with serve(
        **register.environ,
        ORCHESTRATOR_RATE_LIMIT=f"{MOST}/hour",
        ORCHESTRATOR_TRUSTED_PROXIES=HOPS,
    ) as running:
        yield running


def spend(server: Served, caller: dict[str, str], count: int = MOST) -> None:
    """Make so many calls, which all have to be taken."""
    for _ in range(count):
        assert get(server, "/models", headers=caller).status_code == 200


# What answers say


def test_every_answer_says_what_is_left_and_until_when(server: Served) -> None:
    caller = behind(address())
    typed = caller | {"Content-Type": "application/json"}
    before = time.time()
    answers = [
        post(server, "/infer", {"prompt": "x"}, headers=caller),
        post(server, "/infer", {"prompt": ""}, headers=caller),
        call(server, "POST", "/infer", data="{", headers=typed),
        call(server, "POST", "/infer", data="x", headers=caller),
        get(server, f"/status/{ID}", headers=caller),
        get(server, "/nowhere", headers=caller),
        requests.get(f"{server.url}/nowhere", headers=caller, timeout=PATIENCE_S),
        get(server, "/infer", headers=caller),
        get(server, "/ws", headers=caller),
        call(server, "HEAD", "/models", headers=caller),
        post(server, "/infer", {"prompt": "x"}, headers=caller | {"Accept": "text/event-stream"}),
        get(server, "/models?x=%ff", headers=caller),
        get(server, "/models", headers=caller),
    ]
    assert codes(answers) == [200, 400, 400, 415, 404, 404, 404, 405, 426, 200, 200, 200, 429]
    for place, answer in enumerate(answers):
        limit, remaining, reset = left(answer)
        assert (limit, remaining) == (MOST, max(0, MOST - 1 - place)), answer.url
        assert before < reset <= time.time() + HOUR_S * 61 / 60 + 1


def test_a_stream_that_has_nothing_more_says_so_too(server: Served) -> None:
    request_id = submit(server)
    last = ended(server, request_id) and get(server, f"/events/{request_id}").json()["next"]
    answer = get(server, f"/stream/{request_id}", headers={"Last-Event-ID": str(last)})
    assert answer.status_code == 204
    assert left(answer)[0] == MOST


def test_what_is_open_to_everyone_is_neither_counted_nor_marked(server: Served) -> None:
    caller = behind(address())
    for _ in range(2 * MOST // len(OPEN) + 1):
        for path in OPEN:
            answer = requests.get(f"{server.url}{path}", headers=caller, timeout=PATIENCE_S)
            assert answer.status_code == 200
            assert says_nothing(answer), path
    spend(server, caller)
    limited(get(server, "/models", headers=caller))
    answer = requests.get(f"{server.url}/health", headers=caller, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert says_nothing(answer)


def test_the_preflights_of_browsers_are_not_counted_and_pages_may_read_what_is_left(
    server: Served,
) -> None:
    caller = behind(address()) | {"Origin": FRIEND}
    asked = {"Access-Control-Request-Method": "POST"}
    for _ in range(MOST + 1):
        answer = call(server, "OPTIONS", "/infer", headers=caller | asked)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
        assert says_nothing(answer)
    spend(server, caller)
    refusal = get(server, "/models", headers=caller)
    limited(refusal)
    assert refusal.headers["Access-Control-Allow-Origin"] == FRIEND
    exposed = refusal.headers["Access-Control-Expose-Headers"].split(", ")
    assert {name for name in refusal.headers if name.startswith("X-RateLimit")} <= set(exposed)
    assert "Retry-After" in exposed


# Past the limit


def test_past_its_rate_a_caller_is_told_when_to_come_again_and_then_let_in(
    closed: Served, quick: str
) -> None:
    caller = keyed(quick)
    until_refused = [get(closed, "/models", headers=caller)]
    while until_refused[-1].status_code == 200:
        until_refused.append(get(closed, "/models", headers=caller))
        assert len(until_refused) < 30, "nothing is limited"
    refusal = until_refused[-1]
    message, wait_s = limited(refusal)
    assert message.startswith("You have used up your 3/second calls. Call again in ")
    assert f" {wait_s} second" in message
    assert wait_s <= 2
    limit, remaining, reset = left(refusal)
    assert (limit, remaining) == (3, 0)
    assert reset - time.time() <= 3
    time.sleep(wait_s)
    assert get(closed, "/models", headers=caller).status_code == 200


def test_whoever_hammers_has_its_rate_all_the_same_and_no_more(closed: Served, quick: str) -> None:
    caller = keyed(quick)
    began, taken = time.monotonic(), 0
    while taken < 7:
        taken += get(closed, "/models", headers=caller).status_code == 200
        assert time.monotonic() - began < PATIENCE_S
    assert time.monotonic() - began > 1.9


def test_whatever_is_called_counts(server: Served) -> None:
    caller = behind(address())
    for _ in range(MOST):
        get(server, "/infer", headers=caller)
    for method, path in (
        ("GET", "/models"),
        ("HEAD", "/models"),
        ("POST", "/infer"),
        ("GET", "/infer"),
        ("DELETE", f"/requests/{ID}"),
        ("PATCH", "/nowhere"),
        ("GET", f"/stream/{ID}"),
        ("GET", "/ws"),
        ("POST", "//infer"),
        ("GET", "/openapi.json"),
    ):
        assert call(server, method, path, headers=caller).status_code == 429, (method, path)


def test_a_body_that_is_refused_does_no_harm_to_what_comes_after_it(server: Served) -> None:
    caller = behind(address())
    spend(server, caller)
    with requests.Session() as session:
        for _ in range(3):
            body = json.dumps({"prompt": "x" * 900_000})
            limited(session.post(f"{server.api}/infer", data=body, headers=caller, timeout=20))
            assert session.get(f"{server.url}/health", timeout=20).status_code == 200


def test_without_a_rate_nothing_is_said_of_one(serving: Any) -> None:
    server = serving(ORCHESTRATOR_STREAMS_PER_CALLER="1")
    for answer in (
        post(server, "/infer", {"prompt": "x"}),
        post(server, "/infer", {"prompt": ""}),
        get(server, "/nowhere"),
    ):
        assert says_nothing(answer)


def test_calls_that_come_at_once_are_counted_to_the_call(server: Served) -> None:
    caller = behind(address())
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: get(server, "/models", headers=caller), range(3 * MOST)))
    assert sorted(codes(answers)) == [200] * MOST + [429] * (2 * MOST)
    assert sorted(left(answer)[1] for answer in answers if answer.ok) == sorted(range(MOST))


# Whom it counts


def test_a_key_s_own_rate_wins_and_two_keys_of_a_tenant_have_their_own(
    closed: Served, colleagues: tuple[str, str]
) -> None:
    first, second = map(keyed, colleagues)
    assert left(get(closed, "/models", headers=first))[:2] == (2, 1)
    spend(closed, first, 1)
    limited(get(closed, "/models", headers=first))
    assert left(get(closed, "/models", headers=second))[:2] == (MOST, MOST - 1)
    # However a key is sent, it is the same caller.
    bearer = {"Authorization": f"Bearer {colleagues[1]}"}
    assert left(get(closed, "/models", headers=bearer))[:2] == (MOST, MOST - 2)
    limited(get(closed, "/models", headers=first | behind(address())))


def test_refused_credentials_end_in_429_and_cost_nobody_else_anything(closed: Served) -> None:
    where = behind(address())
    wrong = [
        {},
        {"X-API-Key": "ok_0000000000000000." + "A" * 43},
        {"Authorization": "Bearer x.y.z"},
        {"Authorization": "Basic abc"},
        {"Authorization": f"Bearer {'A' * 7000}"},
        {"X-API-Key": ""},
    ]
    for place in range(MOST):
        answer = get(closed, "/models", headers=where | wrong[place % len(wrong)])
        assert answer.status_code == 401
        assert left(answer)[:2] == (MOST, MOST - 1 - place)
    for headers in wrong:
        answer = get(closed, "/models", headers=where | headers)
        limited(answer)
        assert "WWW-Authenticate" not in answer.headers
    good = somebody()
    assert left(get(closed, "/models", headers=where | good))[:2] == (MOST, MOST - 1)
    assert get(closed, "/models", headers=behind(address())).status_code == 401


def test_what_a_key_may_not_do_is_counted_for_the_key(closed: Served, reader: str) -> None:
    caller = keyed(reader)
    for place in range(MOST):
        answer = post(closed, "/infer", {"prompt": "x"}, headers=caller)
        assert answer.status_code == 403
        assert left(answer)[:2] == (MOST, MOST - 1 - place)
    limited(post(closed, "/infer", {"prompt": "x"}, headers=caller))
    limited(get(closed, "/models", headers=caller))


def test_a_stream_token_is_counted_for_whoever_asked_for_it(closed: Served) -> None:
    caller = somebody()
    request_id = post(closed, "/infer", {"prompt": "x"}, headers=caller).json()["request_id"]
    given = post(closed, f"/stream-token/{request_id}", headers=caller).json()["token"]
    answer = get(closed, f"/stream/{request_id}?token={given}", headers=behind(address()))
    assert answer.status_code == 200
    assert left(answer)[:2] == (MOST, MOST - 3)


def test_callers_without_a_name_are_counted_by_address_as_trusted_proxies_say(
    server: Served,
) -> None:
    mine = address()
    for place in range(MOST):
        # Who writes the header itself only puts something before what the proxy adds.
        invented = [address(), "10.0.0.1, 127.0.0.1", "", "junk", "1, 2, 3" * 50][place % 5]
        hops = [mine, "10.1.2.3"] if place % 2 else [mine]
        caller = behind(*([invented] if invented else []), *hops)
        assert left(get(server, "/models", headers=caller))[1] == MOST - 1 - place
    limited(get(server, "/models", headers=behind(mine)))
    limited(get(server, "/models", headers=behind(address(), mine)))
    limited(get(server, "/models", headers=behind(f"::ffff:{mine}")))
    # Some proxies say the port as well.
    limited(get(server, "/models", headers=behind(f"{mine}:61234")))
    limited(get(server, "/models", headers=behind(f"[::ffff:{mine}]:61234", "[::ffff:10.0.0.9]")))
    assert get(server, "/models", headers=behind(mine, address())).status_code == 200


def test_who_has_a_network_of_addresses_is_one_caller(server: Served) -> None:
    spend(server, behind("2001:db8:7:7::1"), MOST // 2)
    for place in range(MOST // 2):
        spend(server, behind(f"2001:db8:7:7:{place:x}::{place:x}"), 1)
    limited(get(server, "/models", headers=behind("2001:db8:7:7:ffff::1")))
    assert get(server, "/models", headers=behind("2001:db8:7:8::1")).status_code == 200


def test_the_word_of_a_stranger_is_not_taken_for_an_address(server: Served) -> None:
    with requests.Session() as session:
        session.mount("http://", _From("127.0.0.9"))
        for place in range(MOST):
            answer = session.get(f"{server.api}/models", headers=behind(address()), timeout=20)
            assert left(answer)[1] == MOST - 1 - place
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP", "X_Forwarded_For"):
            limited(session.get(f"{server.api}/models", headers={name: address()}, timeout=20))
    assert get(server, "/models", headers=behind(address())).status_code == 200


class _From(requests.adapters.HTTPAdapter):
    """Calls from an address of this machine's own choice."""

    def __init__(self, source: str) -> None:
        self._source = source
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._source, 0), **options)


def test_a_header_that_comes_twice_is_read_as_one(server: Served) -> None:
    mine = address()
    for place in range(MOST):
        lines = (f"X-Forwarded-For: {address()}", f"X-Forwarded-For: {mine}", "Connection: close")
        answer = exchange(server, request_head("GET", "/api/v1/models", *lines))
        assert answer.headers["X-RateLimit-Remaining"] == str(MOST - 1 - place)
    limited(get(server, "/models", headers=behind(mine)))


def test_thousands_of_addresses_leave_the_server_and_other_callers_as_they_were(
    server: Served,
) -> None:
    victim = behind(address())
    spend(server, victim, 2)
    with requests.Session() as session:
        for number in range(1000):
            hops = behind(f"203.{number % 250}.{number // 250}.1")
            answer = session.get(f"{server.api}/models", headers=hops, timeout=20)
            assert left(answer)[1] == MOST - 1
    assert left(get(server, "/models", headers=victim))[1] == MOST - 3


# Settings


@pytest.mark.parametrize(
    "rate", ["10/fortnight", "1000", "0/minute", "-1/minute", "1.5/minute", "5/minute, 6/minute"]
)
def test_a_rate_that_is_none_is_refused_in_a_sentence(rate: str) -> None:
    said = refused([*SERVE, "serve"], ORCHESTRATOR_RATE_LIMIT=rate)
    assert said.startswith(f"ORCHESTRATOR_RATE_LIMIT: {rate!r} is not a rate such as 1000/minute")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('rate_limit = "10/fortnight"', "is not a rate such as 1000/minute"),
        ("rate_limit = 10", "10 is not a rate such as 1000/minute"),
        ("tokens_a_day = 0", "0 is not a whole number from 1"),
    ],
)
def test_a_model_s_limit_that_is_none_is_refused_in_a_sentence(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "routes.toml"
    models = f'[models.default]\ntargets = ["here/echo"]\n{line}\n'
    path.write_text(f'[backends.here]\nkind = "echo"\n{models}')
    sentence = refused([*SERVE, "serve"], ORCHESTRATOR_CONFIG=str(path))
    assert "models.default" in sentence
    assert said in sentence
