"""What a worker process runs, made of the settings."""

from orchestrator.bootstrap.routes import Routes
from orchestrator.bootstrap.service import sweep_s_of
from orchestrator.bootstrap.stores import broker_of, redis_store
from orchestrator.dispatch.dramatiq.broker import Broker
from orchestrator.dispatch.dramatiq.dispatcher import DramatiqDispatcher
from orchestrator.dispatch.dramatiq.duties import Duties
from orchestrator.errors import ConfigError
from orchestrator.housekeeping import Housekeeping
from orchestrator.runner import Runner
from orchestrator.settings import Settings

PATIENCE_S = 60.0
"""How long a run waits for Redis: nobody waits for a submit here."""


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
    store = redis_store(url, settings, PATIENCE_S)
    runner = Runner(store, routes.of.__getitem__)
    broker = broker_of(settings)
    dispatcher = DramatiqDispatcher(broker, store, runner)
    housekeeping = Housekeeping(store, dispatcher, sweep_s_of(settings))
    duties = Duties(
        runner,
        store,
        dispatcher,
        helpers=[routes.start, housekeeping.start],
        close=routes.close,
        models=[model.id for model in routes.models],
        most_at_once=routes.most_at_once,
        renew_s=settings.lease_s / 3,
        graceful_s=settings.graceful_timeout_s,
        sign=settings.worker_sign,
    )
    duties.declare(broker)
    return broker
