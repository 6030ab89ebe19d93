"""The keys of an issuer of tokens (JWKS, RFC 7517): fetched, kept, and fetched again in time."""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import jwt

from orchestrator.auth.tokens import is_weak
from orchestrator.errors import ConfigError, PipelineUnavailable
from orchestrator.net.addresses import Rule, is_public, literal
from orchestrator.net.fetch import FetchFailed, fetch
from orchestrator.urls import is_private, without_secrets

logger = logging.getLogger("orchestrator")

KEEP_S = 300.0
"""How long keys are used before they are fetched again."""
LOOK_AT_LEAST_S = 2 * KEEP_S
"""How long they are still used while that goes on in the background."""
AGAIN_S = 15.0
"""The shortest time between two fetches, so that made-up key ids cost the issuer nothing."""
TRUST_S = 24 * 3600.0
"""How long keys are used at most while their issuer can't be reached."""
FETCH_S = 5.0
BODY_BYTES = 256 * 1024
MOST_KEYS = 100


class KeySet:
    """See tokens.Verifiers. ``clock`` gives monotonic seconds."""

    def __init__(
        self, url: str, algorithm: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._algorithm = algorithm
        self._allowed = _rule(url)
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str | None, list[Any]] = {}
        self._fetched_at = float("-inf")
        self._asked_at = float("-inf")

    def check(self) -> None:
        """Raise ConfigError where an address is named that is never called."""
        address = literal(urlsplit(self._url).hostname or "")
        if address and not self._allowed(address):
            raise ConfigError(
                f"ORCHESTRATOR_JWT_JWKS_URL: {without_secrets(self._url)} is never called, since "
                f"{address} is no public address, and no token could be checked. For an issuer "
                "inside your network set ORCHESTRATOR_JWT_KEY_FILE to its public key instead."
            )

    def find(self, key_id: str | None) -> Sequence[Any]:
        """Return the keys of an id; for a token that names none, those without, or the only one.

        Raises PipelineUnavailable where no keys are known and their issuer can't be reached.
        """
        found = self._lookup(key_id)
        now = self._clock()
        if not found or now - self._asked_at >= LOOK_AT_LEAST_S:
            self._refresh()
            found = self._lookup(key_id)
        elif now - self._fetched_at >= KEEP_S and now - self._asked_at >= AGAIN_S:
            threading.Thread(target=self._refresh, name="key set", daemon=True).start()
        if self._clock() - self._fetched_at >= TRUST_S:
            raise PipelineUnavailable(
                "The keys of the issuer of tokens can't be fetched. Try again in a moment.",
                retry_after=int(AGAIN_S),
            )
        return found

    def _lookup(self, key_id: str | None) -> Sequence[Any]:
        keys = self._keys
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id, ())

    def _refresh(self) -> None:
        """Fetch the keys, unless that was just done; a failure leaves them as they were."""
        with self._lock:
            if self._clock() - self._asked_at < AGAIN_S:
                return
            self._asked_at = self._clock()
            try:
                self._keys = self._read(self._fetch())
                self._fetched_at = self._clock()
            except (FetchFailed, ValueError, RecursionError) as error:
                logger.warning("the keys of the issuer can't be fetched: %s", error)

    def _fetch(self) -> bytes:
        answer = fetch(self._url, timeout_s=FETCH_S, max_bytes=BODY_BYTES, allowed=self._allowed)
        if answer.status != 200:
            raise FetchFailed(f"it answers with HTTP status {answer.status}")
        return answer.body

    def _read(self, body: bytes) -> dict[str | None, list[Any]]:
        """Return the keys for this algorithm by their ids; others are passed over."""
        document = json.loads(body)
        records = document["keys"] if isinstance(document, dict) and "keys" in document else None
        if not isinstance(records, list) or len(records) > MOST_KEYS:
            raise ValueError("no list of keys")
        keys: dict[str | None, list[Any]] = {}
        for record in records:
            if isinstance(record, dict) and self._is_meant(record):
                try:
                    key = jwt.PyJWK(record, algorithm=self._algorithm).key
                except jwt.PyJWTError:
                    continue
                if not is_weak(key, self._algorithm):
                    keys.setdefault(record.get("kid"), []).append(key)
        if not keys:
            raise ValueError("no key for signatures")
        return keys

    def _is_meant(self, record: dict[str, Any]) -> bool:
        """Whether a key is for signatures of this algorithm, and no secret."""
        kind = {"RS256": "RSA", "ES256": "EC"}[self._algorithm]
        return (
            record.get("kty") == kind
            and record.get("use", "sig") == "sig"
            and record.get("alg", self._algorithm) == self._algorithm
            and isinstance(record.get("kid"), str | None)
        )


def _rule(url: str) -> Rule:
    """Return which addresses hold the keys: this machine where it is named, the public net else."""
    is_here = is_private(urlsplit(url)._replace(scheme="http").geturl())
    return (lambda address: address.is_loopback) if is_here else is_public
