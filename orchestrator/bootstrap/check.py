"""What a configuration means, in words, and whether each of its backends answers."""

from collections.abc import Iterator, Sequence

from orchestrator import tls
from orchestrator.bootstrap.backends import MAKERS
from orchestrator.bootstrap.entrance import build_entrance
from orchestrator.bootstrap.routes import Routes, tables_of, timeouts_of
from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.errors import ConfigError, PipelineUnavailable, UpstreamError
from orchestrator.rate import parse
from orchestrator.routes_file import BackendTable, ModelTable, RoutesFile
from orchestrator.settings import Settings
from orchestrator.stores.redis.store import RedisStore
from orchestrator.urls import without_secrets

SHOWN_MODELS = 10


def check_redis(settings: Settings) -> Sequence[str]:
    """Return what is unwise in how Redis is set up, a sentence each.

    Raises ConfigError where none answers, or one that can't be used.
    """
    store = RedisStore(settings.redis_url or "", queue_limit=1, retention_s=1.0)
    try:
        advice = store.check()
    except PipelineUnavailable as error:
        raise ConfigError(
            "REDIS_URL names no Redis that answers; why stands above. Start one there, or mend "
            "the address; `run-scaled` without REDIS_URL starts one with the rest."
        ) from error
    finally:
        store.close()
    if not Broker(settings.queue_url).check():
        raise ConfigError(
            "Redis doesn't answer where messages to workers are to wait. Mend "
            "ORCHESTRATOR_QUEUE_REDIS_URL."
        )
    return advice


class Check:
    """A look at what ``settings`` name. ``ok`` says whether every backend and Redis answered."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where the settings can't be served."""
        if settings.tls_cert and (fault := tls.fault(settings.tls_cert, settings.tls_key)):
            raise ConfigError(fault)
        Routes(settings)
        build_entrance(settings)
        self._settings = settings
        self._tables = tables_of(settings)
        self.ok = True

    def lines(self) -> Iterator[str]:
        """Ask every backend, and Redis; yield what comes of it, for people to read."""
        yield self._tables.path
        yield from self._backends()
        yield from self._models()
        yield from self._redis()

    def _backends(self) -> Iterator[str]:
        yield "Backends:"
        for table in self._tables.backends.values():
            place = f" at {without_secrets(table.base_url)}" if table.base_url else ""
            limit = table.max_concurrency
            most = f", at most {limit} requests at once" if limit else ""
            yield f"  {table.name}: {table.kind}{place}{most}: {self._state(table)}"

    def _state(self, table: BackendTable) -> str:
        models = MAKERS[table.kind].models
        if models is None:
            return "runs here."
        try:
            known = models(table)
        except UpstreamError as error:
            self.ok = False
            return f"FAILS: {error.message}."
        if not known:
            return "answers, but names no models: is base_url right? Most end in /v1."
        missing = [name for name in _models_at(self._tables, table.name) if name not in known]
        if not missing:
            return "answers."
        listed = ", ".join(known[:SHOWN_MODELS]) + (", ..." if len(known) > SHOWN_MODELS else "")
        return f"answers, but does not list {', '.join(missing)}; it lists {listed}."

    def _models(self) -> Iterator[str]:
        yield "Models:"
        for place, model in enumerate(self._tables.models.values()):
            also = "" if place else " (also for requests that name none)"
            yield f"  {model.name}{also}: {', then '.join(map(str, model.targets))}"
            yield f"    {self._persistence(model)}"
            yield f"    {self._times(model)}"
            if model.cache_ttl_s:
                yield f"    answers are kept for {model.cache_ttl_s:g} s"
            if model.coalesce:
                yield "    identical requests share one call"
            yield from self._limits(model)

    def _limits(self, model: ModelTable) -> Iterator[str]:
        if model.rate_limit:
            rates = ", ".join(map(str, parse(model.rate_limit)))
            yield f"    each caller may submit {rates}"
        if model.tokens_a_day:
            yield f"    each caller may use {model.tokens_a_day} tokens a day"

    def _persistence(self, model: ModelTable) -> str:
        return (
            f"{model.retries} retries a target; a Retry-After of up to "
            f"{model.retry_after_max_s:g} s is waited for"
        )

    def _times(self, model: ModelTable) -> str:
        times = timeouts_of(model, self._settings)
        return (
            f"{times.connect_timeout_s:g} s to connect, "
            f"{times.first_token_timeout_s:g} s to the first token, "
            f"{times.idle_timeout_s:g} s between two, "
            f"{model.timeout_s or self._settings.timeout_s:g} s in all"
        )

    def _redis(self) -> Iterator[str]:
        if not self._settings.redis_url:
            return
        yield "Redis:"
        place = without_secrets(self._settings.redis_url)
        try:
            advice = check_redis(self._settings)
        except ConfigError as error:
            self.ok = False
            yield f"  {place}: FAILS: {error.message}"
            return
        queue = without_secrets(self._settings.queue_url)
        yield f"  {place}: answers. Messages to workers: {queue}"
        yield from (f"    {sentence}" for sentence in advice)


def _models_at(file: RoutesFile, backend: str) -> Sequence[str]:
    targets = [target for model in file.models.values() for target in model.targets]
    return list(dict.fromkeys(target.model for target in targets if target.backend == backend))
