"""Every benchmark runs, in a form that takes seconds; what it measures then says nothing."""

import subprocess
import sys

import pytest

from tests.needs import needs
from tests.served import ROOT, environment

LONG_S = 120


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("submit_and_poll.py --pairs 1000 --rounds 1 --profile", "x a bare WSGI app (median)"),
        ("overhead.py --streams 1 --rounds 1", "tokens/s"),
        ("scale_out.py --alone --workers 1 --streams 2 --rounds 1", "tokens/s"),
        ("memory.py --stored 1000 --tenants", "bytes a request"),
    ],
)
def test_it_runs_and_says_what_it_has_measured(command: str, said: str) -> None:
    needs("redis-server")
    done = subprocess.run(
        [sys.executable, *f"benchmarks/{command}".split()],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
