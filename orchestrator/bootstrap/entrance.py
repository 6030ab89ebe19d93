"""The check of credentials, made of the settings."""

import time

import jwt
from jwt.algorithms import get_default_algorithms

from orchestrator.auth.guard import Entrance, Guard
from orchestrator.auth.key_file import KeyFile
from orchestrator.auth.key_set import KeySet
from orchestrator.auth.keys import Keys
from orchestrator.auth.tickets import MemoryTickets
from orchestrator.auth.tokens import RSA_LEAST, OneKey, TokenReader, Verifiers, is_weak
from orchestrator.errors import ConfigError
from orchestrator.settings import Settings
from orchestrator.stores.redis.credentials import RedisKeys, RedisTickets


def build_entrance(settings: Settings) -> Entrance | None:
    """Return what lets callers in; None where anyone may come. Raises ConfigError."""
    if not settings.asks_for_credentials:
        return None
    keys = build_keys(settings) if settings.api_keys else None
    if isinstance(keys, KeyFile):
        keys.check()
    guard = Guard(keys, settings.key_pepper or "", _tokens(settings))
    tickets = RedisTickets(settings.redis_url) if settings.redis_url else MemoryTickets()
    return Entrance(guard, tickets)


def build_keys(settings: Settings) -> Keys:
    """Return where API keys are. Raises ConfigError where the settings don't say."""
    if not settings.api_keys:
        raise ConfigError(
            "ORCHESTRATOR_API_KEYS_FILE is not set. Name the file that keys are to be kept in, as "
            "in ORCHESTRATOR_API_KEYS_FILE=keys.json, or redis."
        )
    if settings.api_keys == "redis":
        return RedisKeys(settings.redis_url or "")
    return KeyFile(settings.keys_path)


def _tokens(settings: Settings) -> TokenReader | None:
    verifiers: Verifiers
    algorithm = settings.jwt_algorithm or ("HS256" if settings.jwt_secret else "RS256")
    if settings.jwt_secret:
        verifiers = OneKey(settings.jwt_secret)
    elif settings.jwt_key_file:
        verifiers = OneKey(_public_key(settings, algorithm))
    elif settings.jwt_jwks_url:
        verifiers = key_set = KeySet(settings.jwt_jwks_url, algorithm)
        key_set.check()
    else:
        return None
    return TokenReader(
        verifiers,
        algorithm,
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_tenant_claim,
        time.time,
    )


def _public_key(settings: Settings, algorithm: str) -> object:
    path = settings.jwt_key_file
    assert path is not None
    try:
        text = path.read_bytes()
        if b"PRIVATE" in text:
            why = "it is a private key, which nobody but the issuer should have"
        else:
            key: object = get_default_algorithms()[algorithm].prepare_key(text)
            if not is_weak(key, algorithm):
                return key
            why = f"its key has fewer than {RSA_LEAST} bits"
    except OSError as error:
        why = error.strerror or str(error)
    except (ValueError, TypeError, jwt.PyJWTError):
        why = f"it is no public key for {algorithm}"
    raise ConfigError(f"ORCHESTRATOR_JWT_KEY_FILE: {path} can't be used: {why}.")
