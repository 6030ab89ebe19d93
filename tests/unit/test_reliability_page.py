"""docs/reliability.md says of all that is kept in Redis what it is, and for how long."""

import re

import pytest

from orchestrator.dispatch.dramatiq.broker import WAKE_CHANNEL
from orchestrator.stores.redis.names import NAMES
from tests.served import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `o:")]
SHOWN = {name for row in ROWS for name in re.findall(r"`(o:[^`{*]+)", row.split("|")[1])}


@pytest.mark.parametrize("name", [*NAMES.values(), WAKE_CHANNEL])
def test_the_page_says_what_is_kept_under_every_name(name: str) -> None:
    assert any(name == shown or (shown.endswith("-") and name.startswith(shown)) for shown in SHOWN)


def test_the_page_shows_no_name_that_there_is_not() -> None:
    known = {name.rstrip(":") for name in (*NAMES.values(), WAKE_CHANNEL)}
    assert {name.rstrip(":-") for name in SHOWN} - known <= {"o:cache"}
