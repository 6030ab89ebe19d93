"""A model server in a process of its own that keeps a book of its calls.

The first part of a path names the worker that asks, as in ``/worker1/v1/chat/completions``.
``GET /calls`` gives the book. The port is written to standard output; the process ends with its
standard input.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf

from tests.chaos.answers import Said, digest, marker_of, shape
from tests.served import ROOT

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Call:
    """One call: the request's marker, which call of it, who asked, and the monotonic seconds."""

    marker: str
    number: int
    worker: str
    began: float
    ended: float = inf
    is_whole: bool = False


@dataclass(frozen=True)
class Upstream:
    """The running server."""

    port: int

    def base_url(self, worker: str) -> str:
        """Return where a worker asks."""
        return f"http://127.0.0.1:{self.port}/{worker}/v1"

    def calls(self) -> list[Call]:
        """Return the book."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/calls", timeout=10) as answer:
            return [Call(**entry) for entry in json.load(answer)]


@contextmanager
def running() -> Iterator[Upstream]:
    """Run the server while inside."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        yield Upstream(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


class Server:
    """Answers calls and keeps the book."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._counts: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one call after the other on a connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b" ", 2)
                if method == b"GET":
                    self._show(writer)
                    continue
                length = LENGTH.search(head)
                assert length
                body = json.loads(await reader.readexactly(int(length[1])))
                await self._answer(path.decode().split("/")[1], body["messages"], reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _show(self, writer: asyncio.StreamWriter) -> None:
        book = json.dumps([asdict(call) for call in self._calls]).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(book), book))

    async def _answer(
        self,
        worker: str,
        messages: list[dict[str, str]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        marker = marker_of(messages[-1]["content"])
        self._counts[marker] += 1
        call = Call(marker, self._counts[marker], worker, time.monotonic())
        self._calls.append(call)
        conversation = digest([(message["role"], message["content"]) for message in messages])
        said = Said(marker, call.number, conversation)
        try:
            writer.write(HEAD)
            for token in said.tokens:
                await asyncio.sleep(shape(marker)[1])
                if reader.at_eof():
                    raise ConnectionResetError
                writer.write(event(delta(token)))
                await writer.drain()
            writer.write(event(delta(None, "stop")) + event("[DONE]") + b"0\r\n\r\n")
            await writer.drain()
            call.is_whole = True
        finally:
            call.ended = time.monotonic()


def event(data: str) -> bytes:
    """Return an event of a stream as a chunk."""
    line = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def delta(text: str | None, reason: str | None = None) -> str:
    """Return a piece of an answer as OpenAI's protocol has it."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return json.dumps({"object": "chat.completion.chunk", "choices": [choice]})


def end_with_parent() -> None:
    """End once whoever started this has."""
    sys.stdin.buffer.read()
    os._exit(0)


async def main() -> None:
    """Serve until the standard input ends."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
