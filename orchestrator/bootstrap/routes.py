"""The routes of all models, made of the settings: targets, breakers, slots, caches."""

import json
import math
from functools import partial

from orchestrator.backends.base import Backend
from orchestrator.backends.engine.engines import Engines
from orchestrator.bootstrap.backends import MAKERS, Order, Timeouts
from orchestrator.config import environment
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
from orchestrator.service import Model
from orchestrator.settings import Settings
from orchestrator.stores.cache import Cache
from orchestrator.stores.memory.cache import MemoryCache
from orchestrator.stores.redis.alarms import RedisAlarms
from orchestrator.stores.redis.cache import RedisCache


def tables_of(settings: Settings) -> RoutesFile:
    """Return the backends and models: those of the file, or what the environment says instead."""
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
        self._tables = tables_of(settings)
        self._engines = Engines(settings.cache_home, settings.hub_url, environment())
        self._backends: dict[Order, Backend] = {}
        self._breakers: dict[TargetName, Breaker] = {}
        self._slots = {
            name: Slots(table.max_concurrency) for name, table in self._tables.backends.items()
        }
        self._cache = _cache(settings)
        self._alarms = RedisAlarms(settings.redis_url) if settings.redis_url else None
        self.of: dict[str, Route] = {}
        self.gates: dict[str, Gate] = {}
        self.models: list[Model] = []
        """The models that requests may name, the default one first."""
        for model in self._tables.models.values():
            self._add(model)

    @property
    def most_at_once(self) -> int | None:
        """How many requests are worth running at once; None for no such limit.

        Where all is run by one backend on this machine, more would only wait for it. With several,
        a limit as low as the places of one would keep requests from the others, and so it would
        those that share a call, and need no place of their own.
        """
        first, *others = self._tables.backends.values()
        shared = any(model.coalesce for model in self._tables.models.values())
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
            table = self._tables.backends[target.backend]
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
        table = self._tables.backends[model.targets[place].backend]
        if not self._settings.routes:
            return "ORCHESTRATOR_BACKEND" if table.callable else "ORCHESTRATOR_MODEL"
        if table.callable:
            return f"{self._tables.path}: backends.{table.name}.callable"
        return f"{self._tables.path}: models.{model.name}.targets[{place}]"

    def _target(self, name: TargetName, timeouts: Timeouts, where: str) -> Target:
        table = self._tables.backends[name.backend]
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


def _cache(settings: Settings) -> Cache:
    limit = settings.cache_mb * 1024 * 1024
    return RedisCache(settings.redis_url, limit) if settings.redis_url else MemoryCache(limit)
