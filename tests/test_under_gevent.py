"""The tests without a server of their own once more, patched by gevent as the server is."""

import subprocess
import sys

import pytest

from tests.commands import environment
from tests.served import ROOT

LONGEST = "tests/integration/test_failover.py"


def _matching(*names: str) -> list[str]:
    folder = ROOT / "tests" / "integration"
    return sorted(str(path.relative_to(ROOT)) for name in names for path in folder.glob(name))


REDIS = _matching("test_redis_*.py", "test_dramatiq.py")
BACKENDS = _matching("test_*_backend.py")
# Each begins with a second of imports, so they are few, and of about one length.
SUITES = {
    "unit and contract": ["tests/unit", "tests/contract"],
    "failover": [LONGEST],
    "redis": REDIS,
    "backends": BACKENDS,
    "integration": [
        "tests/integration",
        *(f"--ignore={path}" for path in (LONGEST, *REDIS, *BACKENDS)),
    ],
}
SUITE_S = 280
"""Less than pytest waits for one test (pyproject.toml), to end with what the suite has said."""


@pytest.mark.parametrize("suite", list(SUITES))
def test_the_suite_passes_again_under_gevent(suite: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *SUITES[suite]],
        cwd=ROOT,
        env=environment(PYTEST_ADDOPTS="-q -p no:cacheprovider"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SUITE_S,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
