"""Settings from the environment, read once, here and nowhere else.

A value that can't be used stops the start with a sentence that names it.
"""

import os
from collections.abc import Mapping
from dataclasses import fields

from orchestrator import setting_rules as rules
from orchestrator.errors import ConfigError
from orchestrator.settings import Settings
from orchestrator.urls import without_secrets
from orchestrator.variables import FILE, IN_FILE, check_names, check_together


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes, for a process that it starts."""
    return {**os.environ, **changes}


def load(environ: Mapping[str, str] | None = None, routes: str | None = None) -> Settings:
    """Read the settings from ``environ`` (the process's own by default). Raises ConfigError.

    ``routes`` is a file to read in place of the one that ORCHESTRATOR_CONFIG names.
    """
    environ = os.environ if environ is None else environ
    if routes is not None:
        # It takes the place of all that it says itself.
        environ = {name: text for name, text in environ.items() if name not in IN_FILE}
        environ[FILE] = routes
    check_names(environ, [item.metadata["variable"] for item in fields(Settings)])
    check_together(environ)
    values = {}
    for item in fields(Settings):
        variable, parse = item.metadata["variable"], item.metadata["parse"]
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[item.name] = parse(text)
        except ValueError as error:
            value = repr(_harmless(text, parse)) if item.repr else "its value"
            raise ConfigError(
                f"{variable}: {value} is not {parse.__doc__}{_why(error, parse)}."
            ) from None
    if "routes" in values:
        values["routes"] = values["routes"].with_keys(environ)
    settings = Settings(**values)
    _check(settings)
    return settings


def _harmless(text: str, parse: rules.Parser) -> str:
    return without_secrets(text) if parse in (rules.url, rules.private_url) else text


def _why(error: ValueError, parse: rules.Parser) -> str:
    return f" ({error})" if parse in (rules.url, rules.private_url) else ""


def _check(settings: Settings) -> None:
    if settings.workers > 1 and not settings.redis_url:
        raise ConfigError(
            f"WEB_CONCURRENCY={settings.workers}: the memory store lives in one process, and "
            "processes share no memory. Set WEB_CONCURRENCY=1, since one process serves thousands "
            "of streams; or set REDIS_URL, which they can share."
        )
    if settings.model and settings.backend == "echo":
        raise ConfigError(
            f"ORCHESTRATOR_MODEL={settings.model!r} is set, but echo answers, which is no model: "
            "set ORCHESTRATOR_BACKEND to openai, anthropic or engine, or unset ORCHESTRATOR_MODEL."
        )
    base_url, _ = settings.server
    if base_url and not settings.model and not settings.routes:
        raise ConfigError(
            f"ORCHESTRATOR_MODEL is not set. The {settings.backend} backend needs the name of a "
            f"model that {without_secrets(base_url)} serves."
        )
    if settings.backend == "anthropic" and not settings.anthropic_api_key and not settings.routes:
        raise ConfigError(
            "ANTHROPIC_API_KEY is not set. The anthropic backend needs a key for "
            f"{without_secrets(settings.anthropic_base_url)}."
        )
    if settings.backend == "engine" and not settings.model and not settings.routes:
        raise ConfigError(
            "ORCHESTRATOR_MODEL is not set. The engine backend needs the path of a GGUF file, "
            "hf:owner/repo/file.gguf, small (which is downloaded), or demo (which needs nothing)."
        )
    _check_credentials(settings)


def _check_credentials(settings: Settings) -> None:
    if settings.api_keys and not settings.key_pepper:
        raise ConfigError(
            "ORCHESTRATOR_KEY_PEPPER is not set. API keys are kept as digests under it: make one "
            "with 'openssl rand -hex 32', and keep it where other secrets are."
        )
    if settings.api_keys == "redis" and not settings.redis_url:
        raise ConfigError(
            "ORCHESTRATOR_API_KEYS_FILE=redis needs REDIS_URL: set it, or name a file."
        )
    if settings.jwt_algorithm and (settings.jwt_algorithm == "HS256") != bool(settings.jwt_secret):
        raise ConfigError(
            f"ORCHESTRATOR_JWT_ALGORITHM={settings.jwt_algorithm} is not for what tokens are "
            "checked with: HS256 is for a secret, RS256 and ES256 are for public keys."
        )


def table() -> str:
    """Return all settings as a Markdown table."""
    rows = ["| variable | default | what it does | allowed |", "|---|---|---|---|"]
    for item in fields(Settings):
        default = "" if item.default in (None, (), False) else f"`{item.default}`"
        meta = item.metadata
        rule = meta["parse"].__doc__
        rows.append(f"| `{meta['variable']}` | {default} | {meta['meaning']} | {rule} |")
    return "\n".join(rows) + "\n"
