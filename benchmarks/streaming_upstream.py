"""A model server for overhead.py that does as little as it can: OpenAI's protocol, streamed.

The prompt is the number of tokens and the milliseconds between two, as in ``100 20``. The first
comes at once. Each token is sent by itself. The port is written to standard output.
"""

import asyncio
import json
import re

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def event(data: str) -> bytes:
    line = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def delta(text: str | None, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    return event(json.dumps({"object": "chat.completion.chunk", "choices": [choice]}))


TOKEN = delta("token ")
END = delta(None, "stop") + event("[DONE]") + b"0\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request after the other on a connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            tokens, milliseconds = map(int, body["messages"][-1]["content"].split())
            writer.write(HEAD)
            await say(writer, tokens, milliseconds / 1000)
            writer.write(END)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def say(writer: asyncio.StreamWriter, tokens: int, interval: float) -> None:
    now = asyncio.get_running_loop().time
    began = now()
    for number in range(tokens):
        if interval and number:
            # By the clock, so that a late token delays no other.
            await asyncio.sleep(began + number * interval - now())
        writer.write(TOKEN)
        await writer.drain()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
