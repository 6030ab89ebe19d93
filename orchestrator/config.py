"""Settings from the environment, read once, here and nowhere else.

Each field of Settings says its variable, its default and its meaning; docs/settings.md is made
from them. A value that can't be used stops the start with a sentence that names it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import ConfigError
from orchestrator.routes_file import (
    ENGINE_CONTEXT,
    ENGINE_CONTEXT_LEAST,
    ENGINE_CONTEXT_MOST,
    ENGINE_SLOTS,
    ENGINE_SLOTS_MOST,
    KINDS,
    RoutesFile,
    fits_header,
    read,
)
from orchestrator.urls import base_url, is_private, shown

PREFIX = "ORCHESTRATOR_"

Parser = Callable[[str], Any]


def _integer(low: int, high: int) -> Parser:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a whole number from {low} to {high}"
    return parse


def _seconds(low: float, high: float) -> Parser:
    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    parse.__doc__ = f"a number of seconds from {low:g} to {high:.10g}"
    return parse


def _text(text: str) -> str:
    """a text"""
    return text


def _key(text: str) -> str:
    """a key of printable ASCII characters"""
    if not fits_header(text):
        raise ValueError
    return text


def _backend(text: str) -> str:
    """echo, openai, anthropic, engine, or package.module:callable"""
    named = [name for name, kind in KINDS.items() if "callable" not in kind.required]
    if text not in named and not all(text.partition(":")):
        raise ValueError
    return text


def _url(text: str) -> str:
    """an address with http:// or https://, without credentials"""
    return base_url(text)


def _hub_url(text: str) -> str:
    """an address with https://, or with http:// on this machine"""
    url = base_url(text)
    if not is_private(url):
        raise ValueError
    return url


_CACHE_HOME = Path("~/.cache")


def _folder(text: str) -> Path:
    """the absolute path of a folder; another is ignored, as its standard says"""
    path = Path(text)
    return path if path.is_absolute() or path.parts[:1] == ("~",) else _CACHE_HOME


def _origins(text: str) -> tuple[str, ...]:
    """exact origins separated by commas, such as https://app.example.com"""
    origins = tuple(item.strip().rstrip("/") for item in text.split(",") if item.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError
    return origins


def _routes(text: str) -> RoutesFile:
    """a TOML file as docs/routing.md describes it"""
    return read(text)


def setting(variable: str, default: Any, parse: Parser, meaning: str, secret: bool = False) -> Any:
    """Declare a setting: the variable it comes from, its rule and its meaning."""
    return field(
        default=default,
        repr=not secret,
        metadata={"variable": variable, "parse": parse, "meaning": meaning},
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """How the whole service is set up. Times are in seconds."""

    host: str = setting(
        "ORCHESTRATOR_HOST",
        "127.0.0.1",
        _text,
        "The address to listen on. The Dockerfile and the Procfile set it to 0.0.0.0.",
    )
    port: int = setting("PORT", 8080, _integer(1, 65535), "The port to listen on.")
    workers: int = setting(
        "WEB_CONCURRENCY",
        1,
        _integer(1, 256),
        "Web processes. The memory store lives in one process, so with it only 1 is possible.",
    )
    backend: str = setting(
        "ORCHESTRATOR_BACKEND",
        "echo",
        _backend,
        "What answers: `echo`, `openai` (any OpenAI-compatible server), `anthropic`, `engine` (a "
        "GGUF model on this machine, by llama.cpp), or `package.module:callable`, a Python "
        "callable of your own.",
    )
    model: str | None = setting(
        "ORCHESTRATOR_MODEL",
        None,
        _text,
        "The upstream's model name; required for `openai` and `anthropic`. For `engine` the path "
        "of a GGUF file, `hf:owner/repo/file.gguf`, `small`, or `demo`.",
    )
    openai_base_url: str = setting(
        "OPENAI_BASE_URL",
        "https://api.openai.com/v1",
        _url,
        "Where the OpenAI-compatible server is: OpenAI, vLLM, Ollama, llama.cpp, and the like.",
    )
    openai_api_key: str | None = setting(
        "OPENAI_API_KEY", None, _key, "Sent to that server as a bearer token.", secret=True
    )
    anthropic_base_url: str = setting(
        "ANTHROPIC_BASE_URL",
        "https://api.anthropic.com",
        _url,
        "Where the Messages API is; `/v1/messages` is added.",
    )
    anthropic_api_key: str | None = setting(
        "ANTHROPIC_API_KEY", None, _key, "The key for it; required for `anthropic`.", secret=True
    )
    routes: RoutesFile | None = setting(
        "ORCHESTRATOR_CONFIG",
        None,
        _routes,
        "A TOML file with several backends and models, instead of one backend from the "
        "environment: see [routing](routing.md).",
    )
    engine_slots: int = setting(
        "ORCHESTRATOR_ENGINE_SLOTS",
        ENGINE_SLOTS,
        _integer(1, ENGINE_SLOTS_MOST),
        "Requests that `engine` answers at once; more of them wait in the queue.",
    )
    engine_context: int = setting(
        "ORCHESTRATOR_ENGINE_CONTEXT",
        ENGINE_CONTEXT,
        _integer(ENGINE_CONTEXT_LEAST, ENGINE_CONTEXT_MOST),
        "Tokens of prompt, history and answer that each of them may have.",
    )
    hub_url: str = setting(
        "HF_ENDPOINT",
        "https://huggingface.co",
        _hub_url,
        "Where `engine` downloads models from: Hugging Face, or a mirror of it.",
    )
    cache_home: Path = setting(
        "XDG_CACHE_HOME",
        _CACHE_HOME,
        _folder,
        "The folder in which downloaded models are kept, in `orchestrator/models`.",
    )
    echo_delay_s: float = setting(
        "ORCHESTRATOR_ECHO_DELAY_S",
        0.0,
        _seconds(0, 60),
        "What the echo backend waits before each word, in seconds.",
    )
    concurrency: int = setting(
        "ORCHESTRATOR_CONCURRENCY", 64, _integer(1, 10_000), "Requests running at once."
    )
    queue_limit: int = setting(
        "ORCHESTRATOR_QUEUE_LIMIT",
        10_000,
        _integer(1, 10_000_000),
        "Requests waiting at once; past it a submit is answered with 503.",
    )
    connect_timeout_s: float = setting(
        "ORCHESTRATOR_CONNECT_TIMEOUT_S",
        5.0,
        _seconds(0.01, 600),
        "How long connecting to the upstream may take.",
    )
    first_token_timeout_s: float = setting(
        "ORCHESTRATOR_FIRST_TOKEN_TIMEOUT_S",
        60.0,
        _seconds(0.01, 3600),
        "How long the upstream may take to its first token.",
    )
    idle_timeout_s: float = setting(
        "ORCHESTRATOR_IDLE_TIMEOUT_S",
        30.0,
        _seconds(0.01, 3600),
        "How long the upstream may take between two tokens.",
    )
    timeout_s: float = setting(
        "ORCHESTRATOR_TIMEOUT_S",
        300.0,
        _seconds(0.01, 3600),
        "How long a request may run when it doesn't say `timeout_s` itself.",
    )
    queue_timeout_s: float = setting(
        "ORCHESTRATOR_QUEUE_TIMEOUT_S",
        3600.0,
        _seconds(0.01, 3600),
        "How long a request may wait when it doesn't say `queue_timeout_s` itself.",
    )
    retention_s: float = setting(
        "ORCHESTRATOR_RETENTION_S",
        3600.0,
        _seconds(1, 1_000_000),
        "How long a request is kept from its end, and a session from its last use.",
    )
    memory_limit_mb: int = setting(
        "ORCHESTRATOR_MEMORY_LIMIT_MB",
        512,
        _integer(1, 1_000_000),
        "What the memory store may hold, in MiB. Ended requests go first, oldest first; with "
        "only live ones left a submit is answered with 503.",
    )
    cache_mb: int = setting(
        "ORCHESTRATOR_CACHE_MB",
        64,
        _integer(1, 1_000_000),
        "What kept answers may take, in MiB, beside `ORCHESTRATOR_MEMORY_LIMIT_MB`. Only models "
        "with `cache_ttl_s` keep any: see [routing](routing.md).",
    )
    max_connections: int = setting(
        "ORCHESTRATOR_MAX_CONNECTIONS",
        4096,
        _integer(16, 100_000),
        "Client connections at once in a process; three quarters of them may be open streams "
        "and sockets.",
    )
    graceful_timeout_s: int = setting(
        "ORCHESTRATOR_GRACEFUL_TIMEOUT_S",
        30,
        _integer(6, 3600),
        "How long a stop may take. Requests may run until 5 seconds before it.",
    )
    cors_origins: tuple[str, ...] = setting(
        "ORCHESTRATOR_CORS_ORIGINS",
        (),
        _origins,
        "Other origins whose pages may use the API, over HTTP and WebSocket. Unset: the "
        "service's own pages only.",
    )
    tls_cert: str | None = setting(
        "ORCHESTRATOR_TLS_CERT", None, _text, "A certificate file (PEM); with the key: https."
    )
    tls_key: str | None = setting("ORCHESTRATOR_TLS_KEY", None, _text, "Its key file (PEM).")

    @property
    def kind(self) -> str:
        """The kind of ``backend``, one of KINDS."""
        return self.backend if self.backend in KINDS else "python"

    @property
    def model_name(self) -> str:
        """What clients call the default model: echo is never taken for one."""
        if self.routes:
            return next(iter(self.routes.models))
        named = self.model if self.backend != "echo" else None
        return KINDS[self.kind].shown(named or self.backend)

    @property
    def address(self) -> str:
        """Where to reach the service from this machine."""
        host = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::1", "::") else self.url_host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    @property
    def url_host(self) -> str:
        """The host as it stands in an address."""
        return f"[{self.host}]" if ":" in self.host else self.host


def load(environ: Mapping[str, str] | None = None, routes: str | None = None) -> Settings:
    """Read the settings from ``environ`` (the process's own by default). Raises ConfigError.

    ``routes`` is a file to read in place of the one that ORCHESTRATOR_CONFIG names.
    """
    environ = os.environ if environ is None else environ
    if routes:
        environ = {**environ, "ORCHESTRATOR_CONFIG": routes}
    values = {}
    for item in fields(Settings):
        variable, parse = item.metadata["variable"], item.metadata["parse"]
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[item.name] = parse(text)
        except ValueError:
            value = _harmless(text, parse) if item.repr else "its value"
            raise ConfigError(f"{variable}: {value!r} is not {parse.__doc__}.") from None
    _check_names(environ)
    if "routes" in values:
        values["routes"] = values["routes"].with_keys(environ)
    settings = Settings(**values)
    _check(settings)
    return settings


def _harmless(text: str, parse: Parser) -> str:
    return shown(text) if parse in (_url, _hub_url) else text


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse what looks like a setting misspelt; a platform may set names of its own."""
    known = [item.metadata["variable"].removeprefix(PREFIX) for item in fields(Settings)]
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        if variable == name or name in known:
            continue
        if near := get_close_matches(name, known, n=1, cutoff=0.8):
            raise ConfigError(f"{variable} is no setting. Is {PREFIX}{near[0]} meant?")


def _check(settings: Settings) -> None:
    if settings.workers > 1:
        raise ConfigError(
            f"WEB_CONCURRENCY={settings.workers}: the memory store lives in one process, and "
            "processes share no memory. Set WEB_CONCURRENCY=1; one process serves thousands of "
            "streams."
        )
    servers = {"openai": settings.openai_base_url, "anthropic": settings.anthropic_base_url}
    if settings.backend in servers and not settings.model and not settings.routes:
        raise ConfigError(
            f"ORCHESTRATOR_MODEL is not set. The {settings.backend} backend needs the name of a "
            f"model that {shown(servers[settings.backend])} serves."
        )
    if settings.backend == "anthropic" and not settings.anthropic_api_key and not settings.routes:
        raise ConfigError(
            "ANTHROPIC_API_KEY is not set. The anthropic backend needs a key for "
            f"{shown(settings.anthropic_base_url)}."
        )
    if settings.backend == "engine" and not settings.model and not settings.routes:
        raise ConfigError(
            "ORCHESTRATOR_MODEL is not set. The engine backend needs the path of a GGUF file, "
            "hf:owner/repo/file.gguf, small (which is downloaded), or demo (which needs nothing)."
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError(
            "ORCHESTRATOR_TLS_CERT and ORCHESTRATOR_TLS_KEY go together: set both or neither."
        )


def table() -> str:
    """Return all settings as a Markdown table."""
    rows = ["| variable | default | what it does | allowed |", "|---|---|---|---|"]
    for item in fields(Settings):
        default = "" if item.default in (None, ()) else f"`{item.default}`"
        meta = item.metadata
        rule = meta["parse"].__doc__
        rows.append(f"| `{meta['variable']}` | {default} | {meta['meaning']} | {rule} |")
    return "\n".join(rows) + "\n"
