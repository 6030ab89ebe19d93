"""What keeps one WebSocket from harming the others: whole frames out, bounded frames in."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from simple_websocket import ConnectionClosed, Server
from wsproto.utilities import LocalProtocolError

from orchestrator.schemas import MAX_BODY

MAX_UNREAD = 8
"""Messages a client may send ahead of those that were answered."""
PING_S = 20.0
CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008


class GuardedSocket:
    """A socket that sends all or dies: simple-websocket's own ``send`` may cut a frame.

    The socket's timeout bounds a send; a receive may take as long as it likes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, data: bytes) -> int:
        """Send ``data`` whole. On failure the connection is over: a cut frame can't be mended."""
        with self._sending:
            try:
                self._sock.sendall(data)
            except OSError:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
                raise
        return len(data)

    def recv(self, size: int) -> bytes:
        """Receive up to ``size`` bytes, waiting for them."""
        while True:
            try:
                return self._sock.recv(size)
            except TimeoutError:
                continue

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class Inbox(list[Any]):
    """The messages not yet answered. One too many ends the connection with code 1008."""

    def __init__(self, ws: Server) -> None:
        super().__init__()
        self._ws = ws

    def append(self, message: Any) -> None:
        if len(self) >= MAX_UNREAD:
            with contextlib.suppress(ConnectionClosed, OSError):
                self._ws.close(CLOSE_POLICY, "Too many messages at once.")
            raise LocalProtocolError
        super().append(message)


class Reader(threading.Thread):
    """The thread that simple-websocket reads with: the place to bound what it reads into."""

    def __init__(self, target: Callable[[], None]) -> None:
        super().__init__(target=target, daemon=True)
        ws: Server = target.__self__  # type: ignore[attr-defined]
        ws.input_buffer = Inbox(ws)


SERVER_OPTIONS = {
    "max_message_size": MAX_BODY,
    "ping_interval": PING_S,
    # A TLS record has up to 16 KiB; reading less would leave the rest where no selector sees it.
    "receive_bytes": 16 * 1024,
    "thread_class": Reader,
}
