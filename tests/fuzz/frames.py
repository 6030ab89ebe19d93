"""What of RFC 6455 a case is made of, and a client that takes nothing for granted."""

import json
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTINUATION = 0
PATIENCE_S = 10.0
HANDSHAKE = (
    b"GET /api/v1/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
RECEIVE_BYTES = 64 * 1024


def frame(
    opcode: int,
    data: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame, right or wrong; ``length_bytes`` (0, 2, 8) is how its length is told."""
    size = len(data)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    return head + data if mask is None else head + mask + masked(data, mask)


def masked(data: bytes, mask: bytes) -> bytes:
    """Data under a mask of four bytes."""
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(data), "big"
    )


def pieces(opcode: int, data: bytes, size: int) -> list[bytes]:
    """A message as frames of ``size`` bytes each."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return [
        frame(CONTINUATION if place else opcode, part, fin=place == len(parts) - 1)
        for place, part in enumerate(parts)
    ]


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def question(ref: str | int = "alive", size: int = 0) -> bytes:
    """A message that is answered with its ``ref``, padded to a size in bytes."""
    text = json.dumps({"type": "ping", "ref": ref}, ensure_ascii=False).encode()
    return text + b" " * (size - len(text))


@dataclass(frozen=True)
class Case:
    """What is sent, and all that has to come back.

    ``answers`` are the refs of the pongs in JSON, ``errors`` how many errors there are in JSON,
    ``pongs`` what the pong frames carry. ``code`` is what the connection is closed with, and what
    was asked before that may stay without an answer; with None it lives on, and is closed by the
    client in the end.
    """

    name: str
    sent: Sequence[bytes]
    answers: Sequence[str | int] = ()
    errors: int = 0
    pongs: Sequence[bytes] = ()
    code: int | None = None


@dataclass
class Received:
    """All that came back until the connection was over."""

    answers: list[Any] = field(default_factory=list)
    errors: int = 0
    pongs: list[bytes] = field(default_factory=list)
    code: int | None = None
    is_over: bool = False


class Client:
    """A connection whose server is held to the letter of the protocol."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.received = Received()
        self._sock.sendall(HANDSHAKE)
        while b"\r\n\r\n" not in self._rest:
            self._fill()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert ACCEPT in head, head

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, parts: Sequence[bytes]) -> None:
        """Send part after part; a server that has closed the connection may not take them all."""
        try:
            for part in parts:
                self._sock.sendall(part)
        except OSError:
            pass

    def take(self) -> None:
        """Take one frame from the server, and hold it to the protocol. Raises EOFError."""
        first, second = self._exactly(2)
        assert self.received.code is None, "a frame came after the close"
        opcode, size = first & 0x0F, second & 0x7F
        assert first & 0x80, "the server sends no message in pieces"
        assert not first & 0x70, "a reserved bit"
        assert not second & 0x80, "a server's frame has no mask"
        if size == 126:
            size = int.from_bytes(self._exactly(2), "big")
            assert size > 125, "a length told too long"
        elif size == 127:
            size = int.from_bytes(self._exactly(8), "big")
            assert size > 65535, "a length told too long"
        data = self._exactly(size)
        if opcode == TEXT:
            message = json.loads(data.decode())
            if message["type"] == "pong":
                self.received.answers.append(message["ref"])
            else:
                assert message["type"] == "error", message
                assert message["code"] == "INVALID_REQUEST", message
                self.received.errors += 1
        elif opcode == PONG:
            assert size <= 125
            self.received.pongs.append(data)
        else:
            assert opcode == CLOSE, f"opcode {opcode}"
            assert size != 1
            assert size <= 125
            data[2:].decode()
            self.received.code = int.from_bytes(data[:2], "big") if data else 1005

    def until_over(self) -> None:
        """Take all that comes, up to the end of the connection."""
        try:
            while True:
                self.take()
        except EOFError:
            self.received.is_over = True

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._fill()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _fill(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            assert not self._rest or self.received.code, "the connection ended inside a frame"
            raise EOFError
        self._rest += data


def replay(port: int, case: Case, parts: Sequence[bytes]) -> str | None:
    """Send a case in these parts, and return what is wrong with what comes; None if nothing is."""
    wanted = Received([*case.answers], case.errors, [*case.pongs], case.code, True)
    try:
        with Client(port) as client:
            client.send(parts)
            if case.code is None:
                wanted.answers.append("alive")
                client.send([frame(TEXT, question())])
                while "alive" not in client.received.answers or len(client.received.pongs) < len(
                    case.pongs
                ):
                    client.take()
                client.send([close()])
                wanted.code = 1000
            client.until_over()
            found = client.received
    except (AssertionError, EOFError, OSError, ValueError) as error:
        return f"{case.name}: {error!r}, after {client.received}"
    if case.code is not None:
        del wanted.answers[len(found.answers) :]
        wanted.errors = min(wanted.errors, found.errors)
    return None if found == wanted else f"{case.name}: {found}, not {wanted}"


def chopped(parts: Sequence[bytes], random_: random.Random, most: int) -> list[bytes]:
    """The same bytes in other parts, of up to ``most`` bytes each."""
    whole = b"".join(parts)
    found = []
    while whole:
        size = random_.randint(1, most)
        found.append(whole[:size])
        whole = whole[size:]
    return found
