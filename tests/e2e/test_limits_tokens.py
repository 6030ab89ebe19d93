"""What callers may use of models: tokens a day, and calls of a model that has a rate of its own."""

from collections.abc import Iterator

import pytest
import requests

from tests.e2e.callers import (
    LONG,
    SECRET,
    SHORT,
    accepted,
    ask,
    cancel,
    end_of,
    limited,
    name,
    refused_submit,
    somebody,
)
from tests.e2e.client import connected, frames, open_stream, post
from tests.fakes.upstream import start_upstream
from tests.served import Served, serve

TOKENS, SCARCE = 4000, 200
SHORT_TOKENS = 3
"""What the service takes SHORT for: its bytes, by four."""
USED = 12
"""What the upstream reports of SHORT."""
ROUTES = """
[backends.fake]
kind = "openai"
base_url = "{url}"

[models.default]
targets = ["fake/any"]

[models.dear]
targets = ["fake/any"]
rate_limit = "2/hour"

[models.scarce]
targets = ["fake/any"]
tokens_a_day = {tokens}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    routes = tmp_path_factory.mktemp("routes") / "routes.toml"
    with start_upstream() as upstream:
        routes.write_text(ROUTES.format(url=upstream.url, tokens=SCARCE))
        with serve(
            ORCHESTRATOR_JWT_SECRET=SECRET,
            ORCHESTRATOR_CONFIG=str(routes),
            ORCHESTRATOR_TOKENS_A_DAY=str(TOKENS),
        ) as running:
            yield running


# Tokens a day


def test_tokens_are_reserved_and_then_settled_by_what_was_used(server: Served) -> None:
    caller = somebody()
    half = {"max_tokens": TOKENS // 2 - SHORT_TOKENS - 2}
    ids = [accepted(server, caller, LONG, **half) for _ in range(2)]
    message, wait_s = limited(ask(server, caller, **half))
    assert message.startswith(f"You may use {TOKENS} tokens a day. ")
    assert "are used or reserved, and this request may need" in message
    assert message.endswith("Submit it with fewer max_tokens, or after midnight, UTC.")
    assert wait_s <= 86_400
    for request_id in ids:
        cancel(server, caller, request_id)
    assert end_of(server, caller, accepted(server, caller, **half))["status"] == "completed"


def test_what_a_request_has_used_is_counted_to_the_token(server: Served) -> None:
    caller = somebody()

    def scarce(tokens: int, prompt: str = SHORT) -> requests.Response:
        return ask(server, caller, prompt, model="scarce", max_tokens=tokens)

    most = SCARCE - SHORT_TOKENS
    # That is more than a day has, and waiting does not help.
    assert limited(scarce(most + 1))[0].endswith("Submit it with fewer max_tokens.")
    for place in range(3):
        done = end_of(server, caller, scarce(most - place * USED).json()["request_id"])
        assert done["usage"]["total_tokens"] == USED
    message, _ = limited(scarce(most - 3 * USED + 1))
    assert f"You may use {SCARCE} tokens of model 'scarce' a day. {3 * USED} are used" in message
    # Who says nothing of max_tokens is taken to want an answer of usual length.
    limited(post(server, "/infer", {"prompt": SHORT, "model": "scarce"}, headers=caller))
    # Nothing is used where the upstream refuses, and other models have nothing to do with it.
    refusal = scarce(most - 3 * USED, "fault:status 400")
    assert refusal.status_code == 429, "it is longer"
    shorter = scarce(100, "fault:status 400").json()["request_id"]
    assert end_of(server, caller, shorter)["status"] == "failed"
    assert scarce(most - 3 * USED).status_code == 200
    assert ask(server, caller).status_code == 200


def test_what_was_cancelled_is_counted_all_the_same(server: Served) -> None:
    caller = somebody()
    body = {"model": "scarce", "max_tokens": 150}
    request_id = accepted(server, caller, LONG, **body)
    with open_stream(server, f"/stream/{request_id}", headers=caller) as answer:
        for frame in frames(answer):
            if frame.event == "token" and frame.data["chunk"] == 8:
                break
    cancel(server, caller, request_id)
    said = end_of(server, caller, request_id)["result"]
    least = (len(said) + len(LONG)) // 4
    assert least > 8
    limited(ask(server, caller, model="scarce", max_tokens=SCARCE - SHORT_TOKENS - least + 1))
    waiting = [
        accepted(server, caller, LONG, model="scarce", max_tokens=20, session_id="s")
        for _ in range(2)
    ]
    # One that never began has cost nothing.
    for request_id in reversed(waiting):
        cancel(server, caller, request_id)
    left = SCARCE - SHORT_TOKENS - 2 * least - 20
    assert ask(server, caller, model="scarce", max_tokens=left).status_code == 200


# Models


def test_a_model_may_have_a_rate_of_its_own(server: Served) -> None:
    caller = somebody()
    for _ in range(2):
        accepted(server, caller, model="dear")
    message, wait_s = limited(ask(server, caller, model="dear"))
    assert message.startswith("You have used up your 2/hour calls of model 'dear'. Call again in ")
    assert wait_s <= 3660
    with connected(server, header=caller) as socket:
        assert "'dear'" in refused_submit(socket, model="dear")["message"]
        socket.submit(SHORT, max_tokens=5)
    assert ask(server, caller).status_code == 200
    assert ask(server, somebody(), model="dear").status_code == 200


def test_no_name_of_a_caller_is_taken_for_another_with_a_model(server: Served) -> None:
    called = name()
    victim, namesake = somebody(called), somebody(f"{called} scarce")
    for _ in range(2):
        accepted(server, namesake, max_tokens=SCARCE)
    assert ask(server, victim, model="scarce", max_tokens=SCARCE - SHORT_TOKENS).status_code == 200
