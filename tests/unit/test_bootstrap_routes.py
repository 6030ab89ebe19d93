"""What becomes of settings: how many requests run at once."""

from pathlib import Path

import pytest

from orchestrator.bootstrap.routes import Routes
from orchestrator.config import load
from orchestrator.routing.cache import Cached
from orchestrator.routing.key import key_of
from tests.fakes.asking import a_request
from tests.needs import needs_module

SERVER = '[backends.a]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
BIG = '[models.default]\ntargets = ["a/big"]\ncache_ttl_s = 60\n'
ENGINE = '[backends.local]\nkind = "engine"\nmax_concurrency = 3\n'
ECHO = '[backends.echo]\nkind = "echo"\nmax_concurrency = 3\n'
LOCAL = '[models.default]\ntargets = ["local/demo"]\n'


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (ENGINE + LOCAL, 3),
        (ENGINE + LOCAL + "coalesce = true", None),
        (ENGINE + ECHO + LOCAL, None),
        (ECHO + '[models.default]\ntargets = ["echo"]', None),
    ],
    ids=["an engine alone", "sharing calls", "beside another", "another alone"],
)
def test_no_more_requests_run_than_an_engine_alone_has_slots(
    tmp_path: Path, text: str, most: int | None
) -> None:
    needs_module("xllamacpp")
    path = tmp_path / "routes.toml"
    path.write_text(text)
    assert Routes(load({"ORCHESTRATOR_CONFIG": str(path)})).most_at_once == most


def test_an_engine_of_the_environment_has_the_slots_of_its_setting() -> None:
    needs_module("xllamacpp")
    environ = {"ORCHESTRATOR_BACKEND": "engine", "ORCHESTRATOR_MODEL": "demo"}
    assert Routes(load(environ)).most_at_once == 4
    assert Routes(load(environ | {"ORCHESTRATOR_ENGINE_SLOTS": "2"})).most_at_once == 2


@pytest.mark.parametrize(
    "change",
    [
        (":9/", ":10/"),
        ('"openai"', '"anthropic"\napi_key_env = "KEY"'),
        ('"a/big"', '"a/bigger"'),
        ("[models.default]", "[models.other]"),
        ('"a/big"', '"a/big", "a/small"'),
    ],
    ids=["another server", "another kind", "another name there", "another name", "one more"],
)
def test_a_changed_file_finds_no_answers_of_an_earlier_one(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    before, again, after = (
        identities(tmp_path, text)
        for text in (SERVER + BIG, SERVER + BIG, (SERVER + BIG).replace(*change))
    )
    assert before == again
    assert before != after


def test_names_with_blanks_are_not_mistaken_for_several(tmp_path: Path) -> None:
    text = SERVER + "[models.default]\ntargets = [{}]\ncache_ttl_s = 60\n"
    several = identities(tmp_path, text.format('"a/x", "a/y"'))
    assert several != identities(tmp_path, text.format('"a/x a/y"'))


def identities(folder: Path, text: str) -> bytes:
    """The key that one question has by the routes of a file."""
    path = folder / "routes.toml"
    path.write_text(text)
    routes = Routes(load({"ORCHESTRATOR_CONFIG": str(path), "KEY": "k"}))
    (route,) = routes.of.values()
    assert isinstance(route, Cached)
    return key_of(route._identity, a_request(), [])
