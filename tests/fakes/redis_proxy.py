"""A way to Redis that loses answers: what was asked is done, and who asked hears of it never, or
too late.
"""

import contextlib
import random
import socket
import threading
import time
from types import TracebackType


class LosingProxy:
    """Relays connections to a port, and cuts some instead of giving an answer back.

    ``losses`` is the share of answers that are lost while ``is_losing`` is set. With ``late_s``
    they come all the same, after so many seconds, and nothing is cut: whoever has given its
    connection back meanwhile leaves the answer to who asks next.
    """

    def __init__(self, port: int, losses: float, late_s: float = 0.0, seed: int = 1) -> None:
        self.is_losing = threading.Event()
        self.lost = 0
        self._port = port
        self._losses = losses
        self._late_s = late_s
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> "LosingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        _close(self._listener)
        for sock in self._open:
            _close(sock)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(
                    target=self._relay, args=(source, target, source is far), daemon=True
                ).start()

    def _relay(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_answer and self.is_losing.is_set() and self._chance.random() < self._losses:
                    self.lost += 1
                    if not self._late_s:
                        return
                    time.sleep(self._late_s)
                target.sendall(data)
        except OSError:
            return
        finally:
            _close(source)
            _close(target)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
