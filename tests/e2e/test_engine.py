"""The engine as it is deployed: under gunicorn, from the first start to the last process."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from orchestrator.backends.engine.tiny_llama import DEMO_TEXT
from tests.e2e.client import ended, get, status, stream, submit, until
from tests.fakes.asking import eventually
from tests.fakes.hub import serving_hub
from tests.fakes.models import (
    VOICES,
    answer_of,
    write_slow_reader,
    write_slow_speaker,
    write_voices,
)
from tests.needs import needs_module
from tests.served import BUSY, Served

SOON_S = BUSY * 1.0

Serving = Callable[..., Served]


@pytest.fixture
def serving_engine(serving: Serving, tmp_path: Path) -> Serving:
    """A function that serves a model with the real engine."""
    needs_module("xllamacpp")

    def serve(model: str, **environ: str) -> Served:
        return serving(
            ORCHESTRATOR_BACKEND="engine",
            ORCHESTRATOR_MODEL=model,
            XDG_CACHE_HOME=str(tmp_path / "cache"),
            **environ,
        )

    return serve


def answer(served: Served, prompt: str, **fields: object) -> dict[str, object]:
    """The finished request, as the API shows it."""
    response = requests.post(
        f"{served.api}/infer",
        json={"prompt": prompt, **fields},
        headers={"Prefer": "wait=30"},
        timeout=40,
    )
    finished: dict[str, object] = response.json()
    return finished


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_demo_streams_its_first_token_and_ends_with_the_server(
    serving_engine: Serving,
) -> None:
    served = serving_engine("demo", OPENAI_API_KEY="hush", HF_TOKEN="hush")
    with requests.post(
        f"{served.api}/infer",
        json={"prompt": "Hello"},
        headers={"Accept": "text/event-stream"},
        stream=True,
        timeout=40,
    ) as response:
        lines = response.iter_lines(decode_unicode=True)
        data = [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    assert "".join(event.get("data", "") for event in data) == DEMO_TEXT
    assert data[-1]["status"] == "done"
    (engine,) = children_of(served.worker_pid)
    environ = Path(f"/proc/{engine}/environ").read_text().split("\0")
    assert f"PATH={os.environ['PATH']}" in environ
    assert not [entry for entry in environ if "hush" in entry]
    served.stop()
    eventually(lambda: not Path(f"/proc/{engine}").exists())


def test_an_answer_whose_engine_is_killed_begins_again_in_the_next_one(
    serving_engine: Serving, tmp_path: Path
) -> None:
    served = serving_engine(str(write_slow_speaker(tmp_path / "slow.gguf")))
    request_id = submit(served, "A", max_tokens=300)
    until(lambda: status(served, request_id)["first_token_at"])
    (first,) = children_of(served.worker_pid)
    os.kill(first, signal.SIGKILL)

    done = ended(served, request_id)
    assert done["result"] == answer_of("A", 300)
    assert (done["status"], done["attempts"]) == ("completed", 2)
    assert first not in children_of(served.worker_pid)
    assert "The engine died (exit code -9) and is started again." in served.log
    events = stream(served, f"/stream/{request_id}")
    assert [event.event for event in events].count("restart") == 1


def test_the_server_answers_while_the_model_is_loaded_and_a_prompt_is_read(
    serving_engine: Serving, tmp_path: Path
) -> None:
    served = serving_engine(str(write_slow_reader(tmp_path / "slow.gguf")))
    submitted = requests.post(
        f"{served.api}/infer", json={"prompt": "A" * 500, "max_tokens": 1}, timeout=SOON_S
    ).json()
    status, slowest = "", 0.0
    while status not in ("completed", "failed"):
        began = time.monotonic()
        assert requests.get(f"{served.url}/health", timeout=SOON_S).ok
        slowest = max(slowest, time.monotonic() - began)
        found = requests.get(f"{served.api}/status/{submitted['request_id']}", timeout=SOON_S)
        status = found.json()["status"]

    assert status == "completed", found.json()
    assert found.json()["model"] == "slow.gguf"
    assert slowest < SOON_S


def test_more_requests_than_slots_wait_in_the_queue_and_are_not_mixed(
    serving_engine: Serving, tmp_path: Path
) -> None:
    model = write_voices(tmp_path / "voices.gguf")
    served = serving_engine(str(model), ORCHESTRATOR_ENGINE_SLOTS="3")
    ids = {submit(served, voice, max_tokens=200): voice for voice in VOICES}
    for request_id, voice in ids.items():
        assert ended(served, request_id)["result"] == answer_of(voice, 200)


def test_as_many_run_as_there_are_slots_and_the_rest_have_places_in_the_queue(
    serving_engine: Serving, tmp_path: Path
) -> None:
    model = write_slow_speaker(tmp_path / "slow.gguf")
    served = serving_engine(str(model), ORCHESTRATOR_ENGINE_SLOTS="3")
    first = [submit(served, voice, max_tokens=300) for voice in "ABC"]
    for request_id in first:
        until(lambda request_id=request_id: status(served, request_id)["first_token_at"])
    later = [submit(served, voice, max_tokens=3) for voice in "DE"]
    places = [status(served, request_id)["queue_position"] for request_id in later]
    assert len(get(served, "/requests?status=processing").json()["data"]) == 3
    assert places == [0, 1]
    assert ended(served, later[1])["result"] == answer_of("E", 3)


def test_targets_that_name_one_model_share_its_process_and_one_that_fails_is_passed_by(
    serving: Serving, tmp_path: Path
) -> None:
    needs_module("xllamacpp")
    write_voices(tmp_path / "voices.gguf")
    (tmp_path / "text.gguf").write_text("GGUF, it says, and is none.")
    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[backends.local]\nkind = "engine"\n[backends.broken]\nkind = "engine"\n'
        '[backends.echo]\nkind = "echo"\n'
        f'[models.default]\ntargets = ["local/{tmp_path}/voices.gguf"]\n'
        f'[models.patient]\ntargets = ["local/{tmp_path}/./voices.gguf"]\nidle_timeout_s = 60\n'
        f'[models.spare]\ntargets = ["broken/{tmp_path}/text.gguf", "echo"]\n'
    )
    served = serving(ORCHESTRATOR_CONFIG=str(routes), XDG_CACHE_HOME=str(tmp_path))

    for model in ("default", "patient"):
        done = answer(served, "A", max_tokens=3, model=model)
        assert done["result"] == answer_of("A", 3)
        known = status(served, str(done["request_id"]))
        assert known["backend"] == "local/voices.gguf", "clients see no folder"
    spare = answer(served, "Hello", model="spare")
    assert spare["result"] == "Echo: Hello"
    assert status(served, str(spare["request_id"]))["attempts"] == 2, "it was asked once"

    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(served.worker_pid)]
    assert sum("voices.gguf" in command for command in commands) == 1
    assert str(tmp_path) not in get(served, "/models").text


def test_a_name_of_the_hub_is_downloaded_and_then_answers(
    serving_engine: Serving, tmp_path: Path
) -> None:
    content = write_voices(tmp_path / "voices.gguf").read_bytes()
    with serving_hub(content) as hub:
        hub.cuts = [100_000]
        served = serving_engine("hf:owner/repo/model.gguf", HF_ENDPOINT=hub.url)
        assert answer(served, "A", max_tokens=3)["result"] == answer_of("A", 3)
    assert "Downloading model.gguf from 127.0.0.1: 0.2 MB." in served.log
    kept = tmp_path / "cache" / "orchestrator" / "models" / "owner" / "repo" / "model.gguf"
    assert kept.read_bytes() == content


def test_a_model_that_cannot_be_had_fails_the_request_and_not_the_server(
    serving_engine: Serving,
) -> None:
    with serving_hub(b"GGUF") as hub:
        served = serving_engine("hf:owner/repo/other.gguf", HF_ENDPOINT=hub.url)
        failed = answer(served, "Hello")
    reason = "The model can't be downloaded: 127.0.0.1 has no other.gguf; check its name."
    assert failed["status"] == "failed"
    assert failed["error"] == reason
    assert reason in served.log
    assert requests.get(f"{served.url}/health", timeout=SOON_S).ok
