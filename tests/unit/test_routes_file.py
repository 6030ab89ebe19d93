"""The TOML file: what it may say, and what a wrong one is told."""

from pathlib import Path

import pytest

from orchestrator.config import load
from orchestrator.errors import ConfigError
from orchestrator.routes_file import RoutesFile, TargetName, read
from orchestrator.variables import IN_FILE

BACKENDS = """
[backends.primary]
kind = "openai"
base_url = "http://127.0.0.1:8000/v1/"
api_key_env = "PRIMARY_KEY"
max_concurrency = 256

[backends.own]
kind = "python"
callable = "package.module:answer"

[backends.echo]
kind = "echo"
"""
WHOLE = (
    BACKENDS
    + """
[models.small]
targets = ["primary/org/small"]

[models.default]
targets = ["primary/big", "own", "echo"]
retries = 1
retry_after_max_s = 2
connect_timeout_s = 1
first_token_timeout_s = 2.5
idle_timeout_s = 3
timeout_s = 4
cache_ttl_s = 60
coalesce = true
"""
)


def written(folder: Path, text: str) -> str:
    path = folder / "routes.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def read_text(folder: Path, text: str) -> RoutesFile:
    return read(written(folder, text))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_text(folder, text)
    path = str(folder / "routes.toml")
    assert caught.value.message.startswith(path)
    return caught.value.message.removeprefix(path)


def test_a_whole_file_is_read_and_the_default_model_comes_first(tmp_path: Path) -> None:
    routes = read_text(tmp_path, WHOLE)
    assert list(routes.models) == ["default", "small"]
    model = routes.models["default"]
    assert [str(target) for target in model.targets] == ["primary/big", "own", "echo"]
    assert (model.retries, model.retry_after_max_s) == (1, 2)
    assert (model.connect_timeout_s, model.first_token_timeout_s) == (1, 2.5)
    assert (model.idle_timeout_s, model.timeout_s) == (3, 4)
    assert (model.cache_ttl_s, model.coalesce) == (60, True)
    assert (routes.models["small"].cache_ttl_s, routes.models["small"].coalesce) == (0, False)
    assert routes.backends["primary"].base_url == "http://127.0.0.1:8000/v1"
    assert routes.backends["primary"].max_concurrency == 256


def test_the_query_of_an_address_is_left_as_it_is(tmp_path: Path) -> None:
    text = WHOLE.replace("8000/v1/", "8000/v1/?path=a/")
    assert read_text(tmp_path, text).backends["primary"].base_url == (
        "http://127.0.0.1:8000/v1?path=a/"
    )


def test_an_upstream_model_may_have_slashes(tmp_path: Path) -> None:
    routes = read_text(tmp_path, WHOLE)
    assert routes.models["small"].targets == (TargetName("primary", "org/small"),)
    assert routes.models["small"].timeout_s is None


def test_one_model_is_the_default_whatever_its_name(tmp_path: Path) -> None:
    routes = read_text(tmp_path, BACKENDS + '[models.only]\ntargets = ["echo"]')
    assert list(routes.models) == ["only"]


def test_anthropic_has_an_address_of_its_own_and_needs_a_key(tmp_path: Path) -> None:
    table = '[backends.a]\nkind = "anthropic"\n'
    model = '[models.only]\ntargets = ["a/claude"]'
    routes = read_text(tmp_path, f'{table}api_key_env = "KEY"\n{model}')
    assert routes.backends["a"].base_url == "https://api.anthropic.com"
    assert "needs the key 'api_key_env'" in refusal(tmp_path, table + model)


ENGINE = '[backends.local]\nkind = "engine"\n'


@pytest.mark.parametrize(
    "model", ["small", "demo", "hf:owner/repo/part/file.gguf", "/srv/models/a.gguf", "./a.gguf"]
)
def test_a_local_model_is_all_that_follows_the_first_slash(tmp_path: Path, model: str) -> None:
    routes = read_text(tmp_path, f'{ENGINE}[models.only]\ntargets = ["local/{model}"]')
    assert routes.models["only"].targets == (TargetName("local", model),)


def test_an_engine_has_room_of_its_own(tmp_path: Path) -> None:
    model = '[models.only]\ntargets = ["local/demo"]'
    usual = read_text(tmp_path, ENGINE + model).backends["local"]
    assert (usual.max_concurrency, usual.context) == (4, 4096)
    text = f"{ENGINE}max_concurrency = 2\ncontext = 8192\n{model}"
    given = read_text(tmp_path, text).backends["local"]
    assert (given.max_concurrency, given.context) == (2, 8192)
    assert "1 to 256" in refusal(tmp_path, text.replace("= 2", "= 257"))
    assert "128 to 1048576" in refusal(tmp_path, text.replace("8192", "1"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("primary/big", "primry/big"), ["models.default.targets[0]", "there are: primary, own"]),
        (('"primary/big"', "7"), ["models.default.targets[0]", "backend/upstream-model"]),
        (('"primary/big"', '"primary"'), ["models.default.targets[0]", "primary/upstream-model"]),
        (('"own"', '"own/x"'), ["models.default.targets[1]", "'own'"]),
        (('"own"', '"own/ "'), ["models.default.targets[1]", "'own'"]),
        (("primary/big", "primary/ "), ["models.default.targets[0]", "primary/upstream-model"]),
        (("primary/big", "primary/ big"), ["models.default.targets[0]", "primary/upstream-model"]),
        (('"own"', '"own", ' * 9 + '"own"'), ["models.default.targets: [", "of 1 to 10 "]),
        (('"own"', '"primary/big"'), ["models.default.targets[1]", "already"]),
        (("retries = 1", "retrys = 1"), ["models.default.retrys", "did you mean 'retries'?"]),
        (("retries = 1", "retries = true"), ["models.default.retries", "True", "0 to 9"]),
        (("retries = 1", "retries = 10"), ["models.default.retries", "0 to 9"]),
        (("timeout_s = 4", "timeout_s = nan"), ["models.default.timeout_s", "0.01 to 3600"]),
        (("timeout_s = 4", 'timeout_s = "4"'), ["models.default.timeout_s", "'4'"]),
        (("cache_ttl_s = 60", "cache_ttl_s = -1"), ["models.default.cache_ttl_s", "0 to 1000000"]),
        (("coalesce = true", "coalesce = 1"), ["models.default.coalesce", "true or false"]),
        (('kind = "openai"', 'kind = "openia"'), ["backends.primary.kind", "openai, "]),
        (('kind = "openai"', ""), ["backends.primary.kind", "missing"]),
        (("base_url", "base_ulr"), ["backends.primary.base_ulr", "'base_url'"]),
        (("http://127.0.0.1:8000/v1/", "127.0.0.1"), ["backends.primary.base_url", "http://"]),
        (("http://127.0.0.1:8000/v1/", "http://[::1"), ["backends.primary.base_url"]),
        (("127.0.0.1:8000", "127.0.0.1:99999"), ["backends.primary.base_url", ":99999"]),
        (("127.0.0.1:8000", "a..b"), ["base_url: 'http://a..b/v1/'", "(its host has a part"]),
        (("primary/big", r"primary/\u001b[2J"), ["targets[0]: 'primary/\\x1b[2J'", "control"]),
        (("127.0.0.1:8000", "127.0.0.1:abc"), ["backends.primary.base_url", ":abc"]),
        (("127.0.0.1:8000/v1/", "u:p@host/"), ["base_url: 'http://...@host/'", "credentials"]),
        (("timeout_s = 4", f"timeout_s = 1{'0' * 400}"), ["models.default.timeout_s", "0.01 to"]),
        (("timeout_s = 4", f"timeout_s = 1{'0' * 5000}"), ["not TOML", "digits"]),
        (("timeout_s = 4", f"timeout_s = 0x1{'0' * 5000}"), ["timeout_s", "too many digits"]),
        (("timeout_s = 4", f"timeout_s = {'[' * 5000}"), ["nested too deeply"]),
        (('"PRIMARY_KEY"', "5"), ["backends.primary.api_key_env", "environment variable"]),
        (("256", "0"), ["backends.primary.max_concurrency", "1 to 10000"]),
        (("callable", "base_url"), ["backends.own.base_url", "no such key"]),
        (("callable", "context"), ["backends.own.context", "no such key"]),
        (('callable = "package.module:answer"', ""), ["backends.own", "'callable'"]),
        (("package.module:answer", "package.module"), ["backends.own.callable"]),
        (("[models.default]", "[models.other]"), ["[models.default]", "small, other"]),
        (("[models.default]", '[models."a/b"]'), ["models", "'a/b'"]),
        (("[models.default]", '[models."a\u202eb"]'), ["models: 'a\\u202eb'", "not shown"]),
        (("[models.default]", "[model.default]"), ["model", "did you mean 'models'?"]),
        (("[backends.primary]", "[backends.primary"), ["not TOML", "line 2"]),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_fault_is_told_by_its_key_and_with_what_is_allowed(
    tmp_path: Path, change: tuple[str, str], told: list[str]
) -> None:
    message = refusal(tmp_path, WHOLE.replace(*change, 1))
    for words in told:
        assert words in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "backends: there must be"),
        ("backends = 1", "backends: there must be"),
        (BACKENDS, "models: there must be"),
        ("[backends]\nprimary = 1", "backends.primary: it must be a table"),
        (BACKENDS + "[models.default]", "models.default.targets: it is missing"),
        (BACKENDS + "[models.default]\ntargets = []", "models.default.targets: []"),
    ],
)
def test_what_is_not_there_is_asked_for(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("nowhere.toml", "binary.toml", ""):
        with pytest.raises(ConfigError, match=str(tmp_path / name)):
            read(str(tmp_path / name))


def test_keys_come_from_the_environment_and_are_never_shown(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    settings = load({"ORCHESTRATOR_CONFIG": path, "PRIMARY_KEY": "sk-hush"})
    assert settings.routes
    assert settings.routes.backends["primary"].api_key == "sk-hush"
    assert "sk-hush" not in repr(settings)


@pytest.mark.parametrize("key", ["sk-proj-secret", "gsk_secret"])
def test_a_key_in_the_place_of_its_variable_is_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"ORCHESTRATOR_CONFIG": written(tmp_path, WHOLE.replace("PRIMARY_KEY", key))})

    assert "backends.primary.api_key_env" in caught.value.message
    assert key not in caught.value.message


def test_a_key_that_the_environment_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backends\.primary\.api_key_env: .* no PRIMARY_KEY"):
        load({"ORCHESTRATOR_CONFIG": written(tmp_path, WHOLE)})


@pytest.mark.parametrize("key", ["sk-1\r\nX: y", "sk-\u00e9", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_named_and_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"ORCHESTRATOR_CONFIG": written(tmp_path, WHOLE), "PRIMARY_KEY": key})
    assert "backends.primary.api_key_env: PRIMARY_KEY" in caught.value.message
    assert "sk-" not in caught.value.message


def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.toml"):
        load({"ORCHESTRATOR_CONFIG": str(tmp_path / "nowhere.toml")})


@pytest.mark.parametrize("other", IN_FILE)
def test_a_file_and_a_backend_of_the_environment_exclude_each_other(
    tmp_path: Path, other: str
) -> None:
    path = written(tmp_path, WHOLE)
    shared = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost/v1"}
    environ = {"PRIMARY_KEY": "k", other: "openai", **shared}
    with pytest.raises(ConfigError, match=f"ORCHESTRATOR_CONFIG and {other} are both set"):
        load({"ORCHESTRATOR_CONFIG": path, **environ})
    assert load(environ, routes=path).routes, "one that is asked for is what counts"


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_text(tmp_path, "\ufeff" + WHOLE).models == read_text(tmp_path, WHOLE).models
