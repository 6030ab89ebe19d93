"""The WebSocket door: many requests over one socket, each a view of its event log."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Blueprint
from flask_sock import Sock
from simple_websocket import Server

from orchestrator import wire
from orchestrator.errors import InvalidRequest, OrchestratorError, RateLimited
from orchestrator.job import Status
from orchestrator.schemas import invalid
from orchestrator.service import BATCH, START
from orchestrator.strict_json import Json, parse_object
from orchestrator.web import handshake
from orchestrator.web.context import Context, context
from orchestrator.web.ws_guard import CLOSE_FAULT, CLOSE_GOING_AWAY, LINGER_S, OVER

MAX_SEQ = 2**53
MAX_IN_FLIGHT = 32
"""Requests that one socket follows at once."""
LOOK_S = 5.0
"""How often a follower looks whether its socket is still there."""

logger = logging.getLogger("orchestrator")

bp = Blueprint("ws", __name__)
bp.before_request(handshake.check)
sock = Sock()


@sock.route("/ws", bp=bp)
def serve(ws: Server) -> None:
    """Serve one socket until either side closes it. Closing it cancels nothing."""
    conversation = _Conversation(ws, context())
    try:
        with context().connections.opened(conversation.is_busy, conversation.go_away):
            conversation.run()
    except OVER:
        return
    except Exception:
        logger.exception("a WebSocket conversation broke")
    finally:
        with contextlib.suppress(*OVER):
            ws.close(CLOSE_FAULT)
        # The reader lets the client see why it is closed; to return now would cut that short.
        ws.thread.join(2 * LINGER_S)


@dataclass(slots=True, eq=False)
class _Follower:
    """One request that a socket follows; ``tokens`` says whether token by token.

    ``ref`` is what the client called the frame that asked for it.
    """

    request_id: str
    after: int
    tokens: bool
    ref: Json
    dropped: bool = False


class _Conversation:
    """The frames of one socket: commands in, and the events of what it follows out."""

    def __init__(self, ws: Server, doors: Context) -> None:
        self._ws = ws
        self._doors = doors
        self._service = doors.service
        self._sending = threading.Lock()
        self._followers: dict[str, _Follower] = {}
        self._relays: set[_Follower] = set()
        self._commands = {
            "submit": self._submit,
            "cancel": self._cancel,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ping": self._ping,
        }

    def run(self) -> None:
        """Answer frame after frame. Raises one of OVER at the end."""
        try:
            while True:
                data = self._ws.receive()
                if data is not None:
                    self._answer(data)
        finally:
            for follower in list(self._followers.values()):
                follower.dropped = True

    def is_busy(self) -> bool:
        """Whether an answer is still to be delivered."""
        return bool(self._followers)

    def go_away(self) -> None:
        """Tell the client that the server stops, and let ``run`` end."""
        with contextlib.suppress(*OVER):
            self._ws.close(CLOSE_GOING_AWAY, "The server is restarting.")
        self._ws.event.set()

    def _answer(self, data: str | bytes) -> None:
        about: Json = {}
        try:
            if isinstance(data, bytes):
                raise InvalidRequest("Binary frames are not understood. Send JSON as text.")
            frame = parse_object(data)
            about = _named(frame)
            kind = frame.pop("type", "submit")
            command = self._commands.get(kind) if isinstance(kind, str) else None
            if command is None:
                raise invalid({"type": [f"Must be one of: {', '.join(self._commands)}."]})
            command(frame)
        except OrchestratorError as error:
            self._send_error(error, about)

    def _submit(self, frame: Json) -> None:
        ref = _ref(frame)
        request = self._doors.reader.read(frame)
        self._check_room()
        submission = self._service.submit(request)
        ack = {"type": "ack", "request_id": submission.request_id, "status": Status.PROCESSING}
        self._send(ack | ref)
        self._follow(_Follower(submission.request_id, START, request.stream, ref))

    def _subscribe(self, frame: Json) -> None:
        request_id = _request_id(frame)
        after = frame.get("after")
        if isinstance(after, bool) or not isinstance(after, (int, type(None))):
            raise invalid({"after": ["Must be the seq of the last event that you have."]})
        after = START if after is None else max(START, min(after, MAX_SEQ))
        after = self._service.resume_point(request_id, after)
        self._follow(_Follower(request_id, after, tokens=True, ref=_ref(frame)))

    def _unsubscribe(self, frame: Json) -> None:
        follower = self._followers.pop(_request_id(frame), None)
        if follower:
            follower.dropped = True

    def _cancel(self, frame: Json) -> None:
        request_id = _request_id(frame)
        ref = _ref(frame)
        self._service.cancel(request_id)
        if request_id not in self._followers:
            self._follow(_Follower(request_id, START, tokens=False, ref=ref))

    def _ping(self, frame: Json) -> None:
        self._send({"type": "pong"} | _ref(frame))

    def _check_room(self, request_id: str | None = None) -> None:
        """Raise RateLimited where following one request more, or this one anew, is too much.

        A follower that was dropped counts until it has noticed, which takes LOOK_S.
        """
        in_flight = len(self._followers) - (request_id in self._followers)
        if in_flight >= MAX_IN_FLIGHT or len(self._relays) >= 2 * MAX_IN_FLIGHT:
            raise RateLimited(
                f"This socket follows {MAX_IN_FLIGHT} requests already. Wait for one to end, "
                "unsubscribe, or open another socket."
            )

    def _follow(self, follower: _Follower) -> None:
        self._check_room(follower.request_id)
        earlier = self._followers.get(follower.request_id)
        if earlier:
            earlier.dropped = True
        self._followers[follower.request_id] = follower
        self._relays.add(follower)
        threading.Thread(target=self._relay, args=(follower,), daemon=True).start()

    def _relay(self, follower: _Follower) -> None:
        try:
            relay = self._relay_tokens if follower.tokens else self._relay_end
            relay(follower)
        except OrchestratorError as error:
            self._send_error(error, {"request_id": follower.request_id} | follower.ref)
        except OVER:
            return
        except Exception:
            logger.exception("following request %s over a WebSocket broke", follower.request_id)
        finally:
            self._relays.discard(follower)
            if self._followers.get(follower.request_id) is follower:
                del self._followers[follower.request_id]

    def _relay_tokens(self, follower: _Follower) -> None:
        for page in self._service.follow(follower.request_id, follower.after, LOOK_S):
            for seq, event in page.events:
                if self._is_over(follower):
                    return
                frame = wire.ws_frame(seq, event, page.job)
                if frame:
                    self._tell(follower, frame)
            if self._is_over(follower):
                return
            if len(page.events) == BATCH:
                # A long log is read without ever waiting: others have their turn.
                time.sleep(0)
            if page.complete and not page.events:
                self._tell(follower, wire.ws_end(page.job))

    def _relay_end(self, follower: _Follower) -> None:
        while not self._is_over(follower):
            job = self._service.wait(follower.request_id, LOOK_S)
            if job.status.is_terminal:
                self._tell(follower, wire.ws_end(job))
                return

    def _tell(self, follower: _Follower, frame: Json) -> None:
        self._send(frame | follower.ref if frame["type"] == "error" else frame)

    def _is_over(self, follower: _Follower) -> bool:
        return follower.dropped or not self._ws.connected

    def _send_error(self, error: OrchestratorError, about: Json) -> None:
        frame: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message}
        if error.details.get("fields"):
            frame["fields"] = error.details["fields"]
        frame |= {name: about[name] for name in ("request_id", "ref") if name in about}
        self._send(frame)

    def _send(self, frame: Json) -> None:
        text = orjson.dumps(frame).decode()
        with self._sending:
            self._ws.send(text)


def _request_id(frame: Json) -> str:
    request_id = frame.get("request_id")
    if not isinstance(request_id, str):
        raise invalid({"request_id": ["Must be the id that an ack gave."]})
    return request_id


def _named(frame: Json) -> Json:
    """Return what of a frame its answer repeats, so that the client knows which one is meant."""
    request_id, ref = frame.get("request_id"), frame.get("ref")
    named = {"request_id": request_id} if isinstance(request_id, str) else {}
    return named | ({"ref": ref} if _is_ref(ref) else {})


def _ref(frame: Json) -> Json:
    """Take the client's own ``ref`` out of a frame. Raises InvalidRequest."""
    if "ref" not in frame:
        return {}
    ref = frame.pop("ref")
    if not _is_ref(ref):
        raise invalid({"ref": ["Must be a string of at most 128 characters, or a number."]})
    return {"ref": ref}


def _is_ref(ref: object) -> bool:
    if isinstance(ref, str):
        return len(ref) <= 128
    return isinstance(ref, int) and abs(ref) < 2**53
