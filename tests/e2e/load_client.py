"""A client for a thousand connections at once: HTTP, SSE and WebSocket over asyncio's streams."""

import asyncio
import base64
import json
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.needs import lacking

HOST = "127.0.0.1"
PATIENCE_S = 60.0
FILES = 5000

Json = dict[str, Any]


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run ``main`` with room for thousands of sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < FILES:
        main.close()
        lacking(f"Only {hard} files may be open at once here (ulimit -Hn), not {FILES}.")
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))

    async def whole() -> Any:
        try:
            return await main
        finally:
            # What was aborted last is closed at the loop's next turn.
            await asyncio.sleep(0)

    return asyncio.run(whole())


async def gather(jobs: Iterable[Awaitable[Any]]) -> list[Any]:
    """Wait for all; the first failure ends the rest."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Connection:
    """A TCP connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Vanish: with a reset, and without a word."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(
    port: int, tls: ssl.SSLContext | None = None, limit: int = 1 << 24
) -> AsyncIterator[Connection]:
    """Open a connection and close it in the end.

    No more than ``limit`` bytes are read ahead; with a small one the system's buffer is small too.
    """
    with socket.socket() as sock:
        sock.setblocking(False)
        if limit < 1 << 16:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limit)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname=HOST if tls else None, limit=limit
        )
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()
            try:
                with suppress(OSError):
                    await writer.wait_closed()
            except asyncio.CancelledError:
                writer.transport.abort()
                raise


@dataclass
class Answer:
    """The head of an HTTP answer, and its body once that was read."""

    status: int
    headers: dict[str, str]
    connection: Connection
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises IncompleteReadError where it is cut."""
        reader = self.connection.reader
        if self.headers.get("transfer-encoding") != "chunked":
            length = int(self.headers.get("content-length", "0"))
            if length:
                yield await reader.readexactly(length)
            return
        while size := int(await _line(reader), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await _line(reader)

    async def read(self) -> "Answer":
        """Read the body whole."""
        self.body = b"".join([piece async for piece in self.pieces()])
        return self


async def ask(connection: Connection, method: str, path: str, **options: Any) -> Answer:
    """Send one request and read the answer's head; ``json`` is the body, the rest are headers."""
    body = json.dumps(options.pop("json")).encode() if "json" in options else b""
    headers = {"Host": HOST} | {name.replace("_", "-"): text for name, text in options.items()}
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    connection.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
    await connection.writer.drain()
    return await head(connection)


async def request(port: int, method: str, path: str, **options: Any) -> Answer:
    """Ask on a connection of its own, and read the whole answer."""
    async with asyncio.timeout(PATIENCE_S), connected(port, options.pop("tls", None)) as connection:
        answer = await ask(connection, method, path, Connection="close", **options)
        return await answer.read()


async def submit(port: int, prompt: str, **fields: Any) -> str:
    """Submit a prompt over REST and return its id."""
    answer = await request(port, "POST", "/api/v1/infer", json={"prompt": prompt, **fields})
    assert answer.status == 200, answer.body
    return str(answer.json["request_id"])


async def healthy(port: int) -> None:
    """Wait for a server that starts."""
    async with asyncio.timeout(30):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                if (await request(port, "GET", "/health")).status == 200:
                    return
            await asyncio.sleep(0.05)


@dataclass
class SseEvent:
    """One server-sent event."""

    seq: int
    name: str
    data: Json


async def sse_events(answer: Answer) -> AsyncIterator[SseEvent]:
    """Yield the events of a stream as they come."""
    buffer = b""
    async for piece in answer.pieces():
        *blocks, buffer = (buffer + piece).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
            if b"event" in fields:
                yield SseEvent(
                    int(fields[b"id"]), fields[b"event"].decode(), json.loads(fields[b"data"])
                )


class SocketClosed(Exception):
    """The server closed the WebSocket; ``code`` is 1006 where it did so without a word."""

    def __init__(self, code: int) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


@dataclass
class WebSocket:
    """A WebSocket, frame by frame."""

    connection: Connection

    def send(self, frame: Json) -> None:
        """Send a frame of JSON."""
        self._write(1, json.dumps(frame).encode())

    async def receive(self) -> Json:
        """Return the next frame. Raises SocketClosed."""
        while True:
            code, data = await self._frame()
            if code == 1:
                return dict(json.loads(data))
            if code == 8:
                self._write(8, data)
                raise SocketClosed(struct.unpack("!H", data[:2])[0])
            if code == 9:
                self._write(10, data)

    async def _frame(self) -> tuple[int, bytes]:
        reader = self.connection.reader
        try:
            first, size = await reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
            return first & 15, await reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise SocketClosed(1006) from None

    def _write(self, code: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | code, 0x80 | (size if size < 126 else 126 if size < 65536 else 127)])
        if size >= 126:
            head += size.to_bytes(2 if size < 65536 else 8, "big")
        # A mask of zeros is a mask.
        self.connection.writer.write(head + bytes(4) + data)


@asynccontextmanager
async def websocket(
    port: int, tls: ssl.SSLContext | None = None, limit: int = 1 << 24
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket; the end is the connection's, without a closing handshake."""
    async with connected(port, tls, limit) as connection:
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": base64.b64encode(os.urandom(16)).decode(),
        }
        answer = await ask(connection, "GET", "/api/v1/ws", **headers)
        assert answer.status == 101, (await answer.read()).body
        yield WebSocket(connection)


@dataclass
class Health:
    """How long /health took, in seconds, asked again and again while something else went on.

    ``own`` is what of each time is the service's own, as far as that can be told.
    """

    times: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Beside:
    """What tells how much a busy machine takes of a service's time.

    ``port`` is that of a service with nothing to do: what it takes the machine takes, and this
    process, which is every client at once. ``pid`` is the worker that is watched: it may wait for a
    processor that others have, the more the more it has to do.
    """

    port: int
    pid: int

    def waited(self) -> float:
        """Return for how many seconds the worker could have run and had no processor."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except OSError:
            return 0.0


@asynccontextmanager
async def watching_health(
    port: int, tls: ssl.SSLContext | None = None, beside: Beside | None = None
) -> AsyncIterator[Health]:
    """Ask for /health ten times a second while inside; each time must end in 200."""
    health = Health()

    async def watch() -> None:
        while True:
            if beside:
                waited = beside.waited()
                took, machine_s = await asyncio.gather(
                    _ask_health(port, tls), _ask_health(beside.port)
                )
                health.own.append(took - machine_s - (beside.waited() - waited))
            else:
                took = await _ask_health(port, tls)
            health.times.append(took)
            await asyncio.sleep(0.1)

    watcher = asyncio.create_task(watch())
    try:
        yield health
        if watcher.done():
            watcher.result()
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _ask_health(port: int, tls: ssl.SSLContext | None = None) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await request(port, "GET", "/health", tls=tls)
    assert answer.status == 200, answer.body
    return loop.time() - began


async def head(connection: Connection) -> Answer:
    """Read the head of an answer."""
    status = (await _line(connection.reader)).split()
    headers = {}
    while line := await _line(connection.reader):
        name, _, text = line.decode("latin-1").partition(": ")
        headers[name.lower()] = text
    return Answer(int(status[1]), headers, connection)


async def _line(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n"))[:-2]
