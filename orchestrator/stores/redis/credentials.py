"""API keys and stream tokens in Redis, where all processes find them."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.auth.keys import NOTE_EVERY_S, Key, read
from orchestrator.auth.tickets import MOST_EACH, TTL_S
from orchestrator.errors import OrchestratorError
from orchestrator.stores.redis import scripts
from orchestrator.stores.redis.link import Link
from orchestrator.stores.redis.names import API_KEYS, API_KEYS_USED, TICKET

logger = logging.getLogger("orchestrator")

LOOK_EVERY_S = 10.0
"""How long a key that was read is used before it is read again."""
MOST_KNOWN = 10_000
"""How many keys a process remembers."""


class RedisKeys:
    """See auth.keys.Keys. To be made in the process that uses it. ``clock``: monotonic seconds."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = Link(url)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Key]] = {}
        self._noted: dict[str, float] = {}

    def find(self, key_id: str) -> Key | None:
        looked_at, known = self._known.get(key_id, (float("-inf"), None))
        now = self._clock()
        if now - looked_at < LOOK_EVERY_S:
            return known
        key = _read(self._link.command("HGET", API_KEYS, key_id))
        with self._lock:
            self._known.pop(key_id, None)
            # What is not there is asked for each time: a new key is good at once.
            if key:
                self._known[key_id] = (now, key)
                while len(self._known) > MOST_KNOWN:
                    del self._known[next(iter(self._known))]
        return key

    def all(self) -> Iterable[tuple[Key, float | None]]:
        used = self._link.hash(API_KEYS_USED)
        keys = [key for value in self._link.hash(API_KEYS).values() if (key := _read(value))]
        keys.sort(key=lambda key: key.created_at)
        return [(key, _moment(used.get(key.id.encode()))) for key in keys]

    def add(self, key: Key) -> None:
        self._save(key.as_json())

    def revoke(self, key_id: str, at: float) -> bool:
        key = _read(self._link.command("HGET", API_KEYS, key_id))
        if key is None:
            return False
        if key.revoked_at is None:
            self._save(key.as_json() | {"revoked_at": at})
        return True

    def note_use(self, key_id: str, at: float) -> None:
        now = self._clock()
        if now - self._noted.get(key_id, float("-inf")) < NOTE_EVERY_S:
            return
        with self._lock:
            if len(self._noted) >= MOST_KNOWN:
                self._noted.clear()
            self._noted[key_id] = now
        # Beside the call that uses it, which has no reason to wait.
        threading.Thread(target=self._note, args=(key_id, at), name="key-use", daemon=True).start()

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _note(self, key_id: str, at: float) -> None:
        try:
            self._link.command("HSET", API_KEYS_USED, key_id, repr(at))
        except OrchestratorError as error:
            logger.warning("the use of key %s is not noted: %s", key_id, error.message)

    def _save(self, record: dict[str, Any]) -> None:
        self._link.command("HSET", API_KEYS, record["id"], json.dumps(record))


class RedisTickets:
    """See auth.tickets.Tickets. To be made in the process that uses it."""

    def __init__(self, url: str) -> None:
        self._link = Link(url)

    def put(self, owner: str, digest: str, value: str) -> None:
        arguments = (owner, digest, value, TTL_S, MOST_EACH)
        self._link.call(scripts.PUT_TICKET, "", "", "", *arguments)

    def look(self, digest: str) -> str | None:
        value = self._link.command("GET", TICKET + digest)
        return value.decode() if value else None

    def take(self, digest: str) -> str | None:
        value = self._link.command("GETDEL", TICKET + digest)
        return value.decode() if value else None

    def close(self) -> None:
        """Close the connections."""
        self._link.close()


def _read(value: bytes | None) -> Key | None:
    try:
        return read(json.loads(value)) if value else None
    except ValueError as error:
        logger.error("an API key in Redis can't be read, and is left aside: %s", error)
        return None


def _moment(value: bytes | None) -> float | None:
    return None if value is None else float(value)
