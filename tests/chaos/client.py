"""A client of a chaos run: submits, follows its request over any web process, notes all it sees."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests
import websocket

from tests.chaos.answers import prompt_of
from tests.chaos.journal import Journal
from tests.chaos.reading import Json, Lost, Reading, Torn
from tests.e2e.client import END, Frame, frames

CONNECT_S = 2.0
ANSWER_S = 8.0
"""Longer than a stream or a long poll says nothing."""
WAIT_S = 2
AGAIN_S = 0.3
FAILURES = (OSError, requests.RequestException, websocket.WebSocketException)
WAYS = ("poll", "events", "stream", "socket")


class Refused(Exception):
    """A web process answered 503, or is about to stop: ask again, anywhere."""


@dataclass(frozen=True)
class Ask:
    """One request: how it is followed, and after how many seconds it is cancelled, if at all."""

    marker: str
    way: str
    priority: str = "normal"
    session: str | None = None
    cancel_s: float | None = None

    @property
    def body(self) -> Json:
        body: Json = {"prompt": prompt_of(self.marker), "priority": self.priority}
        return body | ({"session_id": self.session} if self.session else {})


@dataclass(frozen=True)
class World:
    """What clients share: the addresses of the web processes, the journal, when all is over."""

    doors: Sequence[str]
    journal: Journal
    over_at: float


class Client:
    """One request's client. ``seed`` decides at which door it asks, and when it leaves a stream.

    ``request_id`` is there once the request was accepted.
    """

    def __init__(self, world: World, ask: Ask, seed: int, request_id: str = "") -> None:
        self._world = world
        self.ask = ask
        self._chance = random.Random(f"{seed} {ask.marker}")
        self.request_id = request_id
        self._reading = Reading(request_id)

    def submit(self) -> None:
        """Submit until it is accepted. Raises Broken."""
        self._persistently("submit", self._submit)

    def follow(self) -> None:
        """Follow it to its end. Raises Broken."""
        with self._cancelling():
            self._persistently(self.ask.way, getattr(self, f"_{self.ask.way}"))

    def examine(self) -> None:
        """Look once more, when all is over: at one door for the state, at another for the log."""
        self._persistently("status", self._status)
        self._persistently("stream", self._stream_once)

    def _persistently(self, what: str, act: Callable[[str], bool]) -> None:
        """Do it at one door after the other until it is done."""
        while True:
            door = self._chance.choice(self._world.doors)
            try:
                done, outcome = act(door), "well"
            except Refused as refusal:
                done, outcome = False, str(refusal)
            except (AssertionError, requests.exceptions.JSONDecodeError) as error:
                raise Torn(f"{what} gave what can't be read: {error}") from error
            except FAILURES as error:
                done, outcome = False, type(error).__name__
            self._note("attempt", what=what, door=door, outcome=outcome)
            if done:
                return
            if time.monotonic() > self._world.over_at:
                raise Lost(f"{what} came to no end")
            if outcome != "well":
                time.sleep(AGAIN_S)

    def _submit(self, door: str) -> bool:
        answer = self._call("POST", door, "/infer", json=self.ask.body)
        request_id = answer.json()["request_id"]
        self.request_id = request_id
        self._reading = Reading(request_id)
        self._note("accepted", request_id=request_id, door=door)
        # Now and then once more, as a client does that never got the answer.
        return self._chance.random() > 0.1

    @contextlib.contextmanager
    def _cancelling(self) -> Iterator[None]:
        """While inside, cancel after the time that was asked for, if any."""
        if self.ask.cancel_s is None:
            yield
            return
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            cancelled = pool.submit(self._cancel_late, ended)
            try:
                yield
            finally:
                ended.set()
        cancelled.result()

    def _cancel_late(self, ended: threading.Event) -> None:
        if not ended.wait(self.ask.cancel_s):
            self._persistently("cancel", self._cancel)

    def _cancel(self, door: str) -> bool:
        answer = self._call("POST", door, f"/cancel/{self.request_id}?wait={WAIT_S}")
        return self._see(door, answer.json())

    def _poll(self, door: str) -> bool:
        view = self._chance.choice(("status", "result"))
        answer = self._call("GET", door, f"/{view}/{self.request_id}?wait={WAIT_S}")
        if answer.status_code == 409:
            self._note("ended", door=door, status="cancelled")
            return True
        if answer.status_code == 500:
            code = answer.json()["error"]["details"]["cause"]
            self._note("ended", door=door, status="failed", error_code=code)
            return True
        return self._see(door, answer.json())

    def _status(self, door: str) -> bool:
        return self._see(door, self._call("GET", door, f"/status/{self.request_id}").json())

    def _see(self, door: str, view: Json) -> bool:
        """Note the end that a view tells of. Raises Mixed."""
        self._reading.check(view)
        if view["status"] not in END:
            return False
        more = {"error_code": view["error_code"]} if "error_code" in view else {}
        self._note("ended", door=door, status=view["status"], text=view["result"], **more)
        return True

    def _events(self, door: str) -> bool:
        path = f"/events/{self.request_id}?after={self._reading.after}&wait={WAIT_S}"
        page = self._call("GET", door, path).json()
        for event in page["events"]:
            self._reading.take(event["seq"], event["event"], event["data"])
        return self._ends(door)

    def _stream(self, door: str) -> bool:
        """Read on, for a while or to the end."""
        most = self._chance.randint(1, 20) if self._chance.random() < 0.3 else None
        return self._read_stream(door, most)

    def _stream_once(self, door: str) -> bool:
        return self._read_stream(door, None)

    def _read_stream(self, door: str, most: int | None) -> bool:
        last = {"Last-Event-ID": str(self._reading.after)} if self._reading.after >= 0 else {}
        with self._call(
            "GET", door, f"/stream/{self.request_id}", headers=last, stream=True
        ) as answer:
            if answer.status_code == 204:
                raise Torn("nothing follows, and no end was told")
            for count, frame in enumerate(frames(answer), 1):
                self._take(frame)
                if count == most:
                    break
        return self._ends(door)

    def _take(self, frame: Frame) -> None:
        self._reading.take(frame.id, frame.event, frame.data)

    def _socket(self, door: str) -> bool:
        """Read on over a WebSocket, for a while or to the end."""
        reading = self._reading
        reading.resume()
        most = self._chance.randint(1, 20) if self._chance.random() < 0.3 else 0
        with self._connected(door) as socket:
            about = {"request_id": self.request_id, "after": reading.after}
            socket.send(json.dumps({"type": "subscribe"} | about))
            while not reading.ended:
                opcode, data = socket.recv_data()
                if opcode != websocket.ABNF.OPCODE_TEXT:
                    raise Refused(f"closed with {int.from_bytes(data[:2])}")
                frame = json.loads(data)
                code = frame.get("code")
                if code == "PIPELINE_UNAVAILABLE":
                    raise Refused(code)
                if code == "NOT_FOUND":
                    raise Lost(f"subscribe was answered with {frame}")
                reading.take_frame(frame)
                most -= 1
                if most == 0:
                    return False
        return self._ends(door)

    @contextlib.contextmanager
    def _connected(self, door: str) -> Iterator[websocket.WebSocket]:
        address = f"ws{door.removeprefix('http')}/ws"
        socket = websocket.create_connection(address, timeout=ANSWER_S)
        try:
            yield socket
        finally:
            socket.shutdown()

    def _ends(self, door: str) -> bool:
        reading = self._reading
        if not reading.ended:
            return False
        more = {} if reading.result is None else {"text": reading.result}
        self._note("ended", door=door, status=reading.ended, **more)
        self._note("read", text=reading.text, status=reading.ended)
        return True

    def _call(self, method: str, door: str, path: str, **options: object) -> requests.Response:
        """Make a call. Raises Refused; Lost or Torn for an answer that nobody may be given."""
        headers = {"Idempotency-Key": self.ask.marker, **options.pop("headers", {})}
        answer = requests.request(
            method, f"{door}{path}", headers=headers, timeout=(CONNECT_S, ANSWER_S), **options
        )
        if answer.status_code == 503:
            raise Refused(answer.json()["error"]["code"])
        if answer.status_code == 404:
            raise Lost(f"{method} {path} was answered with {answer.text}")
        fine = (200, 202, 204, 409, 500) if path.startswith("/result") else (200, 202, 204)
        if answer.status_code not in fine:
            raise Torn(f"{method} {path} was answered with {answer.status_code}: {answer.text}")
        return answer

    def _note(self, kind: str, **more: object) -> None:
        self._world.journal.note(kind, self.ask.marker, **more)
