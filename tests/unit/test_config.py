"""Settings from the environment: defaults, values, and what a wrong one says."""

from dataclasses import fields

import pytest

from orchestrator.config import load
from orchestrator.errors import ConfigError
from orchestrator.settings import Settings
from orchestrator.variables import BACKEND, DEFAULT_BACKEND, FILE, IN_FILE, NEEDS, OF_BACKEND

SECRET = "sk-hush-0123456789"

VARIABLES = {item.name: item.metadata["variable"] for item in fields(Settings)}
SECRETS = [item for item in fields(Settings) if not item.repr]
WHOLE_NUMBERS = [VARIABLES[item.name] for item in fields(Settings) if type(item.default) is int]
SECONDS = [VARIABLES[item.name] for item in fields(Settings) if type(item.default) is float]

WRONG_WHOLE_NUMBERS = ["0", "-1", "1.5", "1e3", "many", "9" * 20, "9" * 5000, "nan"]
WRONG_SECONDS = ["-1", "soon", "nan", "inf", "-inf", "1e400", "5s", "99999999"]


def needed(variable: str) -> dict[str, str]:
    """What has to be set beside a variable, so that it counts."""
    if backend := OF_BACKEND.get(variable):
        return {BACKEND: backend}
    return dict.fromkeys(NEEDS.get(variable, ()), "redis://localhost")


def refusal(environ: dict[str, str]) -> str:
    """The sentence that ``environ`` is refused with."""
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return caught.value.message


def test_an_empty_environment_gives_every_default() -> None:
    assert load({}) == Settings()


def test_the_defaults_need_no_other_server_and_listen_on_this_machine_alone() -> None:
    settings = load({})
    assert (settings.backend, settings.host, settings.port) == ("echo", "127.0.0.1", 8080)
    assert settings.workers == 1


@pytest.mark.parametrize("variable", VARIABLES.values())
@pytest.mark.parametrize("empty", ["", "  ", "\t\n"])
def test_an_empty_variable_is_an_unset_one(variable: str, empty: str) -> None:
    assert load({variable: empty}) == Settings()


def test_blanks_around_a_value_do_not_count() -> None:
    assert load({"PORT": " 9000\n"}).port == 9000


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
@pytest.mark.parametrize("key", ["sk-1\r\nX: y", "sk-\u00e9", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_refused(variable: str, key: str) -> None:
    told = refusal({variable: key})
    assert variable in told
    assert "sk-" not in told


def test_a_misspelt_variable_is_refused_with_the_one_that_is_meant() -> None:
    assert "ORCHESTRATOR_BACKEND" in refusal({"ORCHESTRATOR_BAKCEND": "openai"})


@pytest.mark.parametrize(
    "meant", ["REDIS_URL", "WEB_CONCURRENCY", "PORT", "OPENAI_API_KEY", "OPENAI_BASE_URL"]
)
def test_a_name_of_the_ecosystem_with_our_prefix_is_refused(meant: str) -> None:
    told = refusal({f"ORCHESTRATOR_{meant}": "1"})
    assert told == f"ORCHESTRATOR_{meant} is no setting. Is {meant} meant?"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ORCHESTRATOR_API_KEYS", "ORCHESTRATOR_API_KEYS_FILE"),
        ("ORCHESTRATOR_API_KEY", "ORCHESTRATOR_API_KEYS_FILE"),
        ("ORCHESTRATOR_TLS_CERTIFICATE", "ORCHESTRATOR_TLS_CERT"),
        ("ORCHESTRATOR_CONFIG_FILE", "ORCHESTRATOR_CONFIG"),
        ("ORCHESTRATOR_REDIS", "REDIS_URL"),
        ("ORCHESTRATOR_backend", "ORCHESTRATOR_BACKEND"),
        ("orchestrator_backend", "ORCHESTRATOR_BACKEND"),
    ],
)
def test_a_name_that_begins_or_goes_on_like_a_setting_is_refused(given: str, meant: str) -> None:
    assert refusal({given: "x"}) == f"{given} is no setting. Is {meant} meant?"


def test_a_refusal_never_leads_to_another_one() -> None:
    told = refusal({"ORCHESTRATOR_REDISURL": "redis://localhost/0"})
    assert told == "ORCHESTRATOR_REDISURL is no setting. Is REDIS_URL meant?"


def test_what_a_platform_sets_for_a_service_of_this_name_is_ignored() -> None:
    host, port, address = "10.0.0.1", "8080", "tcp://10.0.0.1:8080"
    assert (
        load(
            {
                "ORCHESTRATOR_SERVICE_HOST": host,
                "ORCHESTRATOR_SERVICE_PORT": port,
                "ORCHESTRATOR_SERVICE_PORT_HTTP": port,
                "ORCHESTRATOR_PORT": address,
                "ORCHESTRATOR_PORT_8080_TCP": address,
                "ORCHESTRATOR_PORT_8080_TCP_ADDR": host,
                "ORCHESTRATOR_PORT_8080_TCP_PORT": port,
                "ORCHESTRATOR_PORT_8080_TCP_PROTO": "tcp",
            }
        )
        == Settings()
    )


def test_a_variable_of_someone_else_is_ignored() -> None:
    assert load({"ORCHESTRATOR_NO_SUCH_THING": "1", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize("variable", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", WRONG_WHOLE_NUMBERS)
def test_a_wrong_whole_number_is_refused_by_name(variable: str, value: str) -> None:
    message = refusal({variable: value, **needed(variable)})
    assert message.startswith(variable)
    assert "a whole number from" in message


@pytest.mark.parametrize("variable", SECONDS)
@pytest.mark.parametrize("value", WRONG_SECONDS)
def test_a_wrong_number_of_seconds_is_refused_by_name(variable: str, value: str) -> None:
    message = refusal({variable: value, **needed(variable)})
    assert message.startswith(variable)
    assert "a number of seconds from" in message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ORCHESTRATOR_BACKEND", "magic"),
        ("ORCHESTRATOR_BACKEND", "package.module:"),
        ("ORCHESTRATOR_BACKEND", ":callable"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("OPENAI_BASE_URL", "localhost:8000/v1"),
        ("OPENAI_BASE_URL", "ftp://example.com"),
        ("OPENAI_BASE_URL", "http://"),
        ("ANTHROPIC_BASE_URL", "api.anthropic.com"),
        ("OPENAI_BASE_URL", "http://[::1"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:99999"),
        ("OPENAI_BASE_URL", "http://127.0.0.1:port"),
        ("HF_ENDPOINT", "http://mirror.example.com"),
        ("OPENAI_BASE_URL", "http://a..b/v1"),
        ("OPENAI_BASE_URL", f"http://{'a' * 64}.example.com"),
        ("ORCHESTRATOR_CORS_ORIGINS", "*"),
        ("ORCHESTRATOR_CORS_ORIGINS", "app.example.com"),
        ("ORCHESTRATOR_CORS_ORIGINS", "https://app.example.com/page"),
        ("ORCHESTRATOR_CORS_ORIGINS", "https://a.example.com, null"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_shown(variable: str, value: str) -> None:
    message = refusal({variable: value})
    assert message.startswith(variable)
    assert value in message


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"WEB_CONCURRENCY": "2"}, "WEB_CONCURRENCY=1"),
        ({"ORCHESTRATOR_BACKEND": "openai"}, "ORCHESTRATOR_MODEL"),
        (
            {"ORCHESTRATOR_BACKEND": "anthropic", "ANTHROPIC_API_KEY": SECRET},
            "ORCHESTRATOR_MODEL",
        ),
        (
            {"ORCHESTRATOR_BACKEND": "anthropic", "ORCHESTRATOR_MODEL": "claude"},
            "ANTHROPIC_API_KEY",
        ),
        ({"ORCHESTRATOR_BACKEND": "engine"}, "ORCHESTRATOR_MODEL is not set"),
        ({"ORCHESTRATOR_MODEL": "m"}, "set ORCHESTRATOR_BACKEND to openai, anthropic or engine"),
        (
            {"ORCHESTRATOR_BACKEND": "echo", "ORCHESTRATOR_MODEL": "m"},
            "echo answers, which is no model",
        ),
        ({"ORCHESTRATOR_QUEUE_REDIS_URL": "redis://localhost/1"}, "counts only with REDIS_URL"),
        (
            {
                "ORCHESTRATOR_JWT_SECRET": SECRET * 2,
                "ORCHESTRATOR_JWT_JWKS_URL": "https://localhost",
            },
            "ORCHESTRATOR_JWT_SECRET and ORCHESTRATOR_JWT_JWKS_URL are both set",
        ),
        ({"ORCHESTRATOR_JWT_TENANT_CLAIM": "org"}, "counts only with ORCHESTRATOR_JWT_SECRET or"),
        ({"ORCHESTRATOR_JWT_ISSUER": "me"}, "counts only with ORCHESTRATOR_JWT_SECRET or"),
        ({"ORCHESTRATOR_LEASE_S": "5"}, "counts only with REDIS_URL"),
        (
            {"ORCHESTRATOR_BACKEND": "app:answer", "ORCHESTRATOR_ECHO_DELAY_S": "1"},
            "counts only with ORCHESTRATOR_BACKEND=echo, but app:answer answers",
        ),
        (
            {"ORCHESTRATOR_ENGINE_SLOTS": "2"},
            "counts only with ORCHESTRATOR_BACKEND=engine, but echo answers",
        ),
        ({"ORCHESTRATOR_TLS_CERT": "cert.pem"}, "ORCHESTRATOR_TLS_KEY"),
        ({"ORCHESTRATOR_TLS_KEY": "key.pem"}, "ORCHESTRATOR_TLS_CERT"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(environ: dict[str, str], named: str) -> None:
    assert named in refusal(environ)


def test_what_is_looked_at_together_are_settings() -> None:
    assert {*NEEDS, *(name for others in NEEDS.values() for name in others)} <= set(
        VARIABLES.values()
    )
    assert {FILE, *IN_FILE} <= set(VARIABLES.values())
    assert Settings().backend == DEFAULT_BACKEND


def test_what_is_there_for_other_programs_is_no_reason_to_refuse() -> None:
    settings = load({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": "http://localhost/v1"})
    assert settings.backend == "echo"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8000/v1", "it does not begin with http:// or https://"),
        ("http:///v1", "it names no host"),
        ("http://[::1", "what is in its brackets is no IPv6 address"),
        ("http://127.0.0.1:0", "its port is no number from 1 to 65535"),
        ("http://127.0.0.1:port", "its port is no number from 1 to 65535"),
        ("http://user@example.com", "it has credentials"),
        ("http://example.com/#v1", "it has a fragment"),
        ("http://exam ple.com", "it has blanks or control characters"),
        ("http://a..b", "its host has a part that is empty, too long, or can't be in a name"),
    ],
)
def test_an_address_is_refused_with_what_is_wrong_with_it(url: str, why: str) -> None:
    assert refusal({"OPENAI_BASE_URL": url}).endswith(f"without credentials ({why}).")


def test_a_name_with_control_characters_is_refused() -> None:
    told = refusal({"ORCHESTRATOR_BACKEND": "openai", "ORCHESTRATOR_MODEL": "m\x1b[2J"})
    assert told == r"ORCHESTRATOR_MODEL: 'm\x1b[2J' is not a text without control characters."


@pytest.mark.parametrize("backend", ["echo", "package.module:callable"])
def test_the_backends_that_need_no_model_name_are_taken_without_one(backend: str) -> None:
    assert load({"ORCHESTRATOR_BACKEND": backend}).backend == backend


def test_anthropic_needs_a_model_and_a_key() -> None:
    settings = load(
        {
            "ORCHESTRATOR_BACKEND": "anthropic",
            "ORCHESTRATOR_MODEL": "claude",
            "ANTHROPIC_API_KEY": SECRET,
        }
    )
    assert settings.backend == "anthropic"
    assert settings.anthropic_base_url == "https://api.anthropic.com"


def test_more_than_one_web_process_needs_redis() -> None:
    assert load({"WEB_CONCURRENCY": "2", "REDIS_URL": "redis://localhost"}).workers == 2


@pytest.mark.parametrize(
    ("address", "queue"),
    [
        ("redis://localhost", "redis://localhost/1"),
        ("redis://localhost:6379/0", "redis://localhost:6379/1"),
        (
            "rediss://user:secret@redis.example.com:6380/7?ssl_cert_reqs=none",
            "rediss://user:secret@redis.example.com:6380/8?ssl_cert_reqs=none",
        ),
    ],
)
def test_messages_to_workers_have_the_next_database(address: str, queue: str) -> None:
    assert load({"REDIS_URL": address}).queue_url == queue
    one = {"REDIS_URL": address, "ORCHESTRATOR_QUEUE_REDIS_URL": address}
    assert load(one).queue_url == address


@pytest.mark.parametrize(
    "address",
    [
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://h/one",
        "redis://h/-1",
        "redis://h :6379",
        "redis://h:x",
        "redis://h/0?db=3",
        "redis://h/0?decode_responses=true",
        "rediss://h/0?socket_timeout=60",
        "redis://h/0?ssl_cert_reqs=none",
        "rediss://h/0?ssl_cert_reqs=never",
        "redis://:a#b@h/0",
    ],
)
def test_an_address_that_is_none_of_redis_is_refused(address: str) -> None:
    assert "redis://:password@host:6379/0" in refusal({"REDIS_URL": address})


def test_the_scheme_of_redis_may_be_in_capitals() -> None:
    assert load({"REDIS_URL": "REDIS://localhost/"}).redis_url == "redis://localhost/"


def test_a_base_url_loses_its_last_slash() -> None:
    settings = load({"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1/"})
    assert settings.openai_base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "HF_ENDPOINT"])
@pytest.mark.parametrize("url", [f"https://user:{SECRET}@example.com/v1", f"user:{SECRET}@host"])
def test_an_address_with_credentials_is_refused_and_they_are_not_shown(
    variable: str, url: str
) -> None:
    message = refusal({variable: url})
    assert message.startswith(variable)
    assert SECRET not in message


@pytest.mark.parametrize("backend", ["openai", "anthropic"])
def test_a_refusal_shows_nothing_of_the_query_of_an_address(backend: str) -> None:
    variable = f"{backend.upper()}_BASE_URL"
    for more in ({}, {"ORCHESTRATOR_MODEL": "m"} if backend == "anthropic" else {}):
        url = f"https://example.com/v1?key={SECRET}"
        message = refusal({"ORCHESTRATOR_BACKEND": backend, variable: url, **more})
        assert "https://example.com/v1" in message
        assert SECRET not in message


def test_a_cache_home_that_is_no_whole_path_is_ignored() -> None:
    assert load({"XDG_CACHE_HOME": "cache"}).cache_home == load({}).cache_home


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_hub_on_this_machine_needs_no_tls(host: str) -> None:
    assert load({"HF_ENDPOINT": f"http://{host}:8000/"}).hub_url == f"http://{host}:8000"


def test_origins_are_a_list_without_blanks_and_last_slashes() -> None:
    settings = load({"ORCHESTRATOR_CORS_ORIGINS": "https://a.example.com/, http://localhost:3000,"})
    assert settings.cors_origins == ("https://a.example.com", "http://localhost:3000")


def test_there_are_secrets_to_keep() -> None:
    assert {item.metadata["variable"] for item in SECRETS} >= {
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
    }


@pytest.mark.parametrize("item", SECRETS, ids=lambda item: item.metadata["variable"])
def test_a_secret_is_read_but_never_shown(item) -> None:
    is_address = item.metadata["variable"].endswith("REDIS_URL")
    value = f"redis://:{SECRET}@localhost:6379/0" if is_address else SECRET * 4
    variable = item.metadata["variable"]
    settings = load({variable: value, **needed(variable)})
    assert getattr(settings, item.name) == value
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


@pytest.mark.parametrize("item", SECRETS, ids=lambda item: item.metadata["variable"])
@pytest.mark.parametrize(
    "fault",
    [{"PORT": "x"}, {"WEB_CONCURRENCY": "2"}, {"ORCHESTRATOR_BACKEND": "openai"}],
)
def test_no_refusal_shows_a_secret(item, fault: dict[str, str]) -> None:
    assert SECRET not in refusal({item.metadata["variable"]: SECRET, **fault})


def test_every_setting_says_its_variable_its_rule_and_its_meaning() -> None:
    variables = list(VARIABLES.values())
    assert len(set(variables)) == len(variables)
    for item in fields(Settings):
        assert item.metadata["parse"].__doc__, item.name
        assert item.metadata["meaning"].endswith("."), item.name


def test_the_process_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    assert load().port == 9000


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("/srv/models/mine.gguf", "mine.gguf"),
        ("hf:owner/repo/file.gguf", "file.gguf"),
    ],
)
def test_clients_see_the_name_of_a_local_model_and_no_folder(model: str, name: str) -> None:
    settings = load({"ORCHESTRATOR_BACKEND": "engine", "ORCHESTRATOR_MODEL": model})
    assert settings.model_name == name
