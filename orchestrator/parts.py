"""Processes that belong together: each is started again when it dies, and all end together."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.parent import end_with_parent

LOOK_S = 0.2
SETTLED_S = 5.0
PAUSE_MOST_S = 30.0
"""A process that dies before SETTLED_S is started after twice the last pause, up to this one."""
HOPELESS = (2, 3, 4, os.EX_CONFIG)
"""Exit codes of what could not load, and never will: Dramatiq, gunicorn (two), a worker of ours."""


@dataclass(slots=True)
class _Part:
    """One process, or the pause until it is started again. ``stop`` is the signal to end it."""

    name: str
    command: Sequence[str]
    stop: signal.Signals
    process: subprocess.Popen[bytes]
    started_at: float
    pause_s: float = 0.0
    due_at: float | None = None


class Parts:
    """Keeps processes running until it is asked to end. ``environ`` is theirs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._parts: list[_Part] = []
        self._groups: list[int] = []
        self._asked = 0

    @property
    def is_asked(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._asked > 0

    @property
    def pids(self) -> Mapping[str, int]:
        """The process of each part, which is the group of all that it has started."""
        return {part.name: part.process.pid for part in self._parts}

    def listen(self) -> None:
        """Have SIGINT, SIGTERM and a closed terminal ask for the end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that is ignored was meant to be: nohup outlives its terminal.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._ask)

    def start(
        self, name: str, command: Sequence[str], stop: signal.Signals = signal.SIGTERM
    ) -> None:
        """Start a process, and keep it."""
        self._parts.append(_Part(name, command, stop, self._run(command), time.monotonic()))

    def tend(self, is_up: bool = True) -> bool:
        """Start again what has died. False where that won't help, or not all were up yet."""
        now = time.monotonic()
        for part in self._parts:
            if part.due_at is not None:
                if now >= part.due_at:
                    part.process, part.started_at = self._run(part.command), now
                    part.due_at = None
            elif part.process.poll() is not None:
                say(f"orchestrator: {part.name} ended with code {part.process.returncode}.\n")
                if not is_up or part.process.returncode in HOPELESS:
                    return False
                is_settled = now - part.started_at >= SETTLED_S
                part.pause_s = 0.0 if is_settled else min(2 * part.pause_s or 1.0, PAUSE_MOST_S)
                part.due_at = now + part.pause_s
        return True

    def end(self, hurry_s: float, kill_s: float) -> None:
        """Ask all processes to end, and kill those that are left after ``kill_s``.

        They are asked again after ``hurry_s``, and whenever another signal comes.
        """
        began = time.monotonic()
        heard = self._asked
        is_hurried = False
        for part in self._parts:
            part.process.send_signal(part.stop)
        while self._is_any_alive() and (took := time.monotonic() - began) < kill_s:
            time.sleep(LOOK_S)
            if self._asked > heard or (took > hurry_s and not is_hurried):
                heard, is_hurried = self._asked, is_hurried or took > hurry_s
                for part in self._parts:
                    part.process.send_signal(signal.SIGTERM)
        self._kill_groups()

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # In sessions of their own: Ctrl-C is for this process to pass on, in order.
        process = subprocess.Popen(
            command,
            env=self._environ,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
        self._groups.append(process.pid)
        return process

    def _is_any_alive(self) -> bool:
        return any(part.process.poll() is None for part in self._parts)

    def _kill_groups(self) -> None:
        """Kill what the processes have left behind, such as children of one that was killed."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for part in self._parts:
            part.process.wait()

    def _ask(self, number: int, frame: object) -> None:
        self._asked += 1


def say(text: str) -> None:
    """Print at once, to a terminal that may be closed by now."""
    with contextlib.suppress(OSError):
        sys.stdout.write(text)
        sys.stdout.flush()
