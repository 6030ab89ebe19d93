"""Whether a process gets on, by what the kernel says of it; here a file says it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.engine import stillness
from orchestrator.backends.engine.stillness import Stillness

PID = 7
MOST = stillness._MOST_STILL

Saying = Callable[..., None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saying:
    """A function that has the kernel say what state the process is in and what it did so far."""
    monkeypatch.setattr(stillness, "_PROC", tmp_path)
    (tmp_path / str(PID)).mkdir()

    def write(state: str = "R", **work: int) -> None:
        numbers = {name: work.get(name, 0) for name in ("minflt", "majflt", "utime", "stime")}
        fields = [state, "1", "7", "7", "0", "-1", "0"]
        fields += [str(numbers["minflt"]), "0", str(numbers["majflt"]), "0"]
        fields += [str(numbers["utime"]), str(numbers["stime"]), "0", "0"]
        (tmp_path / str(PID) / "stat").write_text(f"{PID} (a (b) c) {' '.join(fields)}")

    return write


@pytest.mark.parametrize("what", ["minflt", "majflt", "utime", "stime"])
def test_one_that_gets_on_now_and_then_is_never_still(say: Saying, what: str) -> None:
    process = Stillness(PID)
    for step in range(5):
        say(**{what: step})
        assert [process.look() for _ in range(MOST)] == [None] * MOST


@pytest.mark.parametrize(
    ("state", "did"),
    [("S", "did nothing"), ("T", "was stopped"), ("D", "got no answer from a disk")],
)
def test_one_that_does_nothing_for_long_is_and_says_why(say: Saying, state: str, did: str) -> None:
    process = Stillness(PID)
    say(state, utime=5)
    assert [process.look() for _ in range(MOST)] == [None] * MOST
    said = process.look()
    assert said
    assert said.startswith(did)
    assert said.endswith("for 120 s")


def test_where_the_kernel_says_nothing_nobody_is_still(say: Saying) -> None:
    process = Stillness(PID)
    assert [process.look() for _ in range(2 * MOST)] == [None] * 2 * MOST
