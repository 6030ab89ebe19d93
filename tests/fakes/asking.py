"""Asking a backend as the runner does, and waiting for what comes of it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.backends.base import Backend, Finish, Message
from orchestrator.events import Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

WAIT_S = 10.0


def a_request(prompt: str = "hello", **fields: Any) -> GenerateRequest:
    """Return a request with nothing special but ``fields``."""
    usual: dict[str, Any] = {
        "session_id": "session",
        "model": "default",
        "metadata": {},
        "timeout_s": 60.0,
        "queue_timeout_s": 60.0,
    }
    return GenerateRequest(prompt=prompt, **(usual | fields))


@dataclass
class Said:
    """What a backend said: whether it thought first, its pieces in order, its last word, and what
    it had cost by then.
    """

    pieces: list[str] = field(default_factory=list)
    finish: Finish | None = None
    spent: Usage | None = None
    thought: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def ask(
    backend: Backend,
    prompt: str = "hello",
    *,
    earlier: Sequence[Message] = (),
    signal: StopSignal | None = None,
    said: Said | None = None,
    **fields: Any,
) -> Said:
    """Ask ``backend`` and return all that it says; ``said`` is filled as it comes."""
    said = said or Said()
    request = a_request(prompt, **fields)
    messages = [*earlier, Message("user", prompt)]
    for item in backend.stream(request, messages, signal or StopSignal()):
        assert said.finish is None, "nothing comes after the Finish"
        if isinstance(item, Finish):
            said.finish = item
        elif isinstance(item, Usage):
            said.spent = item
        elif not item:
            assert not said.pieces, "an empty piece says that an answer begins"
            said.thought = True
        else:
            said.pieces.append(item)
    return said


class Asking:
    """An ``ask`` under way in a thread (a greenlet under patching)."""

    def __init__(self, backend: Backend, prompt: str, **fields: Any) -> None:
        self.signal = StopSignal()
        self.said = Said()
        self.error: Exception | None = None
        self._arguments = (backend, prompt)
        self._fields = fields
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            ask(*self._arguments, signal=self.signal, said=self.said, **self._fields)
        except Exception as error:
            self.error = error

    def join(self) -> float:
        """Wait for the end, and return the seconds that it took."""
        began = time.monotonic()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the answer does not end"
        return time.monotonic() - began


def eventually(condition: Callable[[], Any], within_s: float = WAIT_S) -> None:
    """Wait until ``condition`` holds, and fail where it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.005)
