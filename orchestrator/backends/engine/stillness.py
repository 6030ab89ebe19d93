"""Tells whether a process that reports no progress does anything at all."""

from pathlib import Path

LOOK_S = 3.0
"""How often it is looked at."""

# Two minutes, after which Linux itself complains of a process that waits for a disk. Looks are
# counted, not seconds, so that a pause of the whole machine is no reason.
_MOST_STILL = 40

_PROC = Path("/proc")

# Of /proc/PID/stat, behind the name: the state, then the pages that were fetched (minflt, majflt)
# and the time on a processor (utime, stime), which all threads share.
_STATE = 0
_WORK = (7, 9, 11, 12)

_WHY = {
    "T": "was stopped",
    "t": "was stopped",
    "D": "got no answer from a disk or file system",
}


class Stillness:
    """Looks at what the kernel says of a process; without /proc it never says that one is still.

    A slow disk, a busy machine or a large model don't count as still: each page read is progress.
    """

    def __init__(self, pid: int) -> None:
        self._path = _PROC / str(pid) / "stat"
        self._work: list[str] = []
        self._still = 0

    def look(self) -> str | None:
        """Return what the process did instead of getting on, once it was still for too long."""
        try:
            said = self._path.read_text("latin-1")
        except OSError:
            return None
        # Its name is in brackets, and may have any characters.
        numbers = said.rpartition(")")[2].split()
        work = [numbers[place] for place in _WORK]
        self._still = self._still + 1 if work == self._work else 0
        self._work = work
        if self._still < _MOST_STILL:
            return None
        why = _WHY.get(numbers[_STATE], "did nothing")
        return f"{why} for {_MOST_STILL * LOOK_S:g} s"
