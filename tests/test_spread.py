"""The table of long tests names tests that there are."""

import pytest

from tests.served import ROOT
from tests.spread import CROWDS, LONG, UNDER_GEVENT, unit_of
from tests.test_under_gevent import SUITES


@pytest.mark.parametrize("name", [*CROWDS, *LONG])
def test_what_is_listed_as_long_exists(name: str) -> None:
    file, _, test = name.partition("[")[0].partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not test or f"\ndef {test}(" in text
    if name.startswith(UNDER_GEVENT):
        assert name.partition("[")[2].removesuffix("]") in SUITES


def test_a_file_stays_together_but_for_what_is_long() -> None:
    assert unit_of("tests/unit/test_a.py::TestB::test_c[x::y]") == "tests/unit/test_a.py"
    assert unit_of(f"{UNDER_GEVENT}[failover]") == f"{UNDER_GEVENT}[failover]"
    assert unit_of("tests/e2e/test_slow_clients.py::test_z") == "tests/e2e/test_slow_clients.py"
    assert unit_of(CROWDS[0]) == unit_of(f"{CROWDS[-1]}::test_any") == "crowds"
