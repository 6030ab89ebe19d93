"""A model server that misbehaves on demand, in a process of its own.

``with start_upstream() as upstream`` gives ``upstream.url``, to be used as the base URL. The path
of a request says whether OpenAI's or Anthropic's dialect is spoken (see dialects.py). What happens
is said by each request: by the first words of its last message, ``fault:cut 3 5``, or else by its
model name, ``fault:cut/3/5``. Numbers that aren't given have the defaults below; words after
them are ignored, and make a prompt unique. A text that names no fault is said back.

Whole answers, in many shapes (``n`` tokens ``w0 `` to ``w<n-1> ``, as are all below):
  ok n=5 delay=0          one token a chunk, ``delay`` seconds before each
  length n=5              with the finish reason "length"
  crlf, cr n=5            other line ends
  bom n=5                 with a byte order mark first
  comments n=5            a comment before each token
  multiline n=5           each event's JSON over several data lines
  packed n=5              all events in one chunk
  utf8                    characters of 1 to 4 bytes, each byte a TCP segment
  surrogates              one emoji, cut in two escapes, in two events
  reasoning n=5 delay=0   n thoughts, then n tokens
  hidden n=5 delay=0.02   a thought that isn't shown: n signs of life, then n tokens
  no_done n=5             a finish reason, but no end mark
  no_finish n=5           the end mark, but no finish reason
  early k=3 n=5 delay=0   the finish reason after k tokens, and n - k more of them all the same
  twice k=3 n=5 delay=0   a finish reason after k tokens, and another after the rest; no end mark
  no_usage n=5            no usage
  no_end n=5              a finish reason, then silence on an open connection
  used_no_end n=5         a finish reason and the usage, then silence on an open connection
  cut_end n=5             a finish reason, then a reset
  http10 n=5              neither length nor chunks: the answer ends with the connection
  json n=5                one object, for all that a stream was asked for
  gzip n=5                compressed, though that was refused
  closing n=5             a whole answer, after which the server closes the kept connection
  late delay=1 n=5        the first token after ``delay`` seconds
  trickle n=5 delay=0.001 one byte after the other
  hints count=1 code=103 n=5   so many interim answers before the final one
  flap period=0.4 last=8  as long as the server is up (see below)

No answer:
  reset, close            before the headers, with RST or FIN
  junk                    what is no HTTP
  silent                  no byte at all
  drip_head delay=0.02    the headers, one byte after the other
  headers                 the headers, then silence
  ping delay=0.02         signs of life without end
  drip delay=0.02         one comment without end, byte after byte
  role delay=0.02         events without text and without end
  status code=500 retry_after=0   an error object; retry_after 0 sends no such header
  context, policy         400: the conversation is too long, the content is against the rules
  busy_until seconds=30   429 with Retry-After as a date, in whole seconds
  busy_ms                 429 with Retry-After-Ms: 1500
  moderated               403 all the same, since the prompt was flagged (OpenRouter)
  detail code=422         FastAPI's shape of it
  html code=404           a web page
  long_error code=400     an error message of 100,000 characters
  endless_error code=400  an error body that doesn't end
  stuck_error code=400    an error body that stops in the middle
  leak code=400           an error message that quotes the header with the request's key
  broke                   400, since the account is empty
  spent                   429, since the account is empty, as OpenAI says it
  redirect                to another server
  page                    a web page, as if all were well
  empty_json              an empty JSON object, as if all were well

Half an answer:
  cut k=3 n=5             closed after k tokens
  cut_reset k=3 n=5       reset after k tokens
  cut_clean k=3           ended in good form after k tokens, without a word why
  cut_at form=0 k=100     closed after k bytes of ``ok`` (form 0), ``http10`` (1) or ``json`` (2)
  cut_json                a whole answer's object that ends in the middle
  counted k=3             as cut, but each token comes with the usage so far (OpenAI alone)
  stall k=3               silence after k tokens
  alive k=3 delay=0.02 pings=20   signs of life between the kth token and the rest, of 5
  alive_drip k=3 delay=0.02       after k tokens one event without end, byte after byte
  early_cut k=3           the finish reason after k tokens, one more token, and no end
  empty                   the end mark, and nothing before it
  bad_json k=3            after k tokens what is no JSON; deep_json: JSON, but 100,000 deep
  wrong_json k=3          after k tokens JSON of a wrong shape
  error k=3 code=500      after k tokens an error object
  said_error              after 3 tokens the prompt's last word, as the error object that it is
  odd_error k=3           after k tokens an error object whose fields have wrong types
  filter k=3              the finish reason for what must not be said
  explained k=3           the same, and why
  abort k=3               the finish reason for an answer that was broken off
  reason                  5 tokens and the finish reason that the next word is
  endless                 tokens without end, as fast as they go
  long_line               one line without end
  long_event              one event of many lines, without end
  gzip_bomb               compressed comments without end; gzip_json_bomb: a JSON object so

``fault:first/2/status/500`` is so for the first 2 calls of a prompt; the rest is ``ok``.

``flap`` is down for every other ``period`` seconds, in turn with 503, a reset, and silence until
it's up again; what is being said then is cut. It begins with a model's first call and ends, up for
good, ``last`` seconds later.

``GET /v1/models`` names one model, ``big``, to whoever sends a key; to Anthropic's clients
``small`` on a page before it.

``GET /seen`` counts, by prompt: calls, open (calls under way), client_closed (calls whose client
left before the end), connections (the number of the connection of each call), times (when each
call came, in seconds on the system's monotonic clock), and the last
request's headers and body. The process ends with its standard input, and after ten minutes.
"""

import gzip
import json
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.fakes.dialects import DIALECTS, Anthropic, Event, OpenAI, words

ROOT = Path(__file__).resolve().parent.parent.parent
LIFETIME_S = 600.0
HOLD_S = 60.0

KEY_HEADERS = {dialect.key_header for dialect in DIALECTS.values()}

FAULTS: dict[str, Callable[..., None]] = {}


class ClientClosed(Exception):
    """The client left before its answer was whole."""


@dataclass
class Upstream:
    """A running fake: ``url`` is the base URL, ``seen_port`` where the counters are."""

    url: str
    seen_port: int

    def seen(self, prompt: str) -> dict[str, Any]:
        """Return the counters of ``prompt``, all zero where it never came."""
        connection = HTTPConnection("127.0.0.1", self.seen_port, timeout=10)
        connection.request("GET", "/seen")
        seen: dict[str, dict[str, Any]] = json.load(connection.getresponse())
        connection.close()
        none = {"calls": 0, "open": 0, "client_closed": 0, "connections": [], "times": []}
        return seen.get(prompt, none)


@contextmanager
def start_upstream(certificate: Path | None = None, key: Path | None = None) -> Iterator[Upstream]:
    """Run the fake until the context ends; with a certificate it serves https.

    The counters are always served over plain http, on a port of their own.
    """
    command = [sys.executable, "-m", "tests.fakes.upstream"]
    if certificate and key:
        command += [str(certificate), str(key)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        ports = json.loads(process.stdout.readline())
        scheme = "https" if certificate else "http"
        yield Upstream(f"{scheme}://127.0.0.1:{ports['api']}/v1", ports["seen"])
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else gets while inside."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


@dataclass
class Counters:
    """What happened to one prompt's calls."""

    calls: int = 0
    open: int = 0
    client_closed: int = 0
    connections: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


class Book:
    """The counters of all prompts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, Counters] = {}

    @contextmanager
    def call(self, prompt: str, connection: int, request: "Request") -> Iterator[int]:
        """Count one call while it runs, and give its number from 1."""
        with self._lock:
            mine = self._counters.setdefault(prompt, Counters())
            mine.calls += 1
            mine.open += 1
            mine.connections.append(connection)
            mine.times.append(time.monotonic())
            number = mine.calls
            mine.headers, mine.body = request.headers, request.body
        left = 0
        try:
            yield number
        except (ClientClosed, OSError):
            left = 1
            raise
        finally:
            with self._lock:
                mine.open -= 1
                mine.client_closed += left

    def as_json(self) -> bytes:
        with self._lock:
            return json.dumps({key: vars(mine) for key, mine in self._counters.items()}).encode()


@dataclass
class Request:
    """One HTTP request, its body read and parsed where it's JSON."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])

    def fault(self, call: int) -> tuple[str, list[float]]:
        """Return the fault's name and its numbers; the name is empty where none is asked for.

        ``call`` counts the calls of this prompt.
        """
        asked = next(
            (text for text in (self.prompt, self.body["model"]) if text.startswith("fault:")), ""
        )
        name, *more = re.split(r"[\s/]+", asked.removeprefix("fault:"))
        if name == "first":
            count, name, *more = more
            if call > int(count):
                return "ok", []
        numbers = []
        for word in more:
            if not re.fullmatch(r"\d+(\.\d+)?", word):
                break
            numbers.append(float(word))
        return name, numbers


class Reply:
    """The writing end of one answer; each method sends at once."""

    def __init__(self, connection: Any, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.dialect = DIALECTS.get(request.path, OpenAI)()
        self.keeps = True
        self.newline = "\n"
        self.pace = 0.0
        self._chunked = True

    def send(self, data: bytes) -> None:
        """Send raw bytes, one every ``pace`` seconds where there is a pace."""
        if self.pace:
            delay, self.pace = self.pace, 0.0
            self.drip(data, delay)
            self.pace = delay
            return
        try:
            self.connection.sendall(data)
        except OSError as error:
            raise ClientClosed from error

    def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        """Send the head of a chunked answer."""
        self.send(self.head_bytes(status, kind, **headers))

    def head_bytes(
        self, status: int, kind: str, framing: str = "Transfer-Encoding: chunked", **headers: str
    ) -> bytes:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {kind}", framing]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*filter(None, lines), "", ""]).encode()

    def whole(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        """Send an answer with a length."""
        framing = f"Content-Length: {len(body)}"
        self.send(self.head_bytes(status, kind, framing, **headers) + body)

    def bare_head(self) -> None:
        """Begin an HTTP/1.0 answer, which ends with the connection."""
        self.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        self._chunked, self.keeps = False, False

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def line(self, *lines: str) -> None:
        """Send lines of an event stream, and the blank one."""
        self.chunk("".join(f"{line}{self.newline}" for line in (*lines, "")).encode())

    def say(self, *events: Event) -> None:
        """Send events."""
        for name, data in events:
            self.line(*([f"event: {name}"] if name else []), f"data: {data}")

    def tokens(self, first: float, last: float, delay: float = 0) -> None:
        """Send the tokens from number ``first`` to before number ``last``."""
        for token in words(last)[int(first) :]:
            if delay:
                self.wait(delay)
            self.say(*self.dialect.text(token))

    def finish(
        self, n: float, reason: str | None = "stop", usage: bool = True, done: bool = True
    ) -> None:
        """Send the finish reason, the usage, the end mark and the end of the answer."""
        self.say(*self.dialect.ending(reason, n if usage else None))
        if done:
            self.say(self.dialect.done())
        self.end()

    def fail(self, code: float, text: str = "upstream says no", **headers: str) -> None:
        """Send an error object as the answer."""
        body = self.dialect.error_body(code, text)
        self.whole(int(code), "application/json", body, **headers)

    def end(self) -> None:
        if self._chunked:
            self.send(b"0\r\n\r\n")

    def wait(self, seconds: float) -> None:
        """Wait, and raise ClientClosed as soon as the client leaves."""
        if select.select([self.connection], [], [], seconds)[0]:
            raise ClientClosed

    def hold(self) -> None:
        """Say nothing more."""
        self.wait(HOLD_S)
        self.keeps = False

    def drip(self, data: bytes, delay: float) -> None:
        for byte in data:
            self.send(bytes([byte]))
            self.wait(delay)

    def cut(self) -> None:
        """Close in the middle."""
        self.keeps = False

    def reset(self) -> None:
        """Close with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.keeps = False


def fault(function: Callable[..., None]) -> Callable[..., None]:
    """Register a fault under its function's name."""
    FAULTS[function.__name__] = function
    return function


def answer(reply: Reply, prompt: str) -> None:
    """Say the prompt back, word by word."""
    pieces = re.findall(r"\S+\s*", prompt)
    reply.head()
    for piece in pieces:
        reply.say(*reply.dialect.text(piece))
    reply.finish(len(pieces))


@fault
def ok(reply: Reply, n: float = 5, delay: float = 0) -> None:
    reply.head()
    reply.tokens(0, n, delay)
    reply.finish(n)


@fault
def length(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.finish(n, reason="length")


@fault
def crlf(reply: Reply, n: float = 5) -> None:
    reply.newline = "\r\n"
    ok(reply, n)


@fault
def cr(reply: Reply, n: float = 5) -> None:
    reply.newline = "\r"
    ok(reply, n)


@fault
def bom(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.chunk(b"\xef\xbb\xbf")
    reply.tokens(0, n)
    reply.finish(n)


@fault
def comments(reply: Reply, n: float = 5) -> None:
    reply.head()
    for number in range(int(n)):
        reply.line(": still here")
        reply.tokens(number, number + 1)
    reply.finish(n)


@fault
def multiline(reply: Reply, n: float = 5) -> None:
    reply.head()
    for number, token in enumerate(words(n)):
        for name, data in reply.dialect.text(token):
            text = json.dumps(json.loads(data), indent=1)
            lines = [f"data:{line}" for line in text.splitlines()]
            reply.line(f"event: {name or 'message'}", f"id: {number}", *lines)
    reply.finish(n)


@fault
def packed(reply: Reply, n: float = 5) -> None:
    tokens = [event for token in words(n) for event in reply.dialect.text(token)]
    events = [*tokens, *reply.dialect.ending("stop", n), reply.dialect.done()]
    reply.head()
    reply.line(*(f"event: {name}\ndata: {data}\n" for name, data in events))
    reply.end()


@fault
def utf8(reply: Reply) -> None:
    reply.head()
    *opening, (name, data) = reply.dialect.text("aé€😀")
    reply.say(*opening)
    raw = json.dumps(json.loads(data), ensure_ascii=False)
    event = f"event: {name}\ndata: {raw}\n\n".encode()
    reply.drip(b"%x\r\n" % len(event), 0)
    reply.drip(event, 0.001)
    reply.send(b"\r\n")
    reply.finish(1)


@fault
def surrogates(reply: Reply) -> None:
    reply.head()
    reply.say(*reply.dialect.text("a\ud83d"), *reply.dialect.text("\ude00b"))
    reply.finish(2)


@fault
def reasoning(reply: Reply, n: float = 5, delay: float = 0) -> None:
    reply.head()
    for number in range(int(n)):
        reply.wait(delay)
        reply.say(*reply.dialect.thought(f"thought {number} "))
    reply.tokens(0, n, delay)
    reply.finish(n)


@fault
def hidden(reply: Reply, n: float = 5, delay: float = 0.02) -> None:
    reply.head()
    reply.say(*reply.dialect.thought(""))
    for _ in range(int(n)):
        reply.wait(delay)
        reply.line(*reply.dialect.ping())
    reply.tokens(0, n)
    reply.finish(n)


@fault
def early(reply: Reply, k: float = 3, n: float = 5, delay: float = 0) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(*reply.dialect.ending("stop", None))
    reply.tokens(k, n, delay)
    reply.finish(n)


@fault
def twice(reply: Reply, k: float = 3, n: float = 5, delay: float = 0) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(*reply.dialect.ending("stop", None))
    reply.tokens(k, n, delay)
    reply.finish(n, usage=False, done=False)


@fault
def early_cut(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(*reply.dialect.ending("stop", None))
    reply.tokens(k, k + 1)
    reply.cut()


@fault
def empty(reply: Reply) -> None:
    reply.head()
    reply.say(reply.dialect.done())
    reply.end()


@fault
def no_done(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.finish(n, done=False)


@fault
def no_finish(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.finish(n, reason=None)


@fault
def no_usage(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.finish(n, usage=False)


@fault
def no_end(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.say(*reply.dialect.ending("stop", None))
    reply.hold()


@fault
def used_no_end(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.say(*reply.dialect.ending("stop", n))
    reply.hold()


@fault
def cut_end(reply: Reply, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, n)
    reply.say(*reply.dialect.ending("stop", None))
    reply.wait(0.05)
    reply.reset()


@fault
def http10(reply: Reply, n: float = 5) -> None:
    reply.bare_head()
    reply.tokens(0, n)
    reply.finish(n)


@fault
def json_(reply: Reply, n: float = 5) -> None:
    reply.whole(200, "application/json; charset=utf-8", reply.dialect.whole(n))


@fault
def gzip_(reply: Reply, n: float = 5) -> None:
    body = gzip.compress(reply.dialect.whole(n))
    reply.whole(200, "application/json", body, Content_Encoding="gzip")


@fault
def closing(reply: Reply, n: float = 5) -> None:
    ok(reply, n)
    reply.keeps = False


@fault
def late(reply: Reply, delay: float = 1, n: float = 5) -> None:
    reply.head()
    reply.wait(delay)
    reply.tokens(0, n)
    reply.finish(n)


@fault
def trickle(reply: Reply, n: float = 5, delay: float = 0.001) -> None:
    reply.head()
    reply.pace = delay
    reply.tokens(0, n)
    reply.finish(n)
    reply.pace = 0.0


@fault
def hints(reply: Reply, count: float = 1, code: float = 103, n: float = 5) -> None:
    for _ in range(int(count)):
        # Each in a segment of its own, as from a server that still works on the answer.
        reply.send(f"HTTP/1.1 {code:.0f} Whatever\r\nLink: </style.css>\r\n\r\n".encode())
        reply.wait(0.01)
    ok(reply, n)


FLAPPING: dict[str, float] = {}
"""When each model was first asked, of those that flap."""


@fault
def flap(reply: Reply, period: float = 0.4, last: float = 8) -> None:
    began = FLAPPING.setdefault(reply.request.body["model"], time.monotonic())

    def phase() -> int:
        """The number of the period; odd while the server is down."""
        passed = time.monotonic() - began
        return int(passed / period) if passed < last else 0

    match phase() % 6:
        case 1:
            status(reply, 503)
            return
        case 3:
            reply.reset()
            return
        case 5:
            reply.wait(period)
            reply.cut()
            return
    reply.head()
    for token in words(5):
        reply.wait(0.02)
        if phase() % 2:
            reply.cut()
            return
        reply.say(*reply.dialect.text(token))
    reply.finish(5)


@fault
def reset(reply: Reply) -> None:
    reply.reset()


@fault
def close(reply: Reply) -> None:
    reply.cut()


@fault
def junk(reply: Reply) -> None:
    reply.send(b"220 this is a mail server\r\n")
    reply.cut()


@fault
def silent(reply: Reply) -> None:
    reply.hold()


@fault
def drip_head(reply: Reply, delay: float = 0.02) -> None:
    reply.drip(reply.head_bytes(200, "text/event-stream", padding="x" * 10_000), delay)
    reply.hold()


@fault
def headers(reply: Reply) -> None:
    reply.head()
    reply.hold()


@fault
def ping(reply: Reply, delay: float = 0.02) -> None:
    reply.head()
    while True:
        reply.line(*reply.dialect.ping())
        reply.wait(delay)


@fault
def drip(reply: Reply, delay: float = 0.02) -> None:
    reply.head()
    while True:
        reply.chunk(b":")
        reply.wait(delay)


@fault
def role(reply: Reply, delay: float = 0.02) -> None:
    reply.head()
    while True:
        reply.say(*reply.dialect.nothing())
        reply.wait(delay)


@fault
def status(reply: Reply, code: float = 500, retry_after: float = 0) -> None:
    reply.fail(code, **({"Retry_After": f"{retry_after:g}"} if retry_after else {}))


@fault
def context(reply: Reply) -> None:
    error = {"message": "This is longer than I can read.", "code": "context_length_exceeded"}
    reply.whole(400, "application/json", json.dumps({"error": error}).encode())


@fault
def policy(reply: Reply) -> None:
    error = {"message": "I must not talk about that.", "code": "content_policy_violation"}
    reply.whole(400, "application/json", json.dumps({"error": error}).encode())


@fault
def moderated(reply: Reply) -> None:
    text = "Your chosen model requires moderation and your input was flagged"
    error = {"code": 403, "message": text, "metadata": {"reasons": ["violence"]}}
    reply.whole(403, "application/json", json.dumps({"error": error}).encode())


@fault
def busy_until(reply: Reply, seconds: float = 30) -> None:
    date = formatdate(time.time() + seconds, usegmt=True)
    reply.fail(429, Retry_After=date)


@fault
def busy_ms(reply: Reply) -> None:
    reply.fail(429, Retry_After_Ms="1500")


@fault
def detail(reply: Reply, code: float = 422) -> None:
    body = {"detail": [{"loc": ["body", "top_p"], "msg": "top_p is too large"}]}
    reply.whole(int(code), "application/json", json.dumps(body).encode())


@fault
def html(reply: Reply, code: float = 404) -> None:
    reply.whole(int(code), "text/html", b"<h1>upstream secret</h1>")


@fault
def long_error(reply: Reply, code: float = 400) -> None:
    reply.fail(code, "bad\n\x1b[31m \u202einput " + "y" * 40_000)


@fault
def endless_error(reply: Reply, code: float = 400) -> None:
    reply.head(int(code), "application/json")
    while True:
        reply.chunk(b" " * 4096)


@fault
def stuck_error(reply: Reply, code: float = 400) -> None:
    reply.head(int(code), "application/json")
    reply.chunk(reply.dialect.error_body(code)[:-5])
    reply.hold()


@fault
def leak(reply: Reply, code: float = 400) -> None:
    reply.fail(code, f"can't read {reply.request.headers.get(reply.dialect.key_header)}")


@fault
def broke(reply: Reply) -> None:
    reply.fail(400, "Your credit balance is too low to access the API.")


@fault
def spent(reply: Reply) -> None:
    error = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
    body = json.dumps({"error": {"type": "insufficient_quota", **error}}).encode()
    reply.whole(429, "application/json", body)


@fault
def redirect(reply: Reply) -> None:
    reply.whole(307, "text/plain", b"", Location="http://127.0.0.1:9/v1/chat/completions")


@fault
def page(reply: Reply) -> None:
    reply.whole(200, "text/html; charset=utf-8", b"<h1>It works!</h1>")


@fault
def empty_json(reply: Reply) -> None:
    reply.whole(200, "application/json", b"{}")


@fault
def cut(reply: Reply, k: float = 3, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, min(k, n))
    reply.cut()


@fault
def counted(reply: Reply, k: float = 3) -> None:
    reply.head()
    for number in range(int(k)):
        reply.tokens(number, number + 1)
        reply.say(*reply.dialect.count(number + 1))
    reply.cut()


@fault
def cut_reset(reply: Reply, k: float = 3, n: float = 5) -> None:
    reply.head()
    reply.tokens(0, min(k, n))
    reply.wait(0.05)
    reply.reset()


@fault
def cut_clean(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.end()


class Paper:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.written = b""

    def sendall(self, data: bytes) -> None:
        self.written += data


@fault
def cut_at(reply: Reply, form: float = 0, k: float = 100) -> None:
    paper = Paper()
    (ok, http10, json_)[int(form)](Reply(paper, reply.request))
    reply.send(paper.written[: int(k)])
    reply.cut()


@fault
def cut_json(reply: Reply) -> None:
    body = reply.dialect.whole(5)
    framing = f"Content-Length: {len(body)}"
    reply.send(reply.head_bytes(200, "application/json", framing) + body[:-9])
    reply.cut()


@fault
def stall(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.hold()


@fault
def alive(reply: Reply, k: float = 3, delay: float = 0.02, pings: float = 20) -> None:
    reply.head()
    reply.tokens(0, k)
    for _ in range(int(pings)):
        reply.wait(delay)
        reply.line(*reply.dialect.ping())
    reply.tokens(k, 5)
    reply.finish(5)


@fault
def alive_drip(reply: Reply, k: float = 3, delay: float = 0.02) -> None:
    reply.head()
    reply.tokens(0, k)
    while True:
        reply.chunk(b"d")
        reply.wait(delay)


@fault
def bad_json(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.line('data: {"type": [{')
    reply.hold()


@fault
def deep_json(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.line("data: " + "[" * 100_000)
    reply.hold()


@fault
def wrong_json(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(reply.dialect.wrong())
    reply.hold()


@fault
def error(reply: Reply, k: float = 3, code: float = 500) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(reply.dialect.error(code))
    reply.hold()


@fault
def said_error(reply: Reply) -> None:
    reply.head()
    reply.tokens(0, 3)
    reply.line(f'data: {{"error": {reply.request.prompt.split()[-1]}}}')
    reply.hold()


@fault
def odd_error(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.line('data: {"type": "error", "error": {"type": {}, "code": [], "message": {}}}')
    reply.hold()


@fault
def filter_(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.finish(k, reason="filter")


@fault
def explained(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.say(*reply.dialect.refusal("This could do\nharm."))
    reply.end()


@fault
def abort(reply: Reply, k: float = 3) -> None:
    reply.head()
    reply.tokens(0, k)
    reply.finish(k, reason="abort")


@fault
def reason(reply: Reply) -> None:
    reply.head()
    reply.tokens(0, 5)
    reply.finish(5, reason=reply.request.prompt.split()[1])


@fault
def endless(reply: Reply) -> None:
    reply.head()
    while True:
        reply.say(*reply.dialect.text("word " * 4000))


@fault
def long_line(reply: Reply) -> None:
    reply.head()
    reply.chunk(b"data: ")
    while True:
        reply.chunk(b"x" * 65536)


@fault
def long_event(reply: Reply) -> None:
    reply.head()
    while True:
        reply.chunk(b"data: x\n" * 8192)


@fault
def gzip_bomb(reply: Reply) -> None:
    reply.head(Content_Encoding="gzip")
    bomb(reply, b"data: " + b"x" * 2**20)


@fault
def gzip_json_bomb(reply: Reply) -> None:
    reply.head(kind="application/json", Content_Encoding="gzip")
    bomb(reply, b" " * 2**20)


def bomb(reply: Reply, data: bytes) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    while True:
        if packed := packer.compress(data):
            reply.chunk(packed)


def models(reply: Reply, query: str) -> None:
    """The list of models, which Anthropic gives in pages."""
    if not reply.request.headers.keys() & KEY_HEADERS:
        reply.fail(401)
        return
    body: dict[str, Any] = {"object": "list", "data": [{"id": "big"}]}
    if Anthropic.key_header in reply.request.headers and "after_id=small" not in query:
        body = {"data": [{"id": "small"}], "has_more": True, "last_id": "small"}
    reply.whole(200, "application/json", json.dumps(body).encode())


class Server:
    """Serves each connection in a thread."""

    def __init__(self, book: Book, context: ssl.SSLContext | None) -> None:
        self._book = book
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._connections = 0
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self._connections += 1
            arguments = (connection, self._connections)
            threading.Thread(target=self._serve, args=arguments, daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(HOLD_S)
        try:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while request := read_request(reader):
                    if not self._answer(connection, request, number):
                        break
        except (ClientClosed, OSError):
            connection.close()

    def _answer(self, connection: socket.socket, request: Request, number: int) -> bool:
        """Answer one request, and return whether the connection takes another."""
        reply = Reply(connection, request)
        if request.path == "/seen":
            reply.whole(200, "application/json", self._book.as_json())
            return True
        path, _, query = request.path.partition("?")
        if path == "/v1/models":
            models(reply, query)
            return True
        if request.path not in DIALECTS:
            reply.whole(404, "application/json", b'{"detail": "Not Found"}')
            return True
        with self._book.call(request.prompt, number, request) as call:
            name, numbers = request.fault(call)
            if name:
                known = FAULTS.get(name) or FAULTS[f"{name}_"]
                known(reply, *numbers)
            else:
                answer(reply, request.prompt)
        return reply.keeps


def read_request(reader: Any) -> Request | None:
    """Read one request, or return None where the client has none any more, or leaves in it."""
    first = reader.readline()
    if not first:
        return None
    fields = {}
    while line := reader.readline():
        if not line.strip():
            break
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    else:
        return None
    size = int(fields.get("content-length", 0))
    body = reader.read(size)
    if len(body) < size:
        return None
    return Request(first.split()[1].decode(), fields, json.loads(body) if body else None)


def end_with_parent() -> None:
    """End when the parent closes our standard input, or dies."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until the parent goes."""
    context = None
    if len(sys.argv) == 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    book = Book()
    api, seen = Server(book, context), Server(book, None)
    for work in (end_with_parent, api.run, seen.run):
        threading.Thread(target=work, daemon=True).start()
    print(json.dumps({"api": api.port, "seen": seen.port}), flush=True)
    time.sleep(LIFETIME_S)


if __name__ == "__main__":
    main()
