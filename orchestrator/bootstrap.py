"""The composition root: settings in, a service out. Only here are concrete classes named."""

from orchestrator.backends.anthropic import AnthropicBackend
from orchestrator.backends.base import Backend
from orchestrator.backends.echo import EchoBackend
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.backends.python import PythonBackend
from orchestrator.backends.upstream import Limits
from orchestrator.config import Settings
from orchestrator.dispatch.pool import Pool
from orchestrator.runner import Runner
from orchestrator.schemas import SubmitReader
from orchestrator.service import Model, Service
from orchestrator.stores.memory import MemoryStore


def build_backend(settings: Settings) -> Backend:
    """Return the backend that the settings name. Raises ConfigError."""
    if settings.backend == "echo":
        return EchoBackend(settings.echo_delay_s)
    limits = Limits(
        connect_timeout_s=settings.connect_timeout_s,
        first_token_timeout_s=settings.first_token_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        max_connections=settings.concurrency,
    )
    if settings.backend == "openai":
        return OpenAIBackend(
            settings.openai_base_url, settings.model or "", settings.openai_api_key, **limits
        )
    if settings.backend == "anthropic":
        return AnthropicBackend(
            settings.model or "",
            settings.anthropic_api_key or "",
            base_url=settings.anthropic_base_url,
            **limits,
        )
    return PythonBackend(settings.backend, max_threads=settings.concurrency)


def build_service(settings: Settings) -> Service:
    """Return a service over the memory store and the in-process pool."""
    backend = build_backend(settings)
    store = MemoryStore(
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        memory_limit=settings.memory_limit_mb * 1024 * 1024,
    )
    pool = Pool(Runner(store, backend), settings.concurrency)
    return Service(store, pool, [Model(settings.model or backend.name, backend.name)])


def build_reader(settings: Settings, service: Service) -> SubmitReader:
    """Return what makes requests of bodies, with these settings' defaults."""
    names = [model.id for model in service.models]
    return SubmitReader(names, settings.timeout_s, settings.queue_timeout_s)
