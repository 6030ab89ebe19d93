"""A way to Redis that loses answers: what was asked is done, and who asked hears of it never, or
too late.

A process of its own: in the process of its callers it would take turns with them.
"""

import asyncio
import random
import subprocess
import sys
import threading
from types import TracebackType

from tests.served import ROOT


class LosingProxy:
    """Relays connections to a port, and cuts some instead of giving an answer back.

    ``losses`` is the share of answers that are lost once ``lose`` was called. With ``late_s``
    they come all the same, after so many seconds, and nothing is cut: whoever has given its
    connection back meanwhile leaves the answer to who asks next.
    """

    def __init__(self, port: int, losses: float, late_s: float = 0.0, seed: int = 1) -> None:
        self._arguments = [str(value) for value in (port, losses, late_s, seed)]

    def __enter__(self) -> "LosingProxy":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.redis_proxy", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = f"redis://127.0.0.1:{self._ask()}/0"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        # It ends with its input.
        self._process.communicate(timeout=20)

    def lose(self) -> None:
        """Lose answers from now on."""
        self._ask("lose")

    @property
    def lost(self) -> int:
        """How many were lost, or came late."""
        return self._ask("count")

    def _ask(self, command: str = "") -> int:
        if command:
            print(command, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class Relay:
    """What the process does."""

    def __init__(self, port: int, losses: float, late_s: float, seed: int) -> None:
        self.losses = 0.0
        self.lost = 0
        self._to_come = losses
        self._port = port
        self._late_s = late_s
        self._chance = random.Random(seed)

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._obey, args=(loop, ended), daemon=True).start()
        await ended.wait()

    def _obey(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        for command in sys.stdin:
            if command == "lose\n":
                self.losses = self._to_come
            print(self.lost, flush=True)
        loop.call_soon_threadsafe(ended.set)

    async def _connect(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            ways = [self._pass_on(near, to_far), self._pass_on(far, to_near, is_answer=True)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        finally:
            to_near.close()
            to_far.close()

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool = False
    ) -> None:
        while data := await source.read(65536):
            if is_answer and self._chance.random() < self.losses:
                self.lost += 1
                if not self._late_s:
                    return
                await asyncio.sleep(self._late_s)
            target.write(data)
            await target.drain()


if __name__ == "__main__":
    port, losses, late_s, seed = sys.argv[1:]
    asyncio.run(Relay(int(port), float(losses), float(late_s), int(seed)).serve())
