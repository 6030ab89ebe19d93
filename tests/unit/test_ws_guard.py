"""The reader of a WebSocket ends in order whatever simple-websocket stumbles over."""

import threading
from typing import Any

import pytest

from orchestrator.web.ws_guard import CLOSE_PROTOCOL, Reader


class Stumbling:
    """What Reader knows of a simple_websocket.Server, with a reading loop that fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.environ: dict[str, Any] = {}
        self.connected = True
        self.event = threading.Event()
        self.input_buffer: list[Any] = []
        self.closed_with: list[int] = []
        self.sock = self
        self.socket_closed = False

    def _thread(self) -> None:
        raise self.error

    def close(self, reason: int | None = None, message: str = "") -> None:
        if reason is None:
            self.socket_closed = True
        else:
            self.closed_with.append(reason)


@pytest.mark.parametrize(
    "error",
    [TypeError("can't concat str to bytes"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")],
)
def test_a_message_of_text_and_bytes_mixed_ends_the_connection_and_no_thread_fails(
    error: Exception,
) -> None:
    ws = Stumbling(error)
    reader = Reader(ws._thread)
    reader.run()
    assert ws.closed_with == [CLOSE_PROTOCOL]
    assert ws.socket_closed
    assert not ws.connected
    assert ws.event.is_set()
