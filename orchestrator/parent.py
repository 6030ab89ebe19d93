"""How a process ends with the one that has started it, even where that is killed."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(by: signal.Signals) -> None:
    """Have the kernel send this process the signal ``by`` once its parent is gone.

    On Linux alone. To be called by the process itself, or between its fork and its exec.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
