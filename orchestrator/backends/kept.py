"""Connections to a provider that are kept open between two calls."""

import socket
import threading
import time
from weakref import finalize

from urllib3.connection import HTTPConnection

from orchestrator.backends.paced import PacedSocket

# Many servers close a connection that was idle for 5 s (uvicorn's and node's default). One that
# is reused before that hardly ever meets the close on its way.
_KEEP_S = 4.0


class Connection:
    """An open connection, and a second handle on it for ending it from any thread."""

    def __init__(self, http: HTTPConnection, paced: PacedSocket, handle: socket.socket) -> None:
        self.http = http
        self.paced = paced
        self.handle = handle
        self.used_at = 0.0

    def is_fresh(self) -> bool:
        """Return whether another request may be sent: not idle too long, and nothing came."""
        if time.monotonic() - self.used_at > _KEEP_S:
            return False
        try:
            self.handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close both ends."""
        self.http.close()
        self.handle.close()


class KeptConnections:
    """At most ``most`` idle connections; the one used last is the first to be used again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        finalize(self, _close_all, self._idle)

    def take(self) -> Connection | None:
        """Return a kept connection that is still good, or None."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next call, or close it where enough are kept."""
        with self._lock:
            now = connection.used_at = time.monotonic()
            stale = [kept for kept in self._idle if now - kept.used_at > _KEEP_S]
            # The same list: what closes them at the end knows no other.
            self._idle[:] = [kept for kept in self._idle if now - kept.used_at <= _KEEP_S]
            if len(self._idle) < self._most:
                self._idle.append(connection)
            else:
                stale.append(connection)
        for old in stale:
            old.close()

    def drop(self) -> None:
        """Close all that are idle: the server has closed one, and so most likely the others."""
        with self._lock:
            idle, self._idle[:] = self._idle[:], []
        _close_all(idle)


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()
