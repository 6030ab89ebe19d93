"""What the clients of a chaos run did and saw, entry by entry: all that the oracle goes by."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One thing that happened to the request of ``marker``, at a monotonic time in seconds.

    - ``attempt``: a call to a web process and what came of it (``door``, ``outcome``).
    - ``accepted``: a submit was answered, with ``request_id``.
    - ``ended``: an end was seen at ``door``: its ``status``, and its ``text`` where one was given.
    - ``read``: a reader has read to the end: the ``text`` it put together from tokens.
    - ``broken``: what one client saw breaks a promise: its ``offence``, and what it was.
    - ``session``: the messages of a session, after the end of all.
    """

    kind: str
    marker: str
    at: float
    more: dict[str, Any] = field(default_factory=dict)


class Journal:
    """Collects entries from all clients, and writes each to a file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._file = path.open("w", encoding="utf-8")

    def note(self, kind: str, marker: str, **more: Any) -> None:
        """Add an entry, of now."""
        entry = Entry(kind, marker, time.monotonic(), more)
        with self._lock:
            self._entries.append(entry)
            self._file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    def of(self, kind: str) -> Iterator[Entry]:
        """Yield the entries of a kind, in order."""
        return (entry for entry in self._entries if entry.kind == kind)

    def close(self) -> None:
        """Write all that there is."""
        self._file.close()
