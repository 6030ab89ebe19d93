"""Keys in a file: written whole or not at all, and read again when it changes."""

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from orchestrator.auth.file_lock import locked
from orchestrator.auth.keys import NOTE_EVERY_S, Key, read
from orchestrator.errors import ConfigError

logger = logging.getLogger("orchestrator")

LOOK_EVERY_S = 1.0
"""How often, at most, to look whether the file has changed."""
WRITE_PATIENCE_S = 10.0
NOTE_PATIENCE_S = 1.0
"""How long others may keep the lock of the file with keys, and of that with their uses."""


class KeyFile:
    """See keys.Keys. Any number of processes may read and write one file.

    When keys were used is kept in a file beside it, so that servers never write to the first.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._used_path = path.with_name(path.name + ".used")
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, Key] = {}
        self._version: tuple[int, ...] | None = None
        self._looked_at = float("-inf")
        self._uses: dict[str, float] = {}
        self._noted_at = float("-inf")
        self._noting: threading.Thread | None = None

    def check(self) -> None:
        """Raise ConfigError where the file can't be read."""
        try:
            # In this order: what is written in between is read again.
            stamp = self._stamp()
            self._keys, self._version = self._load(), stamp
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"ORCHESTRATOR_API_KEYS_FILE: {self._path} can't be read as keys ({_why(error)}). "
                "Make the first key with 'orchestrator keys create --tenant NAME'."
            ) from None

    def find(self, key_id: str) -> Key | None:
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            with self._lock:
                self._looked_at = now
                self._look()
        return self._keys.get(key_id)

    def all(self) -> Iterable[tuple[Key, float | None]]:
        used = self._read_json(self._used_path, {})
        keys = sorted(self._load().values(), key=lambda key: key.created_at)
        return [(key, used.get(key.id)) for key in keys]

    def add(self, key: Key) -> None:
        with locked(self._path, WRITE_PATIENCE_S):
            self._save([*self._load().values(), key])

    def revoke(self, key_id: str, at: float) -> bool:
        with locked(self._path, WRITE_PATIENCE_S):
            keys = self._load()
            if key_id not in keys:
                return False
            records = [key.as_json() for key in keys.values()]
            for record in records:
                if record["id"] == key_id and record["revoked_at"] is None:
                    record["revoked_at"] = at
            self._save(map(read, records))
        return True

    def note_use(self, key_id: str, at: float) -> None:
        self._uses[key_id] = at
        if self._noting is None:
            wait_s = max(0.0, self._noted_at + NOTE_EVERY_S - self._clock())
            self._noting = threading.Thread(target=self._note, args=(wait_s,), daemon=True)
            self._noting.start()

    def _note(self, wait_s: float) -> None:
        """Write all uses down together, a minute after the last time. No call waits for it."""
        time.sleep(wait_s)
        self._noted_at = self._clock()
        self._noting = None
        uses, self._uses = self._uses, {}
        try:
            with locked(self._used_path, NOTE_PATIENCE_S):
                used = self._read_json(self._used_path, {})
                used |= {key_id: max(at, used.get(key_id, 0.0)) for key_id, at in uses.items()}
                kept = {known: moment for known, moment in used.items() if known in self._keys}
                _replace(self._used_path, kept, is_precious=False)
        except TimeoutError as error:
            logger.warning("the use of %d keys is noted a minute later: %s", len(uses), error)
            for key_id, at in uses.items():
                self.note_use(key_id, max(at, self._uses.get(key_id, 0.0)))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("the use of %d keys is not noted: %s", len(uses), _why(error))

    def _look(self) -> None:
        """Read the file anew where it has changed; what can't be read leaves all as it was."""
        try:
            stamp = self._stamp()
            if stamp != self._version:
                self._keys, self._version = self._load(), stamp
        except (OSError, ValueError) as error:
            logger.error("%s can't be read, its last keys stay in force: %s", self._path, error)

    def _stamp(self) -> tuple[int, ...]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self) -> dict[str, Key]:
        record = self._read_json(self._path, {"keys": []})
        if not isinstance(record, dict) or not isinstance(record.get("keys"), list):
            raise ValueError('it has no list named "keys"')
        keys = {}
        for number, kept in enumerate(record["keys"], 1):
            try:
                key = read(kept)
            except ValueError as error:
                raise ValueError(f"key number {number} can't be read, {error}") from None
            keys[key.id] = key
        return keys

    def _save(self, keys: Iterable[Key]) -> None:
        _replace(self._path, {"keys": [key.as_json() for key in keys]})

    def _read_json(self, path: Path, default: Any) -> Any:
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return default
        except RecursionError:
            raise ValueError("it is nested too deep") from None


def _replace(path: Path, value: Any, *, is_precious: bool = True) -> None:
    """Write ``value`` to a file that only its owner may read, whole or not at all.

    What ``is_precious`` is safe even if the machine loses power in the next moment.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1)
            if is_precious:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
