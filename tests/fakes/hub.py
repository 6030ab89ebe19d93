"""A model hub on loopback that serves one file, as well or as badly as a test wants it to."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/owner/repo/resolve/main/model.gguf"


@dataclass
class Hub:
    """What is served, how, and which Range headers came.

    Each connection sends at most the next of ``cuts`` bytes, where there is one.
    """

    content: bytes
    url: str = ""
    checksum: str | None = None
    checksum_without_range: bool = True
    ranges: bool = True
    status: int = 200
    claimed_size: int | None = None
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    @property
    def file_url(self) -> str:
        return self.url + PATH


@contextmanager
def serving_hub(content: bytes) -> Iterator[Hub]:
    """Serve ``content`` while inside, at first without any fault."""
    hub = Hub(content, checksum=hashlib.sha256(content).hexdigest())

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_GET(self) -> None:  # noqa: N802  (the name that http.server calls)
        if self.path == PATH:
            self._redirect()
        elif self.path == "/store/model":
            self._send_file()
        else:
            self._head(404)

    def _redirect(self) -> None:
        """As the hub does: the checksum is here, the file elsewhere."""
        hub = self.served
        no_range = "Range" in self.headers and not hub.checksum_without_range
        checksum = None if no_range else hub.checksum
        linked = {"X-Linked-ETag": f'"{checksum}"'} if checksum else {}
        self._head(302, Location="/store/model", **linked)

    def _send_file(self) -> None:
        hub = self.served
        asked = self.headers.get("Range")
        hub.asked.append(asked)
        if hub.status != 200:
            self._head(hub.status)
            return
        start, size = 0, hub.claimed_size or len(hub.content)
        if asked and hub.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                self._head(416, **{"Content-Range": f"bytes */{size}"})
                return
            self._head(206, size - start, **{"Content-Range": f"bytes {start}-{size - 1}/{size}"})
        else:
            self._head(200, size)
        rest = hub.content[start:]
        self.wfile.write(rest[: hub.cuts.pop(0)] if hub.cuts else rest)

    def _head(self, status: int, length: int = 0, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"0123456789abcdef"')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Keep quiet: tests look at what the downloader writes to stderr."""
