"""How a backend of each kind is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.backends.anthropic import AnthropicBackend, headers_of
from orchestrator.backends.base import Backend
from orchestrator.backends.echo import EchoBackend
from orchestrator.backends.engine.backend import EngineBackend
from orchestrator.backends.engine.engines import Engines
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.backends.probe import list_models
from orchestrator.backends.python import PythonBackend
from orchestrator.backends.upstream import Limits
from orchestrator.errors import ConfigError
from orchestrator.routes_file import ENGINE_CONTEXT, BackendTable
from orchestrator.urls import joined


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What a backend is given of a model's times, in seconds."""

    connect_timeout_s: float
    first_token_timeout_s: float
    idle_timeout_s: float

    @property
    def silence_s(self) -> float:
        """How long a backend with these may wait until an answer begins: for a place first, too."""
        return self.connect_timeout_s + 2 * self.first_token_timeout_s


@dataclass(frozen=True, slots=True)
class Order:
    """All that is needed to make the backend of one target.

    ``where`` is the setting or key that names its model or callable, for an error to begin with.
    """

    table: BackendTable
    model: str
    timeouts: Timeouts
    concurrency: int
    engines: Engines
    where: str = field(compare=False)

    @property
    def limits(self) -> Limits:
        """What a backend over HTTP is given."""
        return Limits(
            connect_timeout_s=self.timeouts.connect_timeout_s,
            first_token_timeout_s=self.timeouts.first_token_timeout_s,
            idle_timeout_s=self.timeouts.idle_timeout_s,
            max_connections=self.concurrency,
        )


def _openai(order: Order) -> Backend:
    return OpenAIBackend(
        order.table.base_url or "",
        order.model,
        order.table.api_key,
        **order.limits,
    )


def _anthropic(order: Order) -> Backend:
    return AnthropicBackend(
        order.model,
        order.table.api_key or "",
        base_url=order.table.base_url or "",
        **order.limits,
    )


def _python(order: Order) -> Backend:
    try:
        return PythonBackend(order.table.callable or "", max_threads=order.concurrency)
    except ConfigError as error:
        raise ConfigError(f"{order.where}: {error.message}") from error


def _echo(order: Order) -> Backend:
    return EchoBackend(order.table.delay_s)


def _engine(order: Order) -> Backend:
    process = order.engines.process(
        order.model,
        slots=order.concurrency,
        context=order.table.context or ENGINE_CONTEXT,
        where=order.where,
    )
    return EngineBackend(process, **order.limits)


def _openai_models(table: BackendTable) -> Sequence[str]:
    key = {"Authorization": f"Bearer {table.api_key}"} if table.api_key else {}
    return list_models(table.base_url or "", key)


def _anthropic_models(table: BackendTable) -> Sequence[str]:
    return list_models(joined(table.base_url or "", "/v1"), headers_of(table.api_key or ""))


@dataclass(frozen=True, slots=True)
class Maker:
    """How a backend of one kind is made, and asked for its models where it's a server.

    ``make`` raises ConfigError, ``models`` UpstreamError where the server doesn't answer.
    """

    make: Callable[[Order], Backend]
    models: Callable[[BackendTable], Sequence[str]] | None = None


MAKERS = {
    "openai": Maker(_openai, _openai_models),
    "anthropic": Maker(_anthropic, _anthropic_models),
    "engine": Maker(_engine),
    "python": Maker(_python),
    "echo": Maker(_echo),
}
