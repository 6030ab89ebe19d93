"""The processes that came of one."""

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children of a process; none where it is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def family(pid: int) -> list[int]:
    """Return all that came of a process, without it."""
    return [one for child in children(pid) for one in (child, *family(child))]


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
