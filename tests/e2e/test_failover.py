"""Routes as deployed: each fault of a provider, seen by polling, as SSE and over WebSocket."""

import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
import requests

from tests.e2e.client import (
    Json,
    connected,
    ended,
    get,
    post,
    refused,
    status,
    stream,
    submit,
    until,
)
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import Served, serve

VIEWS = ("poll", "sse", "websocket")
FAULTS = {
    "cut": "cut/40/60",
    "stall": "stall/3",
    "once": "first/1/status/500",
    "forever": "status/503",
    "silent": "silent",
    "long": "context",
    "indecent": "policy",
    "waits": "status/429/3",
    "down": "status/500",
}
SPARE = "".join(f"w{number} " for number in range(7))
PRIMARY = "".join(f"w{number} " for number in range(5))


@pytest.fixture(scope="module")
def primary() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(primary: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model for each fault and view, alone and with a fallback: their breakers are apart."""
    with start_upstream() as spare:
        tables = [
            f'[backends.a]\nkind = "openai"\nbase_url = "{primary.url}"\napi_key_env = "KEY_OF_A"',
            f'[backends.b]\nkind = "openai"\nbase_url = "{spare.url}"',
            '[models.default]\ntargets = ["a/big", "b/big"]',
        ]
        for name, fault in FAULTS.items():
            for view in VIEWS:
                first = f'"a/fault:{fault}/{name}-{view}'
                times = "idle_timeout_s = 0.3\nfirst_token_timeout_s = 0.3\nretry_after_max_s = 1"
                tables.append(f'[models.{name}-{view}]\ntargets = [{first}"]\n{times}')
                tables.append(
                    f'[models.{name}-{view}-or-spare]\ntargets = [{first}-or", "b/fault:ok/7"]\n'
                    f"{times}"
                )
        path = tmp_path_factory.mktemp("routes") / "routes.toml"
        path.write_text("\n".join(tables))
        with serve(ORCHESTRATOR_CONFIG=str(path), KEY_OF_A="sk-of-a") as running:
            yield running


def by_polling(server: Served, model: str) -> tuple[str | None, str | None, Json]:
    job = ended(server, submit(server, str(uuid4()), model=model))
    return job["result"], job["error_code"], job


def by_sse(server: Served, model: str) -> tuple[str | None, str | None, Json]:
    request_id = submit(server, str(uuid4()), model=model)
    text, chunks, last = "", 0, {}
    for frame in stream(server, f"/stream/{request_id}"):
        if frame.event == "restart":
            assert frame.data["attempt"] >= 2
            text, chunks = "", 0
        elif frame.event == "token":
            assert frame.data["chunk"] == chunks
            text, chunks = text + frame.data["data"], chunks + 1
        last = frame.data
    if last["status"] == "done":
        return text, None, status(server, request_id)
    return None, last["error"]["code"], status(server, request_id)


def by_websocket(server: Served, model: str) -> tuple[str | None, str | None, Json]:
    text, chunks = "", 0
    with connected(server) as socket:
        request_id = socket.submit(str(uuid4()), model=model, stream=True)
        while (frame := socket.receive())["type"] in ("token", "restart"):
            if frame["type"] == "restart":
                text, chunks = "", 0
            else:
                assert frame["chunk"] == chunks
                text, chunks = text + frame["data"], chunks + 1
    if frame["type"] == "error":
        return None, frame["code"], status(server, request_id)
    assert frame["result"] == text
    return text, None, status(server, request_id)


SEEN_BY = dict(zip(VIEWS, (by_polling, by_sse, by_websocket), strict=True))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("fault", "answer", "code", "attempts"),
    [
        ("cut", None, "UPSTREAM_TRUNCATED", 3),
        ("stall", None, "UPSTREAM_TIMEOUT", 3),
        ("once", PRIMARY, None, 2),
        ("forever", None, "UPSTREAM_ERROR", 3),
        ("silent", None, "UPSTREAM_TIMEOUT", 1),
        ("long", None, "UPSTREAM_REJECTED", 1),
        ("indecent", None, "UPSTREAM_REJECTED", 1),
        ("cut-or-spare", SPARE, None, 3),
        ("stall-or-spare", SPARE, None, 3),
        ("once-or-spare", PRIMARY, None, 2),
        ("forever-or-spare", SPARE, None, 3),
        ("silent-or-spare", SPARE, None, 2),
        ("long-or-spare", SPARE, None, 2),
        ("indecent-or-spare", None, "UPSTREAM_REJECTED", 1),
        ("waits-or-spare", SPARE, None, 2),
    ],
)
def test_every_view_of_a_fault_is_one_whole_answer_or_one_clean_error(
    served: Served, view: str, fault: str, answer: str | None, code: str | None, attempts: int
) -> None:
    name, _, rest = fault.partition("-")
    seen: Callable[[Served, str], tuple[str | None, str | None, Json]] = SEEN_BY[view]
    result, error, job = seen(served, "-".join(filter(None, [name, view, rest])))
    assert (result, error) == (answer, code)
    assert job["attempts"] == attempts
    assert job["backend"].startswith("b/" if answer == SPARE else "a/")
    healthy = post(served, "/infer", {"prompt": "all is well"}, headers={"Prefer": "wait=10"})
    assert healthy.json()["result"] == "all is well"


def test_a_restart_is_an_event_between_two_answers(served: Served) -> None:
    request_id = submit(served, model="cut-sse-or-spare")
    frames = stream(served, f"/stream/{request_id}")
    assert [frame.id for frame in frames] == list(range(len(frames)))
    at = max(place for place, frame in enumerate(frames) if frame.event == "restart")
    after = [frame.data for frame in frames[at + 1 : -1]]
    assert [token["chunk"] for token in after] == list(range(7))
    assert "".join(token["data"] for token in after) == SPARE
    assert frames[-1].data["status"] == "done"
    resumed = stream(served, f"/stream/{request_id}", headers={"Last-Event-ID": str(at)})
    assert [frame.data for frame in resumed[:-1]] == after


def test_a_cancel_between_two_attempts_ends_at_once(served: Served, primary: Upstream) -> None:
    request_id = submit(served, "cancel me", model="waits-poll")
    until(lambda: primary.seen("cancel me")["calls"])
    began = time.monotonic()
    answer = post(served, f"/cancel/{request_id}?wait=10")
    assert answer.json()["status"] == "cancelled"
    assert time.monotonic() - began < 1.0


def test_the_models_of_the_file_are_listed_with_the_default_first(served: Served) -> None:
    models = get(served, "/models").json()["data"]
    assert models[0] == {"id": "default", "backend": "a/big", "default": True}
    assert len(models) == 1 + 2 * len(FAULTS) * len(VIEWS)


def test_each_backend_gets_its_own_key(served: Served, primary: Upstream) -> None:
    ended(served, submit(served, "with the key"))
    assert primary.seen("with the key")["headers"]["authorization"] == "Bearer sk-of-a"


def test_submits_are_refused_while_nothing_answers_and_readiness_stays_green(
    served: Served,
) -> None:
    for _ in range(5):
        ended(served, submit(served, model="down-poll"))
    answer = post(served, "/infer", {"prompt": "Hello", "model": "down-poll"})
    refused(answer, 503, "PIPELINE_UNAVAILABLE")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert requests.get(f"{served.url}/health/ready", timeout=10).status_code == 200
