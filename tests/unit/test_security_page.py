"""docs/security.md names tests for what it says: each of them is there."""

import ast
import re
from functools import cache

import pytest

from tests.served import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_the_page_names_is_there(path: str, name: str) -> None:
    assert name in names_in(path)


def test_every_threat_and_every_bound_has_its_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
    without = [row for row in rows if "::test_" not in row]
    assert without == [
        "| surface | threat | control | test |",
        "| input | bound | test |",
    ]
    assert len(rows) > 40


def test_the_page_says_no_setting_that_there_is_not() -> None:
    settings = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name in re.findall(r"ORCHESTRATOR_\w+", PAGE):
        assert f"`{name}`" in settings
