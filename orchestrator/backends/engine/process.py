"""Keeps llama.cpp running in a process of its own, and says how to reach it or why not."""

import json
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import IO

from orchestrator.backends.engine.models import ModelSource
from orchestrator.backends.engine.watch import EVERY_S, Watch
from orchestrator.errors import UpstreamError, UpstreamTimeout
from orchestrator.stop import StopSignal

logger = logging.getLogger("orchestrator")

_CHILD = Path(__file__).with_name("child.py")

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
# A child that ran for this long did well: its end is no reason to wait longer than at first.
_STEADY_S = 60.0
# A model that takes longer than this to load is taken for stuck.
_LOAD_S = 900.0
_END_S = 5.0
# A child that is killed this often while it loads finds no memory; seldom may have other reasons.
_MOST_KILLS = 3

# "0.00.008.202 E llama_model_load: error loading model: ..."
_ERROR_LINE = re.compile(r"[\d.]+ E (?:\w+ +)?\w+: (?:error loading model: )*(.*)")
_NO_MEMORY = re.compile("alloc|(?:out of|enough|insufficient) memory", re.IGNORECASE)
_LINE_CHARACTERS = 2000
_ERRORS_KEPT = 20
_FIRST_LINE_CHARACTERS = 64 * 1024
_READ_CHARACTERS = 4096

# The folders of an absolute path, which are nobody's business but the operator's.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\",:()]+/)*")


_NOT_LOADED = "The local model can't be loaded"
_NEEDS_LESS = (
    "lower ORCHESTRATOR_ENGINE_CONTEXT or ORCHESTRATOR_ENGINE_SLOTS, or take a smaller model"
)
_STOPPED = "The local model was stopped; the server is ending."


class _Killed(Exception):
    """The child was killed while it loaded the model: it had said nothing against it."""


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
        self._process: subprocess.Popen[str] | None = None
        self._ready_at: float | None = None
        self._closing = threading.Event()
        self._supervisor = threading.Thread(
            target=self._supervise, name="engine-supervisor", daemon=True
        )

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is none that answers."""
        with self._changed:
            return self._process.pid if self._process and self._address else None

    def start(self) -> None:
        """Begin to fetch and load the model. Returns at once."""
        self._supervisor.start()

    def close(self, seconds: float = 0.0) -> None:
        """End the child, and whatever still waits for it; wait ``seconds`` at most for its end."""
        self._closing.set()
        with self._changed:
            if self._process:
                self._process.kill()
        if seconds and self._supervisor.is_alive():
            self._supervisor.join(seconds)

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
            except _Killed:
                kills = kills_before + 1
                self._bear(kills)
            except UpstreamError as error:
                self._become(None, error.message)
                if not self._closing.is_set():
                    logger.error("%s", error.message)
            except Exception:
                self._become(None, "The local model can't be started; the server's log says why.")
                logger.exception("the engine could not be started")
            if self._ready_at and time.monotonic() - self._ready_at > _STEADY_S:
                delay = _FIRST_DELAY_S
            self._closing.wait(delay)
            delay = min(delay * 2, _LONGEST_DELAY_S)
        self._become(None, _STOPPED)

    def _bear(self, kills: int) -> None:
        """Let requests wait for the next child, unless as many as now were killed in a row."""
        if kills < _MOST_KILLS:
            logger.error("The engine was killed while it loaded the model, and is started again.")
            return
        message = (
            f"{_NOT_LOADED}: its process was killed {kills} times, likely for lack of memory; "
            f"{_NEEDS_LESS}."
        )
        self._become(None, message)
        logger.error("%s", message)

    def _live(self) -> None:
        """Live one life of the child, to its end.

        Raises UpstreamError where it can't begin, and _Killed where it was not let.
        """
        path = self._model.fetch(self._closing.is_set)
        key = secrets.token_urlsafe(32)
        process = self._spawn(path)
        ended = threading.Event()
        try:
            url = self._greet(process, key, path)
            self._ready_at = time.monotonic()
            self._become(Address(f"{url}/v1", key), None)
            threading.Thread(
                target=self._guard,
                args=(process, Watch(url, key), ended),
                name="engine-guard",
                daemon=True,
            ).start()
            # What it may print is nothing to keep; the end is what is waited for.
            while process.stdout and process.stdout.read(_READ_CHARACTERS):
                pass
            code = process.wait(_END_S)
            if not self._closing.is_set():
                logger.error("The engine died (exit code %d) and is started again.", code)
        finally:
            ended.set()
            self._become(None, None)
            _bury(process)

    def _guard(self, process: subprocess.Popen[str], watch: Watch, ended: threading.Event) -> None:
        """End a child that is stuck, until it has ended."""
        told = False
        while not ended.wait(EVERY_S if told else 0):
            if fault := watch.look():
                logger.error("The engine %s, and is killed.", fault)
                with self._changed:
                    # Who comes now waits for the next one, which may even be here by now.
                    if self._process is process:
                        self._address = None
                process.kill()
                return
            if not told and watch.room and watch.room < self._context:
                logger.warning(
                    "The local model was made for %d tokens of prompt and answer: that is what a "
                    "request may have, not %d.",
                    watch.room,
                    self._context,
                )
            told = True

    def _spawn(self, path: Path) -> subprocess.Popen[str]:
        # -P, since beside the script are modules with names that others have too.
        command = [sys.executable, "-P", str(_CHILD), str(path), *self._options]
        command += ["--parent", str(os.getpid())]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            # Its own group: the terminal's Ctrl-C is the parent's to act on.
            start_new_session=True,
        )
        with self._changed:
            self._process = process
            if self._closing.is_set():
                process.kill()
        return process

    def _greet(self, process: subprocess.Popen[str], key: str, path: Path) -> str:
        """Give the child its key, and return the root of its address once the model is loaded."""
        assert process.stdin and process.stdout and process.stderr
        errors: list[str] = []
        listener = threading.Thread(
            target=_listen, args=(process.stderr, errors), name="engine-errors", daemon=True
        )
        listener.start()
        overdue = threading.Event()

        def give_up() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(_LOAD_S, give_up)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(f"{key}\n")
                process.stdin.flush()
            line = process.stdout.readline(_FIRST_LINE_CHARACTERS)
        finally:
            timer.cancel()
        said = json.loads(line) if line else {}
        if "address" in said:
            return str(said["address"])
        code = process.wait(_END_S)
        listener.join(_END_S)
        if self._closing.is_set():
            raise UpstreamError(_STOPPED)
        if overdue.is_set():
            raise UpstreamError(f"{_NOT_LOADED}: it was not ready after {_LOAD_S:g} s.")
        if "missing" in said:
            logger.error("xllamacpp can't be imported: %s", said["missing"])
            raise UpstreamError(_import_sentence(said["missing"]))
        if code == -SIGKILL:
            raise _Killed
        reason = next(iter(errors), "") or said.get("error", "")
        reason = _FOLDERS.sub("", reason.replace(str(path), path.name))
        raise UpstreamError(_sentence(reason, code))


def _listen(stderr: IO[str], errors: list[str]) -> None:
    """Log what llama.cpp complains of, and keep the first of it, which is nearest to the cause."""
    with stderr:
        while line := stderr.readline(_LINE_CHARACTERS):
            match = _ERROR_LINE.match(line)
            if match and len(errors) < _ERRORS_KEPT:
                errors.append(match[1].strip())
            logger.warning("llama.cpp: %s", line.rstrip())


def _bury(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(_END_S)
    # Its errors have a reader of their own, which closes that pipe.
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()


def _import_sentence(reason: str) -> str:
    """Say what is missing; the reason itself names folders, and is for the log."""
    if "libgomp" in reason:
        return f"{_NOT_LOADED}: libgomp1 is missing (Debian, Ubuntu: apt-get install libgomp1)."
    return f"{_NOT_LOADED}: xllamacpp can't be imported; the server's log says why."


def _sentence(reason: str, code: int) -> str:
    """Say why the child could not begin, and what helps."""
    if _NO_MEMORY.search(reason):
        return f"{_NOT_LOADED}: there is too little memory for it; {_NEEDS_LESS}."
    return f"{_NOT_LOADED}: {reason or f'its process ended with exit code {code}'}."
