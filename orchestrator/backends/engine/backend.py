"""A local model: llama.cpp in a child process, asked over loopback like any other server."""

from collections.abc import Sequence
from typing import Unpack

from orchestrator.backends.base import Message, Pieces
from orchestrator.backends.engine.process import EngineProcess
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.backends.upstream import Limits
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

# With it the server writes while it reads a prompt, and so notices sooner that nobody listens.
_EXTRA = {"return_progress": True}


class EngineBackend:
    """Answers with the model of ``process``, which other backends may share.

    A request that comes before the model is loaded waits for that as long as it may then wait for
    its first token.
    """

    name = "engine"

    def __init__(self, process: EngineProcess, **limits: Unpack[Limits]) -> None:
        self._process = process
        # It closes a kept one when it likes; on loopback a new one costs next to nothing.
        self._limits: Limits = {**limits, "max_connections": 0}

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        """Yield the answer as it comes. Raises what OpenAIBackend does."""
        with self._process.slot(stop, self._limits["first_token_timeout_s"]) as address:
            client = OpenAIBackend(
                address.base_url, self.name, address.key, extra_body=_EXTRA, **self._limits
            )
            yield from client.stream(request, messages, stop)
