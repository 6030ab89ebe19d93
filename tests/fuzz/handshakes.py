"""Opening handshakes of RFC 6455, right and wrong, and what they are answered with."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz.frames import ACCEPT, PATIENCE_S, RECEIVE_BYTES

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
LINES = (
    "Host: here",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)
NAMES = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")


@dataclass(frozen=True)
class Handshake:
    """A request, and the statuses that may answer it: 101 is the way in."""

    name: str
    lines: Sequence[str]
    statuses: tuple[int, ...]
    start: str = "GET /api/v1/ws HTTP/1.1"

    @property
    def data(self) -> bytes:
        return "\r\n".join([self.start, *self.lines, "", ""]).encode("latin-1")


def _with(*changed: str) -> list[str]:
    """The lines of a good one, those of the same name as ``changed`` replaced."""
    names = {line.partition(":")[0] for line in changed}
    return [*(line for line in LINES if line.partition(":")[0] not in names), *changed]


def _good() -> list[Handshake]:
    spelt = [
        line.replace(line.partition(":")[0], line.partition(":")[0].swapcase(), 1) for line in LINES
    ]
    ways = {
        "as in the RFC": LINES,
        "in another order": LINES[::-1],
        "names in other letters": spelt,
        "values in other letters": _with("Upgrade: WebSocket", "Connection: uPGRADE"),
        "more than one token": _with("Connection: keep-alive, Upgrade"),
        "no blank after the token": _with("Connection: keep-alive,Upgrade,x"),
        "blanks around values": _with("Upgrade: \t websocket \t", "Sec-WebSocket-Version:13 "),
        "a protocol": [*LINES, "Sec-WebSocket-Protocol: chat, superchat"],
        "an extension": [*LINES, "Sec-WebSocket-Extensions: permessage-deflate"],
        "what is no extension": [*LINES, "Sec-WebSocket-Extensions: ;;,="],
        "its own origin": [*LINES, "Origin: http://here"],
        "a body of nothing": [*LINES, "Content-Length: 0"],
        "many headers": [*LINES, *(f"X-{number}: {number}" for number in range(40))],
    }
    return [Handshake(name, lines, (101,)) for name, lines in ways.items()]


def _bad() -> list[Handshake]:
    found = [
        Handshake(f"no {name}", [line for line in LINES if not line.startswith(name)], (400, 426))
        for name in NAMES
    ]
    ways = {
        "an empty key": "Sec-WebSocket-Key:",
        "a key of 15 bytes": "Sec-WebSocket-Key: " + "A" * 20,
        "a key of 17 bytes": "Sec-WebSocket-Key: " + "A" * 22 + "A=",
        "a key that is no base64": "Sec-WebSocket-Key: " + "?" * 22 + "==",
        "a key with a comma": f"Sec-WebSocket-Key: {KEY}, {KEY}",
        "version 0": "Sec-WebSocket-Version: 0",
        "version 8": "Sec-WebSocket-Version: 8",
        "two versions": "Sec-WebSocket-Version: 13, 8",
        "version +13": "Sec-WebSocket-Version: +13",
        "version 13.0": "Sec-WebSocket-Version: 13.0",
        "version 013": "Sec-WebSocket-Version: 013",
        "another upgrade": "Upgrade: h2c",
        "an upgrade that begins alike": "Upgrade: websockets",
        "a connection that is kept": "Connection: keep-alive",
    }
    found += [Handshake(name, _with(line), (400, 426)) for name, line in ways.items()]
    found += [
        Handshake(f"two lines of {line.partition(':')[0]}", [*LINES, line], (400, 426))
        for line in (f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
    ]
    found += [
        Handshake(f"the origin {origin}", [*LINES, f"Origin: {origin}"], (403,))
        for origin in (
            "http://elsewhere",
            "null",
            "http://here.elsewhere",
            "https://here:1",
            "here",
        )
    ]
    starts = ("POST /api/v1/ws HTTP/1.1", "GET /api/v1/ws HTTP/1.0", "PUT /api/v1/ws HTTP/1.1")
    found += [Handshake(start, LINES, (400, 405), start) for start in starts]
    for path in ("/health", "/api/v1/models", "/"):
        start = f"GET {path} HTTP/1.1"
        found.append(Handshake(start, LINES, (400, 404, 426), start))
    return found


def handshakes() -> list[Handshake]:
    """All of them."""
    return [*_good(), *_bad()]


def shake(port: int, handshake: Handshake, parts: Sequence[bytes]) -> str | None:
    """Send a handshake in these parts, and return what is wrong with its answer, if anything."""
    head = b""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                sock.sendall(part)
            while b"\r\n\r\n" not in head and (data := sock.recv(RECEIVE_BYTES)):
                head += data
    except OSError as error:
        return f"{handshake.name}: {error!r} after {head!r}"
    first, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    status = int(first.split()[1]) if first else 0
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    fault = None
    if status not in handshake.statuses:
        fault = "another status"
    elif status == 101 and headers.get(b"sec-websocket-accept") != ACCEPT.lower():
        fault = "another accept"
    elif status == 101 and {b"sec-websocket-extensions", b"sec-websocket-protocol"} & set(headers):
        fault = "what was offered is taken"
    elif status == 426 and headers.get(b"upgrade") != b"websocket":
        fault = "no word of what to upgrade to"
    return f"{handshake.name}: {fault} in {head!r}" if fault else None
