"""What the names of the environment's variables tell: one misspelt, or two that don't go together.

Nothing that somebody has set is left aside without a word.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from orchestrator.errors import ConfigError

PREFIX = "ORCHESTRATOR_"

_FILE, _BACKEND, _MODEL = (f"{PREFIX}{name}" for name in ("CONFIG", "BACKEND", "MODEL"))
_KEYS = {"OPENAI_API_KEY": "openai", "OPENAI_BASE_URL": "openai", "ANTHROPIC_API_KEY": "anthropic"}


def check_names(environ: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse what looks like one of the ``known`` settings misspelt. Raises ConfigError.

    A platform may set names of its own.
    """
    names = [variable.removeprefix(PREFIX) for variable in known]
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if variable == name or name in names:
            continue
        if near := get_close_matches(name, names, n=1, cutoff=0.8):
            raise ConfigError(f"{variable} is no setting. Is {PREFIX}{near[0]} meant?")


def check_together(environ: Mapping[str, str]) -> None:
    """Refuse what would be ignored for the sake of something else. Raises ConfigError."""
    has = {name for name, value in environ.items() if value.strip()}
    for other in (_BACKEND, _MODEL):
        if {_FILE, other} <= has:
            raise ConfigError(
                f"{_FILE} and {other} are both set, and the file says all about backends and "
                "models: unset one of them."
            )
    if _MODEL in has and _BACKEND not in has:
        likely = next((kind for name, kind in _KEYS.items() if name in has), None)
        kinds = likely or "openai, anthropic or engine"
        raise ConfigError(
            f"{_MODEL}={environ[_MODEL].strip()!r} is set, but {_BACKEND} is not, and without it "
            f"echo answers, which is no model: set {_BACKEND}={kinds}, or unset {_MODEL}."
        )
