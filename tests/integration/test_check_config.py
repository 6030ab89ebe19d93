"""`orchestrator check-config`: what a file means, and whether its backends answer."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from urllib3.exceptions import DecodeError, LocationParseError

from orchestrator import cli
from tests.fakes.models import write_voices
from tests.fakes.upstream import Upstream, start_upstream
from tests.needs import needs_module
from tests.redis_server import RedisServer
from tests.served import environment as served_environment

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


def test_redis_is_looked_at_as_well(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = redis.url.replace("redis://", "redis://:secret@")
    monkeypatch.setenv("REDIS_URL", address)
    redis.client.config_set("requirepass", "secret")
    redis.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert cli.main(["check-config"]) == 0
        monkeypatch.setenv("REDIS_URL", address.removesuffix("0") + "99")
        assert cli.main(["check-config"]) == 1
    finally:
        redis.client.config_set("maxmemory-policy", "noeviction")
        redis.client.config_set("requirepass", "")
    shown = redis.url.replace("redis://", "redis://...@")
    _, good, bad = capsys.readouterr().out.split("Redis:\n")
    head, policy, file, *_ = good.splitlines()
    assert head == f"  {shown}: answers. Messages to workers: {shown.removesuffix('0')}1"
    assert policy.endswith("Set noeviction.")
    assert file.endswith("Set appendonly yes.")
    assert (
        f"  {shown.removesuffix('0')}99: FAILS: REDIS_URL can't be used: DB index is out of range"
        in bad
    )
    assert "secret" not in good + bad


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


def test_what_each_caller_may_have_of_a_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(
        '[backends.echo]\nkind = "echo"\n[models.default]\ntargets = ["echo"]\n'
        'rate_limit = "1000/hour; 60 / minutes"\ntokens_a_day = 200_000\n'
    )
    assert cli.main(["check-config", "--file", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "    each caller may submit 60/minute, 1000/hour",
        "    each caller may use 200000 tokens a day",
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


def test_an_empty_file_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check-config", "--file", ""])
    assert "argument --file: it is empty; give the path of a file" in capsys.readouterr().err


def test_a_callable_is_found_in_the_folder_that_the_command_is_run_in(tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text("def answer(prompt):\n    yield prompt\n")
    # As a script does, it has the folder of the command on its path, not the one it is run in.
    command = [sys.executable, "-P", "-c", "import sys; from orchestrator.cli import main"]
    command[-1] += "; sys.exit(main(['check-config']))"
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=served_environment(ORCHESTRATOR_BACKEND="answers:answer"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "answers:answer: python: runs here." in done.stdout


def test_a_callable_that_cannot_be_had_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(
        '[backends.own]\nkind = "python"\ncallable = "json:no_such"\n'
        '[models.default]\ntargets = ["own"]\n'
    )
    assert cli.main(["check-config", "--file", str(path)]) == 1
    said = capsys.readouterr().err
    assert f"{path}: backends.own.callable: json:no_such: json has no no_such." in said

    monkeypatch.setenv("ORCHESTRATOR_BACKEND", "json:no_such")
    assert cli.main(["check-config"]) == 1
    said = capsys.readouterr().err
    assert "ORCHESTRATOR_BACKEND: json:no_such: json has no no_such." in said


def test_names_of_a_server_can_do_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(b'{"data": [{"id": "\\u001b[2J\\nbig\\ud800"}]}') as url:
        assert cli.main(["check-config", "--file", written(tmp_path, url)]) == 0
    said = capsys.readouterr().out
    assert r"it lists \x1b[2J\nbig\ud800." in said
    assert "\x1b" not in said


@contextmanager
def answering(body: bytes, version: bytes = b"HTTP/1.1") -> Iterator[str]:
    """A server that gives one answer; inside, its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(65536)
                head = version + b" 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                client.sendall(head + body)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        thread.join(10)


def test_what_speaks_something_else_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(b"", b"SSH-2.0-OpenSSH") as url:
        assert cli.main(["check-config", "--file", written(tmp_path, url)]) == 1
    said = capsys.readouterr().out
    assert "FAILS: it can't be reached (what is there does not speak HTTP)." in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocationParseError("a b"), "its host is no proper name"),
        (TimeoutError("timed out"), "no answer came in time"),
        (RemoteDisconnected("no answer"), "it closed the connection without an answer"),
        (DecodeError("gzip"), "the connection broke"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_reason_is_never_the_name_of_a_class(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("urllib3.PoolManager.request", fail)
    assert cli.main(["check-config", "--file", written(tmp_path, "http://127.0.0.1:9/v1")]) == 1
    assert f"it can't be reached ({said})" in capsys.readouterr().out


def test_the_key_is_never_shown(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(
        ["check-config", "--file", written(tmp_path, upstream.url, 'api_key_env = "KEY_OF_A"')]
    )
    assert KEY not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATOR_JWT_JWKS_URL", "https://10.0.0.1/keys"),
        ("ORCHESTRATOR_JWT_KEY_FILE", "nowhere.pem"),
    ],
)
def test_what_credentials_can_not_be_checked_with_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main(["check-config"]) == 1
    assert f"{variable}: {value}" in capsys.readouterr().err
