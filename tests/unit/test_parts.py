"""Processes that belong together, where the one that keeps them is killed."""

import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.client import until
from tests.processes import is_running

KEEPER = """
import os, sys, time
from orchestrator.parts import Parts
parts = Parts(os.environ)
parts.start("one", [sys.executable, "-c", "import time; time.sleep(600)"])
print(parts.pids["one"], flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells of a parent's end.")
def test_what_is_kept_ends_with_whoever_keeps_it() -> None:
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout
    with keeper.stdout:
        kept = int(keeper.stdout.readline())
    assert is_running(kept)
    os.kill(keeper.pid, signal.SIGKILL)
    keeper.wait()
    until(lambda: not is_running(kept))
