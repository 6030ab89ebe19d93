"""One life of the engine's process: started, greeted, listened to, and why it could not begin."""

import json
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import IO

from orchestrator.backends.engine.stillness import LOOK_S, Stillness
from orchestrator.errors import UpstreamError

logger = logging.getLogger("orchestrator")

_CHILD = Path(__file__).with_name("child.py")

# A model that takes longer than this to load is taken for stuck, whatever its process does.
_LOAD_S = 900.0
_END_S = 5.0
# How long llama.cpp may take to tell why it can't load a model, once it has failed to.
_REASON_S = 2.0

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
# In no setting's words: a routes file has others, and the process doesn't know which rules.
_NEEDS_LESS = "it needs less context, fewer requests at once, or a smaller model"


class Killed(Exception):
    """The child was killed while it loaded the model: it had said nothing against it."""


class Child:
    """A process that loads the model in ``path`` as it starts.

    ``key`` is what it wants to see of who asks it.
    """

    def __init__(self, path: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        self.key = secrets.token_urlsafe(32)
        self._path = path
        # -P, since beside the script are modules with names that others have too.
        command = [sys.executable, "-P", str(_CHILD), str(path), *options]
        command += ["--parent", str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            # Its own group: the terminal's Ctrl-C is the parent's to act on.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._line = ""
        self._has_said = threading.Event()
        self._reader = threading.Thread(
            target=self._read_line, name="engine-first-line", daemon=True
        )

    def kill(self) -> None:
        """End it at once. Safe at any time."""
        self._process.kill()

    def await_address(self) -> str:
        """Give it its key, and return the root of its address once the model is loaded.

        Raises UpstreamError where it says why it can't be, does nothing any more, or takes too
        long; and Killed.
        """
        errors: list[str] = []
        heard = threading.Event()
        arguments = (self._process.stderr, errors, heard)
        listener = threading.Thread(
            target=_listen, args=arguments, name="engine-errors", daemon=True
        )
        listener.start()
        assert self._process.stdin
        if fault := self._await_line():
            self.kill()
            raise UpstreamError(f"{_NOT_LOADED}: {fault}.")
        said = json.loads(self._line) if self._line else {}
        if "address" in said:
            return str(said["address"])
        if "error" in said:
            heard.wait(_REASON_S)
        with suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait(_END_S)
        listener.join(_END_S)
        if "missing" in said:
            logger.error("xllamacpp can't be imported: %s", said["missing"])
            raise UpstreamError(_import_sentence(said["missing"]))
        if code == -SIGKILL:
            raise Killed
        reason = next(iter(errors), "") or said.get("error", "")
        reason = _FOLDERS.sub("", reason.replace(str(self._path), self._path.name))
        raise UpstreamError(_sentence(reason, code))

    def await_end(self) -> int:
        """Return its exit code once it has ended."""
        # What it may print is nothing to keep; the end is what is waited for.
        while self._process.stdout and self._process.stdout.read(_READ_CHARACTERS):
            pass
        return self._process.wait(_END_S)

    def bury(self) -> bool:
        """End it, and leave nothing of it. False where it has not ended yet.

        What waits for a disk that doesn't answer can't be killed before that does.
        """
        self.kill()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return False
        if self._reader.is_alive():
            self._reader.join(_END_S)
        # Its errors have a reader of their own, which closes that pipe. Where somebody else holds
        # its output open, closing that would wait for its reader.
        output = None if self._reader.is_alive() else self._process.stdout
        for pipe in (self._process.stdin, output):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        return True

    def _await_line(self) -> str | None:
        """Wait for what it says first, if anything; return what is wrong where that takes too long.

        The line is read apart: a process that can't be killed never ends its output.
        """
        self._reader.start()
        stillness = Stillness(self.pid)
        deadline = time.monotonic() + _LOAD_S
        while not self._has_said.wait(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return f"it was not ready after {_LOAD_S:g} s"
            if still := stillness.look():
                return f"its process {still}"
        return None

    def _read_line(self) -> None:
        assert self._process.stdin and self._process.stdout
        try:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{self.key}\n")
                self._process.stdin.flush()
            self._line = self._process.stdout.readline(_FIRST_LINE_CHARACTERS)
        finally:
            self._has_said.set()


def _listen(stderr: IO[str], errors: list[str], heard: threading.Event) -> None:
    """Log what llama.cpp complains of, and keep the first of it, which is nearest to the cause.

    ``heard`` is set once there is something.
    """
    with stderr:
        while line := stderr.readline(_LINE_CHARACTERS):
            match = _ERROR_LINE.match(line)
            if match and len(errors) < _ERRORS_KEPT:
                errors.append(match[1].strip())
                heard.set()
            logger.warning("llama.cpp: %s", line.rstrip())


def killed_sentence(times: int) -> str:
    """Say what is likely where the child was killed again and again while it loaded."""
    return (
        f"{_NOT_LOADED}: its process was killed {times} times, likely for lack of memory; "
        f"{_NEEDS_LESS}."
    )


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
