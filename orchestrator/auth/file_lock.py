"""A lock of a file between processes, which a whole server can wait for without standing still."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 0.05


@contextlib.contextmanager
def locked(path: Path, patience_s: float) -> Iterator[None]:
    """Keep other writers of ``path`` out while inside. Raises TimeoutError, and other OSErrors.

    The lock is on a file of its own, for ``path`` itself is replaced.
    """
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + patience_s
    with lock.open("w") as file:
        while not _is_ours(file.fileno()):
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"another process has held {lock} for {patience_s:g} s; end it ('fuser {lock}' "
                    "shows which it is), or try again later"
                )
            time.sleep(LOOK_S)
        yield


def _is_ours(file: int) -> bool:
    """Try to take the lock. To wait in there would be to hold up all greenlets."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
