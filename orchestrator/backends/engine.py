"""A local model: llama.cpp in a child process, asked over loopback like any other server."""

from collections.abc import Generator, Sequence
from importlib.util import find_spec

from orchestrator.backends.base import Backend, Finish, Message
from orchestrator.backends.engine_process import EngineProcess
from orchestrator.backends.local_models import ModelSource
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.errors import ConfigError
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

_PACKAGE = "xllamacpp"

# With it the server writes while it reads a prompt, and so notices sooner that nobody listens.
_EXTRA = {"return_progress": True}


class EngineBackend:
    """Answers with a GGUF model, ``slots`` requests at once of ``context`` tokens each.

    Times are in seconds. A request that comes before the model is loaded, or while all slots are
    taken, waits for that as long as it may then wait for its first token.
    """

    name = "engine"

    def __init__(
        self,
        model: ModelSource,
        *,
        slots: int,
        context: int,
        connect_timeout_s: float,
        first_token_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        """Raises ConfigError where the engine isn't installed."""
        if find_spec(_PACKAGE) is None:
            raise ConfigError(
                f"The engine needs {_PACKAGE}, which is not installed: run 'pip install -r "
                "requirements-local.txt', or start with 'ORCHESTRATOR_BACKEND=engine make run'."
            )
        self._patience_s = first_token_timeout_s

        def connect(base_url: str, key: str) -> Backend:
            return OpenAIBackend(
                base_url,
                self.name,
                key,
                connect_timeout_s=connect_timeout_s,
                first_token_timeout_s=first_token_timeout_s,
                idle_timeout_s=idle_timeout_s,
                # It closes a kept one when it likes; on loopback a new one costs next to nothing.
                max_connections=0,
                extra_body=_EXTRA,
            )

        self.process = EngineProcess(model, slots, context, connect)

    def start(self) -> None:
        """Begin to fetch and load the model, in the background."""
        self.process.start()

    def close(self) -> None:
        """End the engine."""
        self.process.close()

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Finish, None, None]:
        """Yield the answer as it comes. Raises what OpenAIBackend does."""
        with self.process.slot(stop, self._patience_s) as client:
            yield from client.stream(request, messages, stop)
