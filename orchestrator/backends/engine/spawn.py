"""One life of the engine's process: started, greeted, listened to, and why it could not begin."""

import json
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import IO, Any

from orchestrator.errors import UpstreamError

logger = logging.getLogger("orchestrator")

_CHILD = Path(__file__).with_name("child.py")

# A model that takes longer than this to load is taken for stuck.
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
_NEEDS_LESS = (
    "lower ORCHESTRATOR_ENGINE_CONTEXT or ORCHESTRATOR_ENGINE_SLOTS, or take a smaller model"
)


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

    def kill(self) -> None:
        """End it at once. Safe at any time."""
        self._process.kill()

    def await_address(self) -> str:
        """Give it its key, and return the root of its address once the model is loaded.

        Raises UpstreamError where it says why it can't be, or takes too long; and Killed.
        """
        errors: list[str] = []
        heard = threading.Event()
        arguments = (self._process.stderr, errors, heard)
        listener = threading.Thread(
            target=_listen, args=arguments, name="engine-errors", daemon=True
        )
        listener.start()
        assert self._process.stdin
        said, is_overdue = self._first_line()
        if "address" in said:
            return str(said["address"])
        if "error" in said:
            heard.wait(_REASON_S)
        with suppress(OSError):
            self._process.stdin.close()
        code = self._process.wait(_END_S)
        listener.join(_END_S)
        if is_overdue:
            raise UpstreamError(f"{_NOT_LOADED}: it was not ready after {_LOAD_S:g} s.")
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

    def bury(self) -> None:
        """End it, and leave nothing of it."""
        self._process.kill()
        self._process.wait(_END_S)
        # Its errors have a reader of their own, which closes that pipe.
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _first_line(self) -> tuple[dict[str, Any], bool]:
        """Return what it says first, if anything, and whether that took too long."""
        assert self._process.stdin and self._process.stdout
        overdue = threading.Event()

        def give_up() -> None:
            overdue.set()
            self._process.kill()

        timer = threading.Timer(_LOAD_S, give_up)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{self.key}\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline(_FIRST_LINE_CHARACTERS)
        finally:
            timer.cancel()
        return json.loads(line) if line else {}, overdue.is_set()


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
