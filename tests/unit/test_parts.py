"""Processes that belong together, where whoever keeps them ends or is killed."""

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


ENDING = """
import os, sys, time
from orchestrator.parts import LOOK_S, Parts
parts = Parts(os.environ)
parts.listen()
parts.start("one", [sys.executable, "-c", sys.argv[1]])
while not parts.is_asked:
    time.sleep(LOOK_S)
parts.end(hurry_s=1.0, kill_s=15)
"""
SLOW = """
import signal, sys, time
asked_at = None
def stop(number, frame):
    global asked_at
    if asked_at is None:
        asked_at = time.monotonic()
        print("asked", flush=True)
    elif time.monotonic() - asked_at > 0.5:
        print("hurried", flush=True)
        sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def test_two_signals_in_a_moment_are_one_and_the_hurry_comes_in_its_time() -> None:
    """As two presses of Ctrl-C: whoever is asked takes the second for the first again."""
    keeper = subprocess.Popen(
        [sys.executable, "-c", ENDING, SLOW], stdout=subprocess.PIPE, text=True
    )
    assert keeper.stdout
    with keeper.stdout as said:
        for word in ("ready", "asked"):
            assert said.readline() == f"{word}\n"
            keeper.send_signal(signal.SIGTERM)
        assert said.readline() == "hurried\n"
        assert keeper.wait(20) == 0
