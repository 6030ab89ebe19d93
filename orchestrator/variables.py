"""Finds misspelt names of settings, and settings that don't go together, in the environment.

A setting that would have no effect stops the start, instead of being ignored.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from itertools import combinations

from orchestrator.errors import ConfigError

PREFIX = "ORCHESTRATOR_"
FILE = f"{PREFIX}CONFIG"

_TOKENS = tuple(f"{PREFIX}JWT_{name}" for name in ("SECRET", "KEY_FILE", "JWKS_URL"))

NEEDS: Mapping[str, tuple[str, ...]] = {
    f"{PREFIX}QUEUE_REDIS_URL": ("REDIS_URL",),
    f"{PREFIX}TLS_CERT": (f"{PREFIX}TLS_KEY",),
    f"{PREFIX}TLS_KEY": (f"{PREFIX}TLS_CERT",),
    f"{PREFIX}JWT_ALGORITHM": _TOKENS,
    f"{PREFIX}JWT_ISSUER": _TOKENS,
    f"{PREFIX}JWT_AUDIENCE": _TOKENS,
    f"{PREFIX}JWT_TENANT_CLAIM": _TOKENS,
}
"""Settings that only have an effect together with one of others."""

IN_FILE = tuple(
    f"{PREFIX}{name}"
    for name in ("BACKEND", "MODEL", "ECHO_DELAY_S", "ENGINE_SLOTS", "ENGINE_CONTEXT")
)
"""Settings that a routes file replaces. Names that other programs use too are left out."""

_ONE_OF = (*((FILE, name) for name in IN_FILE), *combinations(_TOKENS, 2))


def check_names(environ: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse what looks like one of the ``known`` settings misspelt. Raises ConfigError.

    A platform may set names of its own.
    """
    short = {variable.removeprefix(PREFIX): variable for variable in known}
    for variable, value in environ.items():
        # Docker and Kubernetes tell where a service of this name is, as in tcp://10.0.0.1:8080.
        if not variable.startswith(PREFIX) or variable in known or value.startswith("tcp://"):
            continue
        if near := get_close_matches(variable.removeprefix(PREFIX), short, n=1, cutoff=0.8):
            raise ConfigError(f"{variable} is no setting. Is {short[near[0]]} meant?")


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
