"""The zero-configuration backend: says the prompt back, word by word, and says that it does."""

import re
import threading
from collections.abc import Sequence

from orchestrator.backends.base import Finish, Message, Pieces
from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

_WORDS = re.compile(r"\S+\s*")


class EchoBackend:
    """Answers with words of the prompt, and with how many messages the session had before.

    ``delay_s`` is waited before each word.
    """

    name = "echo"

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        earlier = sum([message.role != "system" for message in messages]) - 1
        opening = f"Echo after {earlier} messages:" if earlier else "Echo:"
        words = _WORDS.findall(f"{opening} {request.prompt}")
        limit = request.max_tokens or len(words)
        for word in words[:limit]:
            if self._delay_s:
                self._wait(stop)
            yield word
        asked = sum([len(message.content.split()) for message in messages])
        usage = Usage(asked, min(limit, len(words)))
        yield Finish(FinishReason.LENGTH if limit < len(words) else FinishReason.STOP, usage)

    def _wait(self, stop: StopSignal) -> None:
        woken = threading.Event()
        with stop.waking(woken.set):
            woken.wait(self._delay_s)
        stop.check()
