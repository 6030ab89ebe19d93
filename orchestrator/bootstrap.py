"""The composition root: settings in, a service out. Only here are concrete classes named."""

from pathlib import Path

from orchestrator.backends.base import Backend
from orchestrator.backends.echo import EchoBackend
from orchestrator.backends.engine import EngineBackend
from orchestrator.backends.local_models import model_source
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.backends.python import PythonBackend
from orchestrator.config import Settings
from orchestrator.dispatch.pool import Pool
from orchestrator.errors import ConfigError
from orchestrator.runner import Runner
from orchestrator.schemas import SubmitReader
from orchestrator.service import Model, Service
from orchestrator.stores.memory import MemoryStore


def build_backend(settings: Settings) -> Backend:
    """Return the backend that the settings name. Raises ConfigError."""
    if settings.backend == "echo":
        return EchoBackend(settings.echo_delay_s)
    if settings.backend == "openai":
        return OpenAIBackend(
            settings.openai_base_url,
            settings.model or "",
            settings.openai_api_key,
            connect_timeout_s=settings.connect_timeout_s,
            first_token_timeout_s=settings.first_token_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_connections=settings.concurrency,
        )
    if settings.backend == "engine":
        return _engine(settings)
    return PythonBackend(settings.backend, max_threads=settings.concurrency)


def _engine(settings: Settings) -> EngineBackend:
    """Return the engine, with its model being fetched and loaded in the background."""
    try:
        cache = settings.cache_home.expanduser() / "orchestrator" / "models"
    except RuntimeError:
        raise ConfigError(
            "XDG_CACHE_HOME is not set, and this user has no home: set it to a folder."
        ) from None
    engine = EngineBackend(
        model_source(settings.model or "", cache, settings.hub_url),
        slots=settings.engine_slots,
        context=settings.engine_context,
        connect_timeout_s=settings.connect_timeout_s,
        first_token_timeout_s=settings.first_token_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )
    engine.start()
    return engine


def build_service(settings: Settings) -> Service:
    """Return a service over the memory store and the in-process pool."""
    backend = build_backend(settings)
    store = MemoryStore(
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        memory_limit=settings.memory_limit_mb * 1024 * 1024,
    )
    pool = Pool(Runner(store, backend), _concurrency(settings))
    return Service(store, pool, [Model(_model_name(settings), backend.name)])


def _concurrency(settings: Settings) -> int:
    """Requests wait in our queue, by priority and with a position, not in the engine's."""
    if settings.backend == "engine":
        return min(settings.concurrency, settings.engine_slots)
    return settings.concurrency


def _model_name(settings: Settings) -> str:
    """What clients call the model: never the path of a file on this machine."""
    name = settings.model or settings.backend
    return Path(name).name if settings.backend == "engine" else name


def build_reader(settings: Settings, service: Service) -> SubmitReader:
    """Return what makes requests of bodies, with these settings' defaults."""
    names = [model.id for model in service.models]
    return SubmitReader(names, settings.timeout_s, settings.queue_timeout_s)
