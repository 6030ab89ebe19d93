"""The limiter, made of the settings."""

from orchestrator.bootstrap.routes import tables_of
from orchestrator.limits.limiter import Limiter
from orchestrator.limits.memory import MemoryPlaces, MemoryWindows
from orchestrator.limits.rules import ModelRules, Rules
from orchestrator.limits.shared import Company, PlacesOfAll, WindowsOfAll
from orchestrator.rate import parse
from orchestrator.settings import Settings
from orchestrator.stores.redis.limits import RedisLimits


def build_limiter(settings: Settings) -> Limiter | None:
    """Return the limiter; None where nothing is limited, and no key may have a rate."""
    rules = _rules(settings)
    if not rules.has_any and not settings.api_keys:
        return None
    if not settings.redis_url:
        return Limiter(rules, MemoryWindows(), MemoryPlaces())
    shared = RedisLimits(settings.redis_url)
    company = Company(settings.workers)
    places = PlacesOfAll(shared, company)
    return Limiter(rules, WindowsOfAll(shared, company), places, places.start)


def _rules(settings: Settings) -> Rules:
    models = {
        name: ModelRules(
            parse(model.rate_limit) if model.rate_limit else (), model.tokens_a_day or 0
        )
        for name, model in tables_of(settings).models.items()
    }
    return Rules(
        settings.rate_limit,
        settings.requests_per_caller or 0,
        settings.streams_per_caller or 0,
        settings.tokens_a_day or 0,
        models=models,
    )
