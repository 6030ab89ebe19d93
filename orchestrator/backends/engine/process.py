"""Keeps llama.cpp running in a process of its own, and says how to reach it or why not."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.backends.engine.models import ModelSource
from orchestrator.backends.engine.spawn import Child, Killed, killed_sentence
from orchestrator.backends.engine.watch import EVERY_S, Watch
from orchestrator.errors import UpstreamError, UpstreamTimeout
from orchestrator.stop import StopSignal

logger = logging.getLogger("orchestrator")

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
# A child that ran for this long did well: its end is no reason to wait longer than at first.
_STEADY_S = 60.0
# A child that is killed this often while it loads finds no memory; seldom may have other reasons.
_MOST_KILLS = 3

_STOPPED = "The local model was stopped; the server is ending."


@dataclass(frozen=True, slots=True)
class Address:
    """Where a child answers, and the key that it wants to see."""

    base_url: str
    key: str = field(repr=False)


class EngineProcess:
    """Starts the child, again when it dies or is stuck, and gives out its slots.

    It answers ``slots`` requests at once, each with ``context`` tokens of prompt and answer, and
    has no other environment than ``environment``. A child that died is started anew after 1 s,
    and then after twice as long each time, up to 30 s; once one has answered for a minute, after
    1 s again.
    """

    def __init__(
        self, model: ModelSource, slots: int, context: int, environment: Mapping[str, str]
    ) -> None:
        self._model = model
        self._context = context
        self._environment = environment
        self._options = ["--slots", str(slots), "--context", str(context)]
        self._changed = threading.Condition(threading.Lock())
        self._free = slots
        self._address: Address | None = None
        self._failure: str | None = None
        self._child: Child | None = None
        self._ready_at: float | None = None
        self._closing = threading.Event()
        self._supervisor = threading.Thread(
            target=self._supervise, name="engine-supervisor", daemon=True
        )

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is none that answers."""
        with self._changed:
            return self._child.pid if self._child and self._address else None

    def start(self) -> None:
        """Begin to fetch and load the model. Returns at once."""
        self._supervisor.start()

    def close(self) -> None:
        """End the child, and whatever still waits for it. Returns at once."""
        self._closing.set()
        with self._changed:
            if self._child:
                self._child.kill()

    @contextmanager
    def slot(self, stop: StopSignal, seconds: float) -> Iterator[Address]:
        """Hold a slot while inside, and give the address to use it at.

        Waits up to ``seconds`` for the model to be loaded, and for a free slot as long as it
        takes: others being served is no fault of the model. Raises UpstreamTimeout where it isn't
        loaded in time, UpstreamError where it can't be, or Stopped.
        """
        address = self._take(stop, seconds)
        try:
            yield address
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    def _take(self, stop: StopSignal, seconds: float) -> Address:
        def settled() -> bool:
            return bool(stop.requested or self._failure or self._address)

        with stop.waking(self._wake), self._changed:
            while self._changed.wait_for(settled, seconds):
                stop.check()
                if self._address is None:
                    raise UpstreamError(self._failure or "", reason="not_loaded")
                if self._free:
                    self._free -= 1
                    return self._address
                self._changed.wait()
        raise UpstreamTimeout(
            f"The local model is not loaded yet after {seconds:g} s; try again later.",
            stage="first_token",
        )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _become(self, address: Address | None, failure: str | None) -> None:
        with self._changed:
            self._address, self._failure = address, failure
            self._changed.notify_all()

    def _supervise(self) -> None:
        delay, kills = _FIRST_DELAY_S, 0
        while not self._closing.is_set():
            self._ready_at = None
            kills_before, kills = kills, 0
            try:
                self._live()
            except Killed:
                kills = kills_before + 1
                if not self._closing.is_set():
                    self._note_kill(kills)
            except UpstreamError as error:
                self._become(None, error.message)
                if not self._closing.is_set():
                    logger.error("%s", error.message)
            except Exception:
                self._become(None, "The local model can't be started; the server's log says why.")
                logger.exception("the engine could not be started")
            self._bury()
            if self._ready_at and time.monotonic() - self._ready_at > _STEADY_S:
                delay = _FIRST_DELAY_S
            self._closing.wait(delay)
            delay = min(delay * 2, _LONGEST_DELAY_S)
        self._become(None, _STOPPED)

    def _note_kill(self, kills: int) -> None:
        """Let requests wait for the next child, unless as many as now were killed in a row."""
        if kills < _MOST_KILLS:
            logger.error("The engine was killed while it loaded the model, and is started again.")
            return
        message = killed_sentence(kills)
        self._become(None, message)
        logger.error("%s", message)

    def _live(self) -> None:
        """Live one life of the child, to its end.

        Raises UpstreamError where it can't begin, and Killed where it was not let.
        """
        path = self._model.fetch(self._closing.is_set)
        child = self._spawn(path)
        ended = threading.Event()
        try:
            url = child.await_address()
            self._ready_at = time.monotonic()
            self._become(Address(f"{url}/v1", child.key), None)
            watch = Watch(url, child.key)
            threading.Thread(
                target=self._guard, args=(child, watch, ended), name="engine-guard", daemon=True
            ).start()
            code = child.await_end()
            if not self._closing.is_set():
                logger.error("The engine died (exit code %d) and is started again.", code)
        finally:
            ended.set()
            self._become(None, None)

    def _bury(self) -> None:
        """Leave nothing of the child. While it can't be killed, no other is started beside it."""
        told = False
        while self._child and not self._child.bury() and not self._closing.is_set():
            if not told:
                told = True
                logger.error(
                    "The engine's process %d can't be ended, as when a disk does not answer. It is "
                    "started again once that one is gone.",
                    self._child.pid,
                )

    def _spawn(self, path: Path) -> Child:
        child = Child(path, self._options, self._environment)
        with self._changed:
            self._child = child
            if self._closing.is_set():
                child.kill()
        return child

    def _guard(self, child: Child, watch: Watch, ended: threading.Event) -> None:
        """End a child that is stuck, until it has ended."""
        pause, told = 0.0, False
        while not ended.wait(pause):
            pause = EVERY_S
            if fault := watch.look():
                logger.error("The engine %s, and is killed.", fault)
                with self._changed:
                    # Who comes now waits for the next one, which may even be here by now.
                    if self._child is child:
                        self._address = None
                child.kill()
                return
            if watch.room and not told:
                told = True
                self._compare(watch.room)

    def _compare(self, room: int) -> None:
        if room < self._context:
            logger.warning(
                "The local model was made for %d tokens of prompt and answer: that is what a "
                "request may have, not %d.",
                room,
                self._context,
            )
