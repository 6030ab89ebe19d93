"""The TOML file with several backends and models: how it is read, and what is refused."""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.rate import parse
from orchestrator.urls import base_url, without_secrets

DEFAULT = "default"
"""The model that serves requests which name none."""


def fits_header(key: str) -> bool:
    """Return whether an HTTP header can carry an API key."""
    return key.isascii() and key.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTable:
    """``[backends.NAME]``. Times are in seconds; None stands for a key that isn't given.

    ``context`` is how many tokens of prompt and answer the engine has room for in each request.
    """

    name: str
    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    api_key: str | None = field(default=None, repr=False)
    callable: str | None = None
    delay_s: float = 0.0
    context: int | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class TargetName:
    """An upstream model at a backend; ``model`` is empty for kinds that have but one."""

    backend: str
    model: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}" if self.model else self.backend


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """``[models.NAME]``. Times are in seconds; None stands for the value of the environment."""

    name: str
    targets: tuple[TargetName, ...]
    retries: int = 2
    retry_after_max_s: float = 5.0
    connect_timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    idle_timeout_s: float | None = None
    timeout_s: float | None = None
    cache_ttl_s: float = 0.0
    coalesce: bool = False
    rate_limit: str | None = None
    tokens_a_day: int | None = None


@dataclass(frozen=True, slots=True)
class RoutesFile:
    """What the file says; the default model is the first one."""

    path: str
    backends: Mapping[str, BackendTable]
    models: Mapping[str, ModelTable]

    def with_keys(self, environ: Mapping[str, str]) -> "RoutesFile":
        """Return it with the API keys that ``environ`` has for it. Raises ConfigError."""
        backends = {}
        for name, table in self.backends.items():
            variable = table.api_key_env
            if variable and not environ.get(variable, "").strip():
                # In small letters it may be a key, put here by mistake.
                named = variable if variable.isupper() else "variable of that name"
                raise ConfigError(
                    f"{self.path}: backends.{name}.api_key_env: the environment has no {named}; "
                    "set it, or leave the line out where no key is needed."
                )
            key = environ[variable].strip() if variable else None
            if key and not fits_header(key):
                raise ConfigError(
                    f"{self.path}: backends.{name}.api_key_env: {variable} has characters that no "
                    "key has; set it again."
                )
            backends[name] = replace(table, api_key=key)
        return replace(self, backends=backends)


@dataclass(frozen=True, slots=True)
class Kind:
    """Which keys a kind of backend needs, and which others it takes.

    ``defaults`` are for keys that a table leaves out. ``names_models`` says that a target names
    one of its models, and ``local`` that those are files, which this machine runs.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names_models: bool = True
    local: bool = False
    most_at_once: int = 10_000

    def public_name(self, model: str) -> str:
        """Return what clients see of a model's name: never a folder of this machine."""
        return PurePath(model).name if self.local else model


ENGINE_SLOTS, ENGINE_SLOTS_MOST = 4, 256
ENGINE_CONTEXT, ENGINE_CONTEXT_LEAST, ENGINE_CONTEXT_MOST = 4096, 128, 1_048_576

KINDS: dict[str, Kind] = {
    "openai": Kind(
        optional=("base_url", "api_key_env"), defaults={"base_url": "https://api.openai.com/v1"}
    ),
    "anthropic": Kind(
        required=("api_key_env",),
        optional=("base_url",),
        defaults={"base_url": "https://api.anthropic.com"},
    ),
    "engine": Kind(
        optional=("context",),
        defaults={"max_concurrency": ENGINE_SLOTS, "context": ENGINE_CONTEXT},
        local=True,
        most_at_once=ENGINE_SLOTS_MOST,
    ),
    "python": Kind(required=("callable",), names_models=False),
    "echo": Kind(optional=("delay_s",), names_models=False),
}
_EVERY_BACKEND = ("kind", "max_concurrency")
_MOST_TARGETS = 10


@dataclass(frozen=True, slots=True)
class _Rule:
    allowed: str
    accepts: Callable[[Any], bool]


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_seconds(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value <= high


def _is_url(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(base_url(value))
    except ValueError:
        return False


def _is_rate(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(parse(value))
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _whole(low: int, high: int) -> _Rule:
    return _Rule(f"a whole number from {low} to {high}", lambda value: _is_whole(value, low, high))


def _seconds(low: float, high: float) -> _Rule:
    return _Rule(
        f"a number of seconds from {low:g} to {high:.10g}",
        lambda value: _is_seconds(value, low, high),
    )


_BACKEND_RULES = {
    "kind": _Rule(f"one of: {', '.join(KINDS)}", lambda value: value in list(KINDS)),
    "base_url": _Rule(
        'an address such as "http://127.0.0.1:8000/v1", without credentials', _is_url
    ),
    "api_key_env": _Rule(
        "the name of an environment variable, not the key itself",
        lambda value: isinstance(value, str) and value.isidentifier(),
    ),
    "callable": _Rule(
        '"package.module:callable"', lambda value: _is_text(value) and all(value.partition(":"))
    ),
    "delay_s": _seconds(0, 60),
    "context": _whole(ENGINE_CONTEXT_LEAST, ENGINE_CONTEXT_MOST),
}
_MODEL_RULES = {
    "targets": _Rule(
        f'a list of 1 to {_MOST_TARGETS} "backend/upstream-model", the preferred one first',
        lambda value: isinstance(value, list) and 0 < len(value) <= _MOST_TARGETS,
    ),
    "retries": _whole(0, 9),
    "retry_after_max_s": _seconds(0, 3600),
    "connect_timeout_s": _seconds(0.01, 600),
    "first_token_timeout_s": _seconds(0.01, 3600),
    "idle_timeout_s": _seconds(0.01, 3600),
    "timeout_s": _seconds(0.01, 3600),
    "cache_ttl_s": _seconds(0, 1_000_000),
    "coalesce": _Rule("true or false", lambda value: isinstance(value, bool)),
    "rate_limit": _Rule(parse.__doc__ or "", _is_rate),
    "tokens_a_day": _whole(1, 10**12),
}


def read(path: str) -> RoutesFile:
    """Read the file at ``path``. Raises ConfigError with the file, the key and what is allowed."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8, which TOML is written in.") from None
    except ValueError as error:
        # Not TOMLDecodeError alone: Python has a limit of its own for the digits of a number.
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply.") from None
    try:
        return _file(path, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def _file(path: str, content: Mapping[str, Any]) -> RoutesFile:
    _check_keys("", content, ("backends", "models"))
    backends = {name: _backend(name, table) for name, table in _tables(content, "backends").items()}
    models = {
        name: _model(name, table, backends) for name, table in _tables(content, "models").items()
    }
    if DEFAULT not in models and len(models) > 1:
        raise ConfigError(
            f"models: with several models, requests that name none need [models.{DEFAULT}]; there "
            f"are: {', '.join(models)}."
        )
    first = DEFAULT if DEFAULT in models else next(iter(models))
    return RoutesFile(path, backends, {first: models[first]} | models)


def _tables(content: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    tables = content.get(part)
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{part}: there must be at least one table [{part}.NAME].")
    for name, table in tables.items():
        if not name or "/" in name or not name.isprintable():
            raise ConfigError(
                f"{part}: {name!r} can't be a name: it is empty, or has a slash or a character "
                "that is not shown."
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{part}.{name}: it must be a table: [{part}.{name}].")
    return tables


def _backend(name: str, table: Mapping[str, Any]) -> BackendTable:
    where = f"backends.{name}"
    _check_values(where, {"kind": table.get("kind")}, _BACKEND_RULES)
    kind = KINDS[table["kind"]]
    _check_keys(where, table, (*_EVERY_BACKEND, *kind.required, *kind.optional))
    at_once = _whole(1, kind.most_at_once)
    _check_values(where, table, {**_BACKEND_RULES, "max_concurrency": at_once})
    for key in kind.required:
        if key not in table:
            raise ConfigError(f"{where}: kind {table['kind']!r} needs the key {key!r}.")
    values = {**kind.defaults, **table}
    if "base_url" in values:
        values["base_url"] = base_url(values["base_url"])
    return BackendTable(name=name, **values)


def _model(name: str, table: Mapping[str, Any], backends: Mapping[str, BackendTable]) -> ModelTable:
    where = f"models.{name}"
    _check_keys(where, table, tuple(_MODEL_RULES))
    _check_values(where, {"targets": table.get("targets"), **table}, _MODEL_RULES)
    targets = tuple(
        _target(f"{where}.targets[{place}]", text, backends)
        for place, text in enumerate(table["targets"])
    )
    for place, target in enumerate(targets):
        if target in targets[:place]:
            raise ConfigError(f"{where}.targets[{place}]: {str(target)!r} is in the list already.")
    return ModelTable(name=name, **{**table, "targets": targets})


def _target(where: str, text: Any, backends: Mapping[str, BackendTable]) -> TargetName:
    if not isinstance(text, str):
        raise ConfigError(f'{where}: {_excerpt(text)} is not "backend/upstream-model".')
    if not text.isprintable():
        raise ConfigError(f"{where}: {_excerpt(text)} has control characters.")
    backend, _, model = text.partition("/")
    if backend not in backends:
        raise ConfigError(
            f"{where}: {text!r}: there is no backend {backend!r}; there are: {', '.join(backends)}."
        )
    kind = backends[backend].kind
    if KINDS[kind].names_models != bool(model) or model != model.strip():
        right = f"{backend}/upstream-model" if KINDS[kind].names_models else backend
        raise ConfigError(f"{where}: {text!r}: a backend of kind {kind!r} is named {right!r} here.")
    return TargetName(backend, model)


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are: {', '.join(known)}."
        raise ConfigError(f"{f'{where}.' if where else ''}{key}: there is no such key; {hint}")


def _check_values(where: str, table: Mapping[str, Any], rules: Mapping[str, _Rule]) -> None:
    for key, value in table.items():
        rule = rules[key]
        if value is None:
            raise ConfigError(f"{where}.{key}: it is missing; it must be {rule.allowed}.")
        if not rule.accepts(value):
            if key == "api_key_env":
                raise ConfigError(f"{where}.{key}: it is not {rule.allowed}.")
            if key == "base_url" and isinstance(value, str):
                public = _excerpt(without_secrets(value))
                raise ConfigError(f"{where}.{key}: {public} is not {rule.allowed} ({_why(value)}).")
            raise ConfigError(f"{where}.{key}: {_excerpt(value)} is not {rule.allowed}.")


def _why(url: str) -> str:
    try:
        base_url(url)
    except ValueError as error:
        return str(error)
    return ""


def _excerpt(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number with too many digits"
    return text if len(text) <= 60 else f"{text[:59]}…"
