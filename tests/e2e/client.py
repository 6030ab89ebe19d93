"""What a client of the service needs in these tests: calls, streams, WebSockets, raw sockets."""

import contextlib
import http.client
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
import websocket

from tests.served import Served

T = TypeVar("T")
Json = dict[str, Any]

PATIENCE_S = 20.0
"""How long anything may take before it counts as hanging."""
LONG = " ".join(f"word{number}" for number in range(2000))
"""A prompt whose echo outlasts every test on a server with a delay."""
END = ("completed", "failed", "cancelled")


def until(condition: Callable[[], T], timeout: float = PATIENCE_S) -> T:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return value


# REST


def call(server: Served, method: str, path: str, **options: Any) -> requests.Response:
    """Make one call below /api/v1."""
    return requests.request(method, f"{server.api}{path}", timeout=PATIENCE_S, **options)


def get(server: Served, path: str, **options: Any) -> requests.Response:
    return call(server, "GET", path, **options)


def post(server: Served, path: str, body: Any = None, **options: Any) -> requests.Response:
    return call(server, "POST", path, json=body, **options)


def submit(server: Served, prompt: str = "one two three", **fields: Any) -> str:
    """Submit a prompt and return its request_id."""
    answer = post(server, "/infer", {"prompt": prompt, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def status(server: Served, request_id: str) -> Json:
    answer = get(server, f"/status/{request_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(server: Served, request_id: str) -> Json:
    """Wait for the end of a request and return its status."""
    answer = get(server, f"/status/{request_id}?wait=15")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] in END, answer.text
    return dict(answer.json())


def answered(server: Served, prompt: str) -> str:
    """Return the answer to a prompt."""
    answer = post(server, "/infer", {"prompt": prompt}, headers={"Prefer": "wait=15"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"])


def started(server: Served, request_id: str) -> Json:
    """Wait for the first token of a request and return its status."""
    return until(lambda: (now := status(server, request_id))["first_token_at"] and now)


def refused(answer: requests.Response, code: int, name: str) -> Json:
    """Hold that an answer is the error envelope and nothing else; return what is inside."""
    assert answer.status_code == code, f"{answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"] == "application/json"
    return enveloped(answer.json(), name)


def enveloped(body: Json, name: str) -> Json:
    """Hold that a body is the error envelope with this code; return what is inside."""
    assert list(body) == ["error"]
    error = dict(body["error"])
    assert sorted(error) == ["code", "details", "message"]
    assert error["code"] == name, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["details"], dict)
    return error


@contextlib.contextmanager
def occupied(server: Served, count: int = 1, **fields: Any) -> Iterator[list[str]]:
    """While inside, ``count`` requests run that would not end by themselves."""
    ids = [submit(server, LONG, **fields) for _ in range(count)]
    for request_id in ids:
        started(server, request_id)
    try:
        yield ids
    finally:
        for request_id in ids:
            post(server, f"/cancel/{request_id}?wait=10")


# Server-sent events


@dataclass(frozen=True)
class Frame:
    """One event of a stream; ``data`` as the JSON that it is."""

    id: int
    event: str
    data: Any


def lines(answer: requests.Response) -> Iterator[str]:
    """Yield the lines of a stream as they come."""
    rest = b""
    for piece in answer.iter_content(chunk_size=None):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode()
    assert not rest, "the stream ended inside a line"


def frames(answer: requests.Response) -> Iterator[Frame]:
    """Read a stream strictly: each event has one id, one name and one line of data."""
    fields: dict[str, str] = {}
    for line in lines(answer):
        name, colon, value = line.partition(":")
        if line and name not in ("", "retry"):
            assert colon, line
            assert name not in fields, line
            fields[name] = value.removeprefix(" ")
        elif not line and fields:
            yield Frame(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
    assert not fields, "the stream ended inside an event"


def open_stream(server: Served, path: str, **options: Any) -> requests.Response:
    """Begin to read a stream; to be used with ``with``."""
    answer = get(server, path, stream=True, **options)
    assert answer.status_code == 200, answer.text
    return answer


def stream(server: Served, path: str, **options: Any) -> list[Frame]:
    """Read a stream to its end."""
    with open_stream(server, path, **options) as answer:
        return list(frames(answer))


def answer_of(events: list[Frame]) -> str:
    """Return the text that the tokens of a stream make, holding that its chunks count from 0."""
    tokens = [frame.data for frame in events if frame.event == "token"]
    assert [token["chunk"] for token in tokens] == list(range(len(tokens)))
    return "".join(token["data"] for token in tokens)


# WebSocket


class Socket:
    """A WebSocket that speaks JSON."""

    def __init__(self, inner: websocket.WebSocket) -> None:
        self.inner = inner

    def send(self, frame: Json | str) -> None:
        self.inner.send(frame if isinstance(frame, str) else json.dumps(frame))

    def receive(self) -> Json:
        """Return the next frame. Raises WebSocketConnectionClosedException at the end."""
        opcode, data = self.inner.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, f"closed with {data!r}"
        return dict(json.loads(data))

    def until(self, kind: str, request_id: str | None = None) -> list[Json]:
        """Return frames up to and with the first of ``kind``, of one request where one is named."""
        received = []
        while True:
            frame = self.receive()
            if request_id in (None, frame.get("request_id")):
                received.append(frame)
                if frame["type"] == kind:
                    return received

    def submit(self, prompt: str = "one two three", **fields: Any) -> str:
        """Submit and return the request_id of the ack, which has to be the next frame."""
        self.send({"prompt": prompt, **fields})
        ack = self.receive()
        assert ack["type"] == "ack", ack
        return str(ack["request_id"])

    def close_code(self) -> int:
        """Read on to the close frame and return its code."""
        while True:
            opcode, data = self.inner.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2])

    def lives(self) -> bool:
        """Whether the socket still answers; frames before the answer are passed over."""
        self.send({"type": "ping", "ref": "alive?"})
        return self.until("pong")[-1]["ref"] == "alive?"


@contextlib.contextmanager
def connected(server: Served, query: str = "", **options: Any) -> Iterator[Socket]:
    """A WebSocket to the service while inside."""
    inner = websocket.create_connection(f"{server.ws}{query}", timeout=PATIENCE_S, **options)
    try:
        yield Socket(inner)
    finally:
        inner.shutdown()


# Raw sockets


@contextlib.contextmanager
def dialled(server: Served) -> Iterator[socket.socket]:
    """A TCP connection to the service while inside."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
        yield sock


@dataclass(frozen=True)
class Answer:
    """An HTTP answer read from a socket."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def refused(self, code: int, name: str) -> Json:
        """Hold that it is the error envelope."""
        assert self.status == code, f"{self.status} {self.body!r}"
        assert self.headers["Content-Type"] == "application/json"
        return enveloped(json.loads(self.body), name)


def read_answer(sock: socket.socket, method: str = "GET") -> Answer:
    """Read one HTTP answer from a socket."""
    with http.client.HTTPResponse(sock, method=method) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read())


def exchange(server: Served, data: bytes) -> Answer:
    """Send bytes on a connection of their own and read the answer."""
    with dialled(server) as sock:
        sock.sendall(data)
        return read_answer(sock)


def request_head(method: str, path: str, *headers: str) -> bytes:
    """Return the head of an HTTP request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode()


def peer_of(server: Served, sock: socket.socket) -> str:
    """Return the server's end of a connection, by the name that /proc has for it."""
    ends = (server.port, sock.getsockname()[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if (int(local.partition(":")[2], 16), int(remote.partition(":")[2], 16)) == ends:
            return f"socket:[{inode}]"
    raise AssertionError("the server has no such connection")


def holds(server: Served, peer: str) -> bool:
    """Whether the process that serves still has its end of a connection open."""
    for link in Path(f"/proc/{server.worker_pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if link.readlink().name == peer:
                return True
    return False


def close(sock: socket.socket, *, reset: bool) -> None:
    """Close a connection, politely or with a reset."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
