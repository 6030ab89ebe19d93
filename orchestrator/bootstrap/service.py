"""The service of a process that answers clients, made of the settings."""

from orchestrator.bootstrap.routes import Routes, tables_of
from orchestrator.bootstrap.stores import broker_of, memory_store, redis_store
from orchestrator.dispatch.dramatiq.dispatcher import DramatiqDispatcher
from orchestrator.dispatch.pool import Pool
from orchestrator.runner import Runner
from orchestrator.schemas import SubmitReader
from orchestrator.service import Service
from orchestrator.settings import Settings

PATIENCE_S = 1.0
"""How long a run waits for Redis: somebody waits for the answer to a submit."""


def build_service(settings: Settings) -> Service:
    """Return the service of a process that answers clients. Raises ConfigError.

    It runs requests itself, in memory, and loads local models from then on; or it leaves all that
    to workers, where there is a Redis.
    """
    routes = Routes(settings)
    if settings.redis_url:
        return _shared_service(settings, settings.redis_url, routes)
    return _service_in_memory(settings, routes)


def _shared_service(settings: Settings, url: str, routes: Routes) -> Service:
    store = redis_store(url, settings, PATIENCE_S)
    runner = Runner(store, routes.of.__getitem__)
    dispatcher = DramatiqDispatcher(broker_of(settings), store, runner)
    return Service(store, dispatcher, routes.models, sweep_s=sweep_s_of(settings))


def _service_in_memory(settings: Settings, routes: Routes) -> Service:
    store = memory_store(settings)
    concurrency = min(settings.concurrency, routes.most_at_once or settings.concurrency)
    pool = Pool(Runner(store, routes.of.__getitem__), concurrency, gates=routes.gates)
    routes.start()
    return Service(store, pool, routes.models, close=routes.close)


def sweep_s_of(settings: Settings) -> float:
    """Return how often each process sweeps a shared store: well within a lease."""
    return min(2.0, settings.lease_s / 3)


def build_reader(settings: Settings, service: Service) -> SubmitReader:
    """Return what makes requests of bodies, with these settings' defaults."""
    names = [model.id for model in service.models]
    timeouts = {
        name: model.timeout_s
        for name, model in tables_of(settings).models.items()
        if model.timeout_s is not None
    }
    return SubmitReader(names, settings.timeout_s, settings.queue_timeout_s, timeouts)
