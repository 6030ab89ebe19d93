"""What becomes of settings: how many requests run at once."""

from pathlib import Path

import pytest

from orchestrator.bootstrap import Routes
from orchestrator.config import load
from tests.needs import needs_module

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
