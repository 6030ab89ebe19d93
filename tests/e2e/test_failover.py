"""Routes as deployed: what belongs to no single fault (those are in test_faults.py)."""

import time
from collections.abc import Iterator

import pytest
import requests

from tests.e2e.client import (
    ended,
    get,
    post,
    refused,
    stream,
    submit,
    until,
)
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import BUSY, Served, serve

MODELS = {
    "cut": ["a/fault:cut/40/60", "b/fault:ok/7"],
    "waits": ["a/fault:status/429/3"],
    "down": ["a/fault:status/500"],
}
SPARE = "".join(f"w{number} " for number in range(7))


@pytest.fixture(scope="module")
def primary() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(primary: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A healthy model, and those above."""
    with start_upstream() as spare:
        tables = [
            f'[backends.a]\nkind = "openai"\nbase_url = "{primary.url}"\napi_key_env = "KEY_OF_A"',
            f'[backends.b]\nkind = "openai"\nbase_url = "{spare.url}"',
            '[models.default]\ntargets = ["a/big", "b/big"]',
            *(f"[models.{name}]\ntargets = {targets}" for name, targets in MODELS.items()),
        ]
        path = tmp_path_factory.mktemp("routes") / "routes.toml"
        path.write_text("\n".join(tables))
        with serve(ORCHESTRATOR_CONFIG=str(path), KEY_OF_A="sk-of-a") as running:
            yield running


def test_a_restart_is_an_event_between_two_answers(served: Served) -> None:
    request_id = submit(served, model="cut")
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
    request_id = submit(served, "cancel me", model="waits")
    until(lambda: primary.seen("cancel me")["calls"])
    began = time.monotonic()
    answer = post(served, f"/cancel/{request_id}?wait=10")
    assert answer.json()["status"] == "cancelled"
    assert time.monotonic() - began < BUSY * 1.0


def test_the_models_of_the_file_are_listed_with_the_default_first(served: Served) -> None:
    models = get(served, "/models").json()["data"]
    assert models[0] == {"id": "default", "backend": "a/big", "default": True}
    assert [model["id"] for model in models] == ["default", *MODELS]


def test_each_backend_gets_its_own_key(served: Served, primary: Upstream) -> None:
    ended(served, submit(served, "with the key"))
    assert primary.seen("with the key")["headers"]["authorization"] == "Bearer sk-of-a"


def test_submits_are_refused_while_nothing_answers_and_readiness_stays_green(
    served: Served,
) -> None:
    for _ in range(5):
        ended(served, submit(served, model="down"))
    answer = post(served, "/infer", {"prompt": "Hello", "model": "down"})
    refused(answer, 503, "PIPELINE_UNAVAILABLE")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert requests.get(f"{served.url}/health/ready", timeout=10).status_code == 200
