"""Finds misspelt names of settings, and settings that don't go together, in the environment.

A setting that would have no effect stops the start, instead of being ignored.
"""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from itertools import combinations

from orchestrator.errors import ConfigError

PREFIX = "ORCHESTRATOR_"
FILE = f"{PREFIX}CONFIG"
SHORTEST = 3
"""Characters of a name that is compared with the beginnings of others."""
_ADDRESS = re.compile(r"SERVICE_(HOST|PORT\w*)$|PORT_\d+_(TCP|UDP)\w*$")

_TOKENS = tuple(f"{PREFIX}JWT_{name}" for name in ("SECRET", "KEY_FILE", "JWKS_URL"))

NEEDS: Mapping[str, tuple[str, ...]] = {
    f"{PREFIX}QUEUE_REDIS_URL": ("REDIS_URL",),
    f"{PREFIX}WORKER_SIGN": ("REDIS_URL",),
    f"{PREFIX}LEASE_S": ("REDIS_URL",),
    f"{PREFIX}KEY_PEPPER": (f"{PREFIX}API_KEYS_FILE",),
    f"{PREFIX}TLS_CERT": (f"{PREFIX}TLS_KEY",),
    f"{PREFIX}TLS_KEY": (f"{PREFIX}TLS_CERT",),
    f"{PREFIX}JWT_ALGORITHM": _TOKENS,
    f"{PREFIX}JWT_ISSUER": _TOKENS,
    f"{PREFIX}JWT_AUDIENCE": _TOKENS,
    f"{PREFIX}JWT_TENANT_CLAIM": _TOKENS,
}
"""Settings that only have an effect together with one of others."""

BACKEND = f"{PREFIX}BACKEND"
DEFAULT_BACKEND = "echo"
OF_BACKEND: Mapping[str, str] = {
    f"{PREFIX}ECHO_DELAY_S": "echo",
    f"{PREFIX}ENGINE_SLOTS": "engine",
    f"{PREFIX}ENGINE_CONTEXT": "engine",
}
"""Settings that only have an effect with one backend."""

IN_FILE = (BACKEND, f"{PREFIX}MODEL", *OF_BACKEND)
"""Settings that a routes file replaces. Names that other programs use too are left out."""

_ONE_OF = (*((FILE, name) for name in IN_FILE), *combinations(_TOKENS, 2))


def check_names(environ: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse what looks like one of the ``known`` settings misspelt. Raises ConfigError.

    A platform may set names of its own.
    """
    short = {variable.removeprefix(PREFIX): variable for variable in known}
    for variable, value in environ.items():
        name = variable.upper().removeprefix(PREFIX)
        if variable in known or name == variable.upper() or _is_address(name, value):
            continue
        if meant := _nearest(name, short):
            raise ConfigError(f"{variable} is no setting. Is {short[meant]} meant?")


def _is_address(name: str, value: str) -> bool:
    """Whether Docker or Kubernetes tells where a service of this name is."""
    return value.startswith("tcp://") or _ADDRESS.search(name) is not None


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that this one is like, or begins, or goes on from."""
    if near := get_close_matches(name, known, n=1, cutoff=0.8):
        return near[0]
    if len(name) < SHORTEST:
        return None
    return next((one for one in known if one.startswith(name) or name.startswith(one)), None)


def check_together(environ: Mapping[str, str]) -> None:
    """Refuse a setting that another one, or its absence, makes useless. Raises ConfigError."""
    has = {name for name, value in environ.items() if value.strip()}
    for first, second in _ONE_OF:
        if {first, second} <= has:
            raise ConfigError(
                f"{first} and {second} are both set, and beside the first the second does not "
                "count: unset one of them."
            )
    for variable, others in NEEDS.items():
        if variable in has and has.isdisjoint(others):
            raise ConfigError(
                f"{variable} is set, and counts only with {' or '.join(others)}: set that as "
                f"well, or unset {variable}."
            )
    backend = environ.get(BACKEND, "").strip() or DEFAULT_BACKEND
    for variable, its_backend in OF_BACKEND.items():
        if variable in has and backend != its_backend:
            raise ConfigError(
                f"{variable} is set, and counts only with {BACKEND}={its_backend}, but {backend} "
                f"answers: unset {variable}."
            )
