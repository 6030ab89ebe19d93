"""The composition root: settings in, a service out. Here and in makers are classes named."""

import json
import logging
import math
from functools import partial

from orchestrator.backends.base import Backend
from orchestrator.backends.engine.engines import Engines
from orchestrator.config import environment
from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.dispatch.dramatiq.dispatcher import DramatiqDispatcher
from orchestrator.dispatch.dramatiq.duties import Duties
from orchestrator.dispatch.pool import Pool
from orchestrator.errors import ConfigError, PipelineUnavailable
from orchestrator.makers import MAKERS, Order, Timeouts
from orchestrator.routes_file import (
    KINDS,
    BackendTable,
    ModelTable,
    RoutesFile,
    TargetName,
)
from orchestrator.routing.base import Gate, Route, Through
from orchestrator.routing.breaker import Breaker
from orchestrator.routing.cache import Cached
from orchestrator.routing.coalesce import Coalesced
from orchestrator.routing.failover import Failover
from orchestrator.routing.outage import Outage
from orchestrator.routing.retry import Policy
from orchestrator.routing.slots import Slots
from orchestrator.routing.target import Target
from orchestrator.runner import Runner
from orchestrator.schemas import SubmitReader
from orchestrator.service import Model, Service
from orchestrator.settings import Settings
from orchestrator.stores.cache import Cache
from orchestrator.stores.memory import MemoryStore
from orchestrator.stores.memory_cache import MemoryCache
from orchestrator.stores.redis.alarms import RedisAlarms
from orchestrator.stores.redis.cache import RedisCache
from orchestrator.stores.redis.store import Leases, RedisStore

logger = logging.getLogger("orchestrator")

WEB_PATIENCE_S = 1.0
WORKER_PATIENCE_S = 60.0
"""How long a run waits for Redis. In a web process someone waits for the answer to a submit."""


def routes_file(settings: Settings) -> RoutesFile:
    """Return the file of the settings, or what the environment says in its place."""
    if settings.routes:
        return settings.routes
    base_url, api_key = settings.server
    table = BackendTable(
        name=settings.backend,
        kind=settings.kind,
        base_url=base_url,
        api_key=api_key,
        callable=settings.backend if settings.kind == "python" else None,
        delay_s=settings.echo_delay_s,
        context=settings.engine_context,
        max_concurrency=settings.engine_slots if settings.kind == "engine" else None,
    )
    name = settings.model_name
    model = ModelTable(name=name, targets=(TargetName(settings.backend, settings.model or ""),))
    return RoutesFile("the environment", {table.name: table}, {name: model})


def timeouts_of(model: ModelTable, usual: Settings) -> Timeouts:
    """Return a model's times, with the settings' for those that it doesn't give."""
    return Timeouts(
        model.connect_timeout_s or usual.connect_timeout_s,
        model.first_token_timeout_s or usual.first_token_timeout_s,
        model.idle_timeout_s or usual.idle_timeout_s,
    )


class Routes:
    """The routes of all models; their targets share what belongs to a backend."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._file = routes_file(settings)
        self._engines = Engines(settings.cache_home, settings.hub_url, environment())
        self._backends: dict[Order, Backend] = {}
        self._breakers: dict[TargetName, Breaker] = {}
        self._slots = {
            name: Slots(table.max_concurrency) for name, table in self._file.backends.items()
        }
        self._cache = _cache(settings)
        self._alarms = RedisAlarms(settings.redis_url) if settings.redis_url else None
        self.of: dict[str, Route] = {}
        self.gates: dict[str, Gate] = {}
        self.models: list[Model] = []
        """The models that requests may name, the default one first."""
        for model in self._file.models.values():
            self._add(model)

    @property
    def most_at_once(self) -> int | None:
        """How many requests are worth running at once; None for no such limit.

        Where all is run by one backend on this machine, more would only wait for it. With several,
        a limit as low as the places of one would keep requests from the others, and so it would
        those that share a call, and need no place of their own.
        """
        first, *others = self._file.backends.values()
        shared = any(model.coalesce for model in self._file.models.values())
        if others or shared or not KINDS[first.kind].local:
            return None
        return first.max_concurrency

    def start(self) -> None:
        """Start what answers here and takes time to begin. To be called once."""
        self._engines.start()

    def close(self) -> None:
        """End what answers here. Requests that it still runs fail."""
        self._engines.close()

    def _add(self, model: ModelTable) -> None:
        failover = self._failover(model)
        route: Route = failover
        gate: Gate = failover
        recall = None
        identity = self._identity(model)
        if model.cache_ttl_s:
            kept = partial(Cached, identity=identity, cache=self._cache, ttl_s=model.cache_ttl_s)
            route = cached = kept(failover)
            recall = cached.recall
            gate = Through(gate, lambda admission: kept(admission.route))
        if model.coalesce:
            # Outermost: one of many asks the cache, and its answer is kept once.
            route = coalesced = Coalesced(route, identity)
            gate = Through(gate, coalesced.admitted, coalesced.alike)
        self.of[model.name] = route
        self.gates[model.name] = gate
        # With a Redis this process may ask nobody itself: it goes by what the workers tell.
        targets = list(map(str, model.targets))
        watch = Outage(model.name, targets, self._alarms) if self._alarms else failover
        self.models.append(Model(model.name, failover.name, watch.check, recall))

    def _identity(self, model: ModelTable) -> str:
        """Return who is asked: a changed file must not find the answers of an earlier one."""
        asked = []
        for target in model.targets:
            table = self._file.backends[target.backend]
            asked.append([str(target), table.kind, table.base_url, table.callable, table.context])
        return json.dumps([model.name, asked])

    def _failover(self, model: ModelTable) -> Failover:
        policy = Policy(model.retries, model.retry_after_max_s)
        timeouts = timeouts_of(model, self._settings)
        targets = [
            self._target(target, timeouts, self._where(model, place))
            for place, target in enumerate(model.targets)
        ]
        return Failover(model.name, targets, policy)

    def _where(self, model: ModelTable, place: int) -> str:
        table = self._file.backends[model.targets[place].backend]
        if not self._settings.routes:
            return "ORCHESTRATOR_BACKEND" if table.callable else "ORCHESTRATOR_MODEL"
        if table.callable:
            return f"{self._file.path}: backends.{table.name}.callable"
        return f"{self._file.path}: models.{model.name}.targets[{place}]"

    def _target(self, name: TargetName, timeouts: Timeouts, where: str) -> Target:
        table = self._file.backends[name.backend]
        concurrency = min(self._settings.concurrency, table.max_concurrency or 10_000)
        order = Order(table, name.model, timeouts, concurrency, self._engines, where)
        if order not in self._backends:
            self._backends[order] = MAKERS[table.kind].make(order)
        public = TargetName(name.backend, KINDS[table.kind].public_name(name.model))
        title = str(public) if self._settings.routes else name.backend
        slots = self._slots[name.backend]
        silence_s = timeouts.silence_s if KINDS[table.kind].names_models else math.inf
        return Target(title, self._backends[order], self._breaker(name, title), slots, silence_s)

    def _breaker(self, name: TargetName, title: str) -> Breaker:
        if name not in self._breakers:
            tell = partial(self._alarms.note, str(name)) if self._alarms else None
            self._breakers[name] = Breaker(title, tell=tell)
        return self._breakers[name]


def build_service(settings: Settings) -> Service:
    """Return the service of a process that answers clients. Raises ConfigError.

    It runs requests itself, in memory, and loads local models from then on; or it leaves all that
    to workers, where there is a Redis.
    """
    routes = Routes(settings)
    if settings.redis_url:
        store = _redis_store(settings.redis_url, settings, WEB_PATIENCE_S)
        runner = Runner(store, routes.of.__getitem__)
        dispatcher = DramatiqDispatcher(_broker(settings), store, runner)
        return _shared_service(settings, store, dispatcher, routes)
    return _service_in_memory(settings, routes)


def _service_in_memory(settings: Settings, routes: Routes) -> Service:
    store = MemoryStore(
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        memory_limit=settings.memory_limit_mb * 1024 * 1024,
    )
    concurrency = min(settings.concurrency, routes.most_at_once or settings.concurrency)
    pool = Pool(Runner(store, routes.of.__getitem__), concurrency, gates=routes.gates)
    routes.start()
    return Service(store, pool, routes.models, close=routes.close)


def redis_of_worker(settings: Settings) -> str:
    """Return where a worker's requests are. Raises ConfigError where it can have none."""
    if not settings.redis_url:
        raise ConfigError(
            "REDIS_URL is not set. Workers take their requests from Redis: give them the same "
            "address as the web processes."
        )
    return settings.redis_url


def build_worker(settings: Settings) -> Broker:
    """Return the broker whose messages this process is to run. Raises ConfigError."""
    url = redis_of_worker(settings)
    routes = Routes(settings)
    store = _redis_store(url, settings, WORKER_PATIENCE_S)
    runner = Runner(store, routes.of.__getitem__)
    broker = _broker(settings)
    dispatcher = DramatiqDispatcher(broker, store, runner)
    duties = Duties(
        runner,
        store,
        dispatcher,
        helpers=[routes.start, _shared_service(settings, store, dispatcher, routes).start],
        close=routes.close,
        models=[model.id for model in routes.models],
        most_at_once=routes.most_at_once,
        renew_s=settings.lease_s / 3,
        graceful_s=settings.graceful_timeout_s,
        sign=settings.worker_sign,
    )
    duties.declare(broker)
    return broker


def _cache(settings: Settings) -> Cache:
    limit = settings.cache_mb * 1024 * 1024
    return RedisCache(settings.redis_url, limit) if settings.redis_url else MemoryCache(limit)


def _redis_store(url: str, settings: Settings, patience_s: float) -> RedisStore:
    store = RedisStore(
        url,
        queue_limit=settings.queue_limit,
        retention_s=settings.retention_s,
        leases=Leases(settings.lease_s, grace_s=settings.lease_s / 2),
        patience_s=patience_s,
    )
    try:
        for sentence in store.check():
            logger.warning("%s", sentence)
    except PipelineUnavailable as error:
        # It is waited for: nothing needs a restart when it comes.
        logger.warning("%s", error.message)
    return store


def _broker(settings: Settings) -> Broker:
    broker = Broker(settings.queue_url)
    broker.check()
    return broker


def _shared_service(
    settings: Settings, store: RedisStore, dispatcher: DramatiqDispatcher, routes: Routes
) -> Service:
    return Service(store, dispatcher, routes.models, sweep_s=min(2.0, settings.lease_s / 3))


def build_reader(settings: Settings, service: Service) -> SubmitReader:
    """Return what makes requests of bodies, with these settings' defaults."""
    names = [model.id for model in service.models]
    timeouts = {
        name: model.timeout_s
        for name, model in routes_file(settings).models.items()
        if model.timeout_s is not None
    }
    return SubmitReader(names, settings.timeout_s, settings.queue_timeout_s, timeouts)
