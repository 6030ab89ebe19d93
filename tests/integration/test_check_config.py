"""`orchestrator check-config`: what a file means, and whether its backends answer."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import cli
from tests.fakes.models import write_voices
from tests.fakes.upstream import Upstream, start_upstream
from tests.needs import needs_module

KEY = "sk-0123456789"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A", KEY)


def written(folder: Path, url: str, more: str = "", model: str = "big") -> str:
    path = folder / "routes.toml"
    path.write_text(
        f'[backends.a]\nkind = "openai"\nbase_url = "{url}"\nmax_concurrency = 8\n{more}\n'
        '[backends.echo]\nkind = "echo"\n'
        f'[models.default]\ntargets = ["a/{model}", "echo"]\nidle_timeout_s = 15\n'
    )
    return str(path)


def test_a_good_file_is_explained(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, upstream.url, 'api_key_env = "KEY_OF_A"')
    assert cli.main(["check-config", "--file", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        path,
        "Backends:",
        f"  a: openai at {upstream.url}, at most 8 requests at once: answers.",
        "  echo: echo: runs here.",
        "Models:",
        "  default (also for requests that name none): a/big, then echo",
        "    2 retries a target; a Retry-After of up to 5 s is waited for",
        "    5 s to connect, 60 s to the first token, 15 s between two, 300 s in all",
    ]


def test_what_a_model_keeps_and_shares_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(
        '[backends.echo]\nkind = "echo"\n'
        '[models.default]\ntargets = ["echo"]\ncache_ttl_s = 60\ncoalesce = true\n'
    )
    assert cli.main(["check-config", "--file", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "    answers are kept for 60 s",
        "    identical requests share one call",
    ]


def test_the_file_of_the_environment_is_the_usual_one(
    tmp_path: Path,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path, upstream.url, 'api_key_env = "KEY_OF_A"')
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", path)
    assert cli.main(["check-config"]) == 0
    assert capsys.readouterr().out.startswith(path)


def test_without_a_file_the_environment_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-config"]) == 0
    assert "echo: echo: runs here." in capsys.readouterr().out


def test_a_model_that_the_backend_does_not_list_is_told(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, upstream.url, 'api_key_env = "KEY_OF_A"', model="bgi")
    assert cli.main(["check-config", "--file", path]) == 0
    assert "answers, but does not list bgi; it lists big." in capsys.readouterr().out


def test_a_base_url_without_its_path_is_doubted(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    url = upstream.url.removesuffix("/v1")
    path = written(tmp_path, url, 'api_key_env = "KEY_OF_A"')
    assert cli.main(["check-config", "--file", path]) == 0
    assert "names no models: is base_url right? Most end in /v1." in capsys.readouterr().out


def test_a_query_in_the_base_url_is_kept(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, f"{upstream.url}?api-version=1", 'api_key_env = "KEY_OF_A"')
    assert cli.main(["check-config", "--file", path]) == 0
    assert "answers." in capsys.readouterr().out


@pytest.mark.parametrize("query", ["", "?key=hush/"])
def test_an_anthropic_backend_is_asked_in_its_own_way(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str], query: str
) -> None:
    url = upstream.url.removesuffix("/v1")
    path = tmp_path / "routes.toml"
    path.write_text(
        f'[backends.a]\nkind = "anthropic"\nbase_url = "{url}{query}"\napi_key_env = "KEY_OF_A"\n'
        '[models.default]\ntargets = ["a/big"]\n'
    )
    assert cli.main(["check-config", "--file", str(path)]) == 0
    assert f"  a: anthropic at {url}: answers." in capsys.readouterr().out.splitlines()


def test_a_local_model_is_looked_for_and_not_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_module("xllamacpp")
    path, model = tmp_path / "routes.toml", tmp_path / "model.gguf"
    path.write_text(
        f'[backends.a]\nkind = "engine"\n[models.default]\ntargets = ["a/demo", "a/{model}"]\n'
    )
    assert cli.main(["check-config", "--file", str(path)]) == 1
    where = f"{path}: models.default.targets[1]"
    assert f"{where}: {model} can't be read (no such file" in capsys.readouterr().err

    write_voices(model)
    assert cli.main(["check-config", "--file", str(path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "  a: engine, at most 4 requests at once: runs here." in said


def test_a_refused_key_is_a_failure(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-config", "--file", written(tmp_path, upstream.url)]) == 1
    assert "FAILS: it refuses the API key" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert cli.main(["check-config", "--file", written(tmp_path, f"http://127.0.0.1:{port}")]) == 1
    assert "FAILS: it can't be reached (connection refused)." in capsys.readouterr().out


def test_a_server_that_says_nothing_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        began = time.monotonic()
        assert cli.main(["check-config", "--file", written(tmp_path, url)]) == 1
    assert time.monotonic() - began < 8
    assert "FAILS" in capsys.readouterr().out


def test_a_wrong_file_is_one_sentence(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, upstream.url, "retires = 2")
    assert cli.main(["check-config", "--file", path]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"orchestrator: {path}: backends.a.retires: there is no such key;")
    assert len(said.err.splitlines()) == 1


def test_the_key_is_never_shown(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(
        ["check-config", "--file", written(tmp_path, upstream.url, 'api_key_env = "KEY_OF_A"')]
    )
    assert KEY not in capsys.readouterr().out
