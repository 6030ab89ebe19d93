"""What can be set: each field says its variable, its default and its meaning.

docs/settings.md is made from them. config.py reads them.
"""

from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator import rate, routes_file
from orchestrator import setting_rules as rules
from orchestrator.setting_rules import setting


@dataclass(frozen=True, slots=True)
class Settings:
    """How the whole service is set up. Times are in seconds."""

    host: str = setting(
        "ORCHESTRATOR_HOST",
        "127.0.0.1",
        rules.text,
        "The address to listen on. The Dockerfile and the Procfile set it to 0.0.0.0.",
    )
    port: int = setting("PORT", 8080, rules.integer(1, 65535), "The port to listen on.")
    workers: int = setting(
        "WEB_CONCURRENCY",
        1,
        rules.integer(1, 256),
        "Web processes. Without `REDIS_URL` only 1 is possible: they share no memory.",
    )
    redis_url: str | None = setting(
        "REDIS_URL",
        None,
        rules.redis,
        "Keep requests in this Redis (7 or newer), and run them in workers (`orchestrator "
        "worker`), any number of each: see [scaling out](scaling.md). Unset: one process does "
        "all, in memory.",
        secret=True,
    )
    queue_redis_url: str | None = setting(
        "ORCHESTRATOR_QUEUE_REDIS_URL",
        None,
        rules.redis,
        "Where messages to workers wait. Unset: the database after that of `REDIS_URL`. A Redis "
        "with one database only takes the same address here.",
        secret=True,
    )
    lease_s: float = setting(
        "ORCHESTRATOR_LEASE_S",
        15.0,
        rules.seconds(1, 600),
        "With Redis: after this long without a sign of life from its worker a request runs again.",
    )
    worker_sign: Path | None = setting(
        "ORCHESTRATOR_WORKER_SIGN", None, rules.file, "A file that a worker touches while it lives."
    )
    backend: str = setting(
        "ORCHESTRATOR_BACKEND",
        "echo",
        rules.backend,
        "What answers: `echo`, `openai` (any OpenAI-compatible server), `anthropic`, `engine` (a "
        "GGUF model on this machine, by llama.cpp), or `package.module:callable`, a Python "
        "callable of your own.",
    )
    model: str | None = setting(
        "ORCHESTRATOR_MODEL",
        None,
        rules.text,
        "The upstream's model name; required for `openai` and `anthropic`. For `engine` the path "
        "of a GGUF file, `hf:owner/repo/file.gguf`, `small`, or `demo`.",
    )
    openai_base_url: str = setting(
        "OPENAI_BASE_URL",
        "https://api.openai.com/v1",
        rules.url,
        "Where the OpenAI-compatible server is: OpenAI, vLLM, Ollama, llama.cpp, and the like.",
    )
    openai_api_key: str | None = setting(
        "OPENAI_API_KEY", None, rules.key, "Sent to that server as a bearer token.", secret=True
    )
    anthropic_base_url: str = setting(
        "ANTHROPIC_BASE_URL",
        "https://api.anthropic.com",
        rules.url,
        "Where the Messages API is; `/v1/messages` is added.",
    )
    anthropic_api_key: str | None = setting(
        "ANTHROPIC_API_KEY",
        None,
        rules.key,
        "The key for it; required for `anthropic`.",
        secret=True,
    )
    routes: routes_file.RoutesFile | None = setting(
        "ORCHESTRATOR_CONFIG",
        None,
        rules.routes,
        "A TOML file with several backends and models, instead of one backend from the "
        "environment: see [routing](routing.md).",
    )
    engine_slots: int = setting(
        "ORCHESTRATOR_ENGINE_SLOTS",
        routes_file.ENGINE_SLOTS,
        rules.integer(1, routes_file.ENGINE_SLOTS_MOST),
        "Requests that `engine` answers at once; more of them wait in the queue.",
    )
    engine_context: int = setting(
        "ORCHESTRATOR_ENGINE_CONTEXT",
        routes_file.ENGINE_CONTEXT,
        rules.integer(routes_file.ENGINE_CONTEXT_LEAST, routes_file.ENGINE_CONTEXT_MOST),
        "Tokens of prompt, history and answer that each of them may have.",
    )
    hub_url: str = setting(
        "HF_ENDPOINT",
        "https://huggingface.co",
        rules.private_url,
        "Where `engine` downloads models from: Hugging Face, or a mirror of it.",
    )
    cache_home: Path = setting(
        "XDG_CACHE_HOME",
        rules.CACHE_HOME,
        rules.folder,
        "The folder in which downloaded models are kept, in `orchestrator/models`.",
    )
    echo_delay_s: float = setting(
        "ORCHESTRATOR_ECHO_DELAY_S",
        0.0,
        rules.seconds(0, 60),
        "What the echo backend waits before each word, in seconds.",
    )
    concurrency: int = setting(
        "ORCHESTRATOR_CONCURRENCY",
        64,
        rules.integer(1, 10_000),
        "Requests running at once in a process; with Redis, in a worker.",
    )
    queue_limit: int = setting(
        "ORCHESTRATOR_QUEUE_LIMIT",
        10_000,
        rules.integer(1, 1_000_000),
        "Requests waiting at once; past it a submit is answered with 503.",
    )
    connect_timeout_s: float = setting(
        "ORCHESTRATOR_CONNECT_TIMEOUT_S",
        5.0,
        rules.seconds(0.01, 600),
        "How long connecting to the upstream may take.",
    )
    first_token_timeout_s: float = setting(
        "ORCHESTRATOR_FIRST_TOKEN_TIMEOUT_S",
        60.0,
        rules.seconds(0.01, 3600),
        "How long the upstream may take to its first token.",
    )
    idle_timeout_s: float = setting(
        "ORCHESTRATOR_IDLE_TIMEOUT_S",
        30.0,
        rules.seconds(0.01, 3600),
        "How long the upstream may take between two tokens.",
    )
    timeout_s: float = setting(
        "ORCHESTRATOR_TIMEOUT_S",
        300.0,
        rules.seconds(0.01, 3600),
        "How long a request may run when it doesn't say `timeout_s` itself.",
    )
    queue_timeout_s: float = setting(
        "ORCHESTRATOR_QUEUE_TIMEOUT_S",
        3600.0,
        rules.seconds(0.01, 3600),
        "How long a request may wait when it doesn't say `queue_timeout_s` itself.",
    )
    retention_s: float = setting(
        "ORCHESTRATOR_RETENTION_S",
        3600.0,
        rules.seconds(1, 1_000_000),
        "How long a request is kept from its end, and a session from its last use.",
    )
    memory_limit_mb: int = setting(
        "ORCHESTRATOR_MEMORY_LIMIT_MB",
        512,
        rules.integer(1, 1_000_000),
        "What the memory store may hold, in MiB. Ended requests go first, the oldest of the tenant "
        "that has most; with only live ones left a submit is answered with 503.",
    )
    cache_mb: int = setting(
        "ORCHESTRATOR_CACHE_MB",
        64,
        rules.integer(1, 1_000_000),
        "What kept answers may take, in MiB, beside `ORCHESTRATOR_MEMORY_LIMIT_MB`, or in Redis "
        "where that is. Only models with `cache_ttl_s` keep any: see [routing](routing.md).",
    )
    max_connections: int = setting(
        "ORCHESTRATOR_MAX_CONNECTIONS",
        4096,
        rules.integer(16, 100_000),
        "Client connections at once in a process; three quarters of them may be open streams "
        "and sockets.",
    )
    keepalive_s: int = setting(
        "ORCHESTRATOR_KEEPALIVE_S",
        100,
        rules.integer(1, 3600),
        "How long a connection is kept between two requests. What routes to the service has to "
        "give up an idle connection sooner than that: Heroku does after 90 s, AWS after 60; for "
        "Google Cloud (600) set 620.",
    )
    graceful_timeout_s: int = setting(
        "ORCHESTRATOR_GRACEFUL_TIMEOUT_S",
        30,
        rules.integer(6, 3600),
        "How long a stop may take. Requests may run until 5 seconds before it.",
    )
    api_keys: str | None = setting(
        "ORCHESTRATOR_API_KEYS_FILE",
        None,
        rules.text,
        "Ask for credentials, and take the API keys in this file, which `orchestrator keys` makes; "
        "`redis` keeps them in `REDIS_URL`. See [authentication](authentication.md).",
    )
    key_pepper: str | None = setting(
        "ORCHESTRATOR_KEY_PEPPER",
        None,
        rules.secret,
        "The secret under which API keys are kept as digests: whoever reads the file can't use "
        "them. With another one all keys are void.",
        secret=True,
    )
    jwt_secret: str | None = setting(
        "ORCHESTRATOR_JWT_SECRET",
        None,
        rules.secret,
        "Ask for credentials, and take tokens that are signed with this secret (HS256).",
        secret=True,
    )
    jwt_key_file: Path | None = setting(
        "ORCHESTRATOR_JWT_KEY_FILE",
        None,
        rules.file,
        "The same with a public key (PEM), for RS256 or ES256.",
    )
    jwt_jwks_url: str | None = setting(
        "ORCHESTRATOR_JWT_JWKS_URL",
        None,
        rules.private_url,
        "The same with the public keys that an issuer has at this address (JWKS).",
    )
    jwt_algorithm: str | None = setting(
        "ORCHESTRATOR_JWT_ALGORITHM",
        None,
        rules.one_of("HS256", "RS256", "ES256"),
        "The only algorithm that is taken. Unset: HS256 with a secret, RS256 with a public key.",
    )
    jwt_issuer: str | None = setting(
        "ORCHESTRATOR_JWT_ISSUER", None, rules.text, "What `iss` of a token must be."
    )
    jwt_audience: str | None = setting(
        "ORCHESTRATOR_JWT_AUDIENCE", None, rules.text, "What `aud` of a token must have."
    )
    jwt_tenant_claim: str = setting(
        "ORCHESTRATOR_JWT_TENANT_CLAIM",
        "sub",
        rules.text,
        "The claim that says whose requests a token's are. By default each subject has its own.",
    )
    rate_limit: tuple[rate.Rate, ...] = setting(
        "ORCHESTRATOR_RATE_LIMIT",
        (),
        rate.parse,
        "How many calls each caller may make: by its key or token, else by its address. A key's "
        "own rate wins. See [limits](limits.md).",
    )
    requests_per_caller: int | None = setting(
        "ORCHESTRATOR_REQUESTS_PER_CALLER",
        None,
        rules.integer(1, 1_000_000),
        "How many requests of a caller may wait or run at once.",
    )
    streams_per_caller: int | None = setting(
        "ORCHESTRATOR_STREAMS_PER_CALLER",
        None,
        rules.integer(1, 100_000),
        "How many streams and sockets a caller may have open at once.",
    )
    tokens_a_day: int | None = setting(
        "ORCHESTRATOR_TOKENS_A_DAY",
        None,
        rules.integer(1, 10**12),
        "How many tokens a caller may use from midnight to midnight, UTC.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "ORCHESTRATOR_TRUSTED_PROXIES",
        (),
        rules.networks,
        "Whose word is taken, in X-Forwarded-For, for the address of a caller. Unset: nobody's.",
    )
    cors_origins: tuple[str, ...] = setting(
        "ORCHESTRATOR_CORS_ORIGINS",
        (),
        rules.origins,
        "Other origins whose pages may use the API, over HTTP and WebSocket. Unset: its own only.",
    )
    log_messages: bool = setting(
        "ORCHESTRATOR_LOG_MESSAGES",
        False,
        rules.yes,
        "`yes`: tracebacks in the log say what their exceptions say. That may quote prompts and "
        "answers: for development.",
    )
    trusted_hosts: tuple[str, ...] = setting(
        "ORCHESTRATOR_TRUSTED_HOSTS",
        (),
        rules.hosts,
        "The names that clients call the service by, as their Host header says them. Any other is "
        "answered with 400, but for health checks. Unset: any.",
    )
    tls_cert: str | None = setting(
        "ORCHESTRATOR_TLS_CERT",
        None,
        rules.text,
        "A certificate file (PEM, its chain included); with the key: https, and no other.",
    )
    tls_key: str | None = setting(
        "ORCHESTRATOR_TLS_KEY", None, rules.text, "Its key file (PEM), without a passphrase."
    )

    @property
    def keys_path(self) -> Path:
        """The file that holds API keys, if a file does."""
        return Path(self.api_keys or "")

    @property
    def asks_for_credentials(self) -> bool:
        """Whether callers must say who they are."""
        return any((self.api_keys, self.jwt_secret, self.jwt_key_file, self.jwt_jwks_url))

    @property
    def secrets(self) -> frozenset[str]:
        """All that must never be shown: keys, passwords, and addresses that have one."""
        values = {getattr(self, item.name) for item in fields(self) if not item.repr}
        texts = [value for value in values if isinstance(value, str)]
        passwords = [urlsplit(text).password or "" for text in texts if "://" in text]
        tables = self.routes.backends.values() if self.routes else ()
        found = (*texts, *passwords, *map(unquote, passwords), *(table.api_key for table in tables))
        return frozenset(text for text in found if text)

    @property
    def kind(self) -> str:
        """The kind of ``backend``, one of KINDS."""
        return self.backend if self.backend in routes_file.KINDS else "python"

    @property
    def server(self) -> tuple[str | None, str | None]:
        """Where the server of ``backend`` is, and the key for it; None where there is none."""
        match self.backend:
            case "openai":
                return self.openai_base_url, self.openai_api_key
            case "anthropic":
                return self.anthropic_base_url, self.anthropic_api_key
        return None, None

    @property
    def model_name(self) -> str:
        """What clients call the default model; always "echo" for echo, which is not a model."""
        if self.routes:
            return next(iter(self.routes.models))
        named = self.model if self.backend != "echo" else None
        return routes_file.KINDS[self.kind].public_name(named or self.backend)

    @property
    def queue_url(self) -> str:
        """Where messages to workers wait; only where there is a Redis."""
        if self.queue_redis_url:
            return self.queue_redis_url
        parts = urlsplit(self.redis_url or "")
        database = int(parts.path.strip("/") or 0)
        return urlunsplit(parts._replace(path=f"/{database + 1}"))

    @property
    def address(self) -> str:
        """Where to reach the service from this machine."""
        host = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::1", "::") else self.url_host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    @property
    def url_host(self) -> str:
        """The host as it stands in an address."""
        return f"[{self.host}]" if ":" in self.host else self.host
