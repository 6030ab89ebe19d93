"""Watches a child that serves: one that doesn't answer any more, or doesn't get on, is stuck."""

import json
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

EVERY_S = 3.0
"""How often the child is looked at."""

# llama.cpp answers these looks from threads of its own, also while it reads a long prompt.
_PATIENCE_S = 4.0
_MOST_MISSES = 3
# Ten minutes without a token or a step of a prompt: the slowest model does better. Looks are
# counted, not seconds, so that a pause of the whole machine is no reason.
_MOST_STILL = 200
_ANSWER_BYTES = 4 * 1024 * 1024


class Watch:
    """Looks at the child's slots at ``url``, the root of its address."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/slots"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._misses = 0
        self._still = 0
        self._slots: list[dict[str, Any]] = []

    @property
    def room(self) -> int | None:
        """The tokens that a slot has room for, once the child has said so."""
        room = self._slots[0].get("n_ctx") if self._slots else None
        return room if isinstance(room, int) else None

    def look(self) -> str | None:
        """Return why the child is taken for stuck, or None. Takes eight seconds at most."""
        try:
            slots = self._ask()
        except (HTTPError, OSError, ValueError):
            self._misses += 1
            return "does not answer any more" if self._misses >= _MOST_MISSES else None
        self._misses = 0
        works = any(slot.get("is_processing") for slot in slots)
        self._still = self._still + 1 if works and slots == self._slots else 0
        self._slots = slots
        return "does not get on with its work" if self._still >= _MOST_STILL else None

    def _ask(self) -> list[dict[str, Any]]:
        with urllib3.PoolManager(timeout=_PATIENCE_S, retries=False) as pool:
            answer = pool.request("GET", self._url, headers=self._headers, preload_content=False)
            try:
                said = json.loads(answer.read(_ANSWER_BYTES))
            finally:
                answer.close()
        # Whatever else it says: it answers.
        return [slot for slot in said if isinstance(slot, dict)] if isinstance(said, list) else []
