"""What keeps one WebSocket from harming the others: whole frames out, bounded frames in."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, SupportsIndex

from simple_websocket import ConnectionClosed, Server
from wsproto.utilities import LocalProtocolError

from orchestrator.strict_json import MAX_BODY

FIRST_BYTES = 16 * 1024
"""The most bytes of a message while the client has not said who it is."""
UNNAMED = "orchestrator.unnamed"
"""Marks the environ of a socket whose first message has to say who the client is."""
MAX_UNREAD = 8
"""Messages a client may send ahead of those that were answered; then reading pauses."""
PATIENCE_S = 1.0
"""How long reading pauses at most: a client that takes no answers may send nothing more."""
LINGER_S = 1.0
"""How long a closed connection is read on, so that its client sees why it was closed."""
SEND_S = 5.0
"""How long a send may take where the server has set its sockets no timeout of its own."""
PING_S = 20.0
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL = 1002
CLOSE_POLICY = 1008
CLOSE_TOO_BIG = 1009
CLOSE_FAULT = 1011
CLOSE_TRY_AGAIN = 1013
OVER = (ConnectionClosed, LocalProtocolError, OSError)
"""What sending raises once a connection is over, or about to be."""
# A TLS record has up to 16 KiB; reading less would leave the rest where no selector sees it.
RECEIVE_BYTES = 16 * 1024


class GuardedSocket:
    """A socket that sends all or dies: simple-websocket's own ``send`` may cut a frame.

    The socket's timeout bounds a send; a receive may take as long as it likes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        if sock.gettimeout() is None:
            sock.settimeout(SEND_S)

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
        """Close the socket, once the client has closed its side or LINGER_S have passed.

        Closing with unread bytes would be a reset, and the close frame before it might be lost.
        """
        deadline = time.monotonic() + LINGER_S
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv(RECEIVE_BYTES):
                    break
        self._sock.close()


class Inbox(list[Any]):
    """The messages not yet answered. A client that leaves it full is sent away with code 1008."""

    def __init__(self, ws: Server) -> None:
        super().__init__()
        self._ws = ws
        self._taken = threading.Event()

    def append(self, message: Any) -> None:
        if len(message) > MAX_BODY // 4 and _size(message) > MAX_BODY:
            self._refuse(CLOSE_TOO_BIG, "Message is too big")
        self._ws.max_message_size = MAX_BODY
        self._taken.clear()
        if len(self) >= MAX_UNREAD and not (self._ws.connected and self._taken.wait(PATIENCE_S)):
            self._refuse(CLOSE_POLICY, "Too many messages at once.")
        super().append(message)

    def pop(self, index: SupportsIndex = -1) -> Any:
        message = super().pop(index)
        self._taken.set()
        return message

    def _refuse(self, code: int, reason: str) -> NoReturn:
        with contextlib.suppress(*OVER):
            self._ws.close(code, reason)
        raise LocalProtocolError


def _size(message: str | bytes) -> int:
    return len(message.encode() if isinstance(message, str) else message)


class Reader(threading.Thread):
    """The thread that simple-websocket reads with: the place to bound what it reads into."""

    def __init__(self, target: Callable[[], None]) -> None:
        super().__init__(target=target, daemon=True)
        self._ws: Server = target.__self__  # type: ignore[attr-defined]
        self._ws.input_buffer = Inbox(self._ws)
        if UNNAMED in self._ws.environ:
            self._ws.max_message_size = FIRST_BYTES

    def run(self) -> None:
        try:
            super().run()
        except (TypeError, ValueError):
            # What simple-websocket stumbles over is no protocol: pieces of text and of bytes in
            # one message, or half a character.
            with contextlib.suppress(*OVER):
                self._ws.close(CLOSE_PROTOCOL, "This is not WebSocket as it should be.")
            self._ws.sock.close()
        finally:
            # However reading ended: who waits for a message must not wait for ever.
            self._ws.connected = False
            self._ws.event.set()


SERVER_OPTIONS = {
    "max_message_size": MAX_BODY,
    "ping_interval": PING_S,
    "receive_bytes": RECEIVE_BYTES,
    "thread_class": Reader,
}
