"""Backends inside the test's process: one that does as told, and one for each way to fail."""

import threading
from collections.abc import Generator, Sequence

from orchestrator.backends.base import Finish, Message
from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.routing.base import Attempt
from orchestrator.stop import StopSignal

Pieces = Generator[str | Finish, None, None]

GIVE_UP_S = 30.0
"""No fake waits for longer, so that a broken test ends."""


class Says:
    """Answers at once with the given pieces, and keeps what it was told."""

    name = "says"

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces or ("Hello ", "world")
        self.told: list[list[tuple[str, str]]] = []

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        self.told.append([(message.role, message.content) for message in messages])
        yield from self.pieces
        yield Finish(FinishReason.STOP, Usage(len(messages), len(self.pieces)))


class BeginsAnew:
    """A route that yields what it is told to, attempts included."""

    name = "first"

    def __init__(self, *items: str | Usage | Attempt | Finish) -> None:
        self._items = items

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Usage | Attempt | Finish, None, None]:
        yield from self._items


class CutsTheStream:
    """Says something and is gone: no word that the answer is whole."""

    name = "cuts"

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        yield "Hello "


class Raises:
    """Says something and raises ``error``."""

    name = "raises"

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        yield "Hello "
        raise self._error


class BreaksWhenStopped:
    """Blocks until it is stopped, and then fails as if that were a fault of its own."""

    name = "breaks"

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        woken = threading.Event()
        with stop.waking(woken.set):
            yield "Hello "
            woken.wait(GIVE_UP_S)
        raise ValueError("read of closed file")


class Hangs:
    """Says something and then nothing more, until it is stopped."""

    name = "hangs"

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces
        self.closed = 0

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        woken = threading.Event()
        try:
            with stop.waking(woken.set):
                yield from self._pieces
                woken.wait(GIVE_UP_S)
            stop.check()
            yield Finish(FinishReason.STOP)
        finally:
            self.closed += 1


class IgnoresStops:
    """Says one piece for each ``allow``, asked to stop or not; its answer is whole after that."""

    name = "ignores"

    def __init__(self) -> None:
        self._allowed = threading.Semaphore(0)

    def allow(self, pieces: int) -> None:
        """Let that many more pieces go."""
        for _ in range(pieces):
            self._allowed.release()

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        while self._allowed.acquire(timeout=GIVE_UP_S):
            yield "word "


class Steps:
    """Runs requests until each is let go by its prompt; knows which have begun, and how many ran.

    An answer is the prompt itself.
    """

    name = "steps"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._let_go: set[str] = set()
        self._open = False
        self.begun: list[str] = []
        self.running = 0
        self.most_running = 0

    def let_go(self, prompt: str) -> None:
        """Let the request with ``prompt`` end well, now or once it runs."""
        with self._changed:
            self._let_go.add(prompt)
            self._changed.notify_all()

    def let_all_go(self) -> None:
        """Let every request end well from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        with self._changed:
            self.begun.append(request.prompt)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            self._wait(request.prompt, stop)
            yield request.prompt
            yield Finish(FinishReason.STOP)
        finally:
            with self._changed:
                self.running -= 1

    def _wait(self, prompt: str, stop: StopSignal) -> None:
        with stop.waking(self._wake), self._changed:
            self._changed.wait_for(
                lambda: self._open or prompt in self._let_go or stop.requested, GIVE_UP_S
            )
        stop.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
