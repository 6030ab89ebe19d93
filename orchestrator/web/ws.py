"""The WebSocket door: many requests over one socket, each a view of its event log."""

import contextlib
import logging
import threading
import time
from functools import partial
from typing import Any, NoReturn

import orjson
from flask import Blueprint
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server

from orchestrator import wire
from orchestrator.auth.guard import require
from orchestrator.caller import STRANGER, Caller, Scope
from orchestrator.errors import (
    InvalidRequest,
    OrchestratorError,
    PipelineUnavailable,
    RateLimited,
    Unauthorized,
)
from orchestrator.frames import CLIENT_TYPES, is_ref, read_command, take_ref
from orchestrator.job import Status
from orchestrator.schemas import invalid
from orchestrator.service import BATCH, START
from orchestrator.strict_json import Json, parse_object
from orchestrator.web import handshake, limits
from orchestrator.web.connections import LOOK_S
from orchestrator.web.context import Context, caller, context
from orchestrator.web.ws_followers import Follower, Followers
from orchestrator.web.ws_guard import (
    CLOSE_FAULT,
    CLOSE_GOING_AWAY,
    CLOSE_POLICY,
    CLOSE_TRY_AGAIN,
    LINGER_S,
    OVER,
)

MAX_SEQ = 2**53

FREE = ("auth", "ping", "unsubscribe")
"""The messages that don't count as calls: they ask nothing of the store."""
AUTH_S = 5.0
"""How long a page has to say who it is."""
AUTH_FIRST = "The first message must be an auth, with good credentials."
LOOK_AGAIN_S = 10.0
"""How often a silent socket is asked whether its caller may still be here."""

logger = logging.getLogger("orchestrator")

bp = Blueprint("ws", __name__)
bp.before_request(handshake.check)
sock = Sock()


@sock.route("/ws", bp=bp)
def serve(ws: Server) -> None:
    """Serve one socket until either side closes it. Closing it cancels nothing."""
    conversation = _Conversation(ws, context(), caller(), limits.socket_limits())
    try:
        # Since the handshake looked, others may have come who had looked as well.
        context().connections.check()
        with context().connections.opened(conversation.is_busy, conversation.go_away):
            conversation.run()
    except OVER:
        return
    except PipelineUnavailable as error:
        with contextlib.suppress(*OVER):
            ws.close(CLOSE_TRY_AGAIN, error.message)
    except Exception:
        logger.exception("a WebSocket conversation broke")
    finally:
        with contextlib.suppress(*OVER):
            ws.close(CLOSE_FAULT)
        # The reader lets the client see why it is closed; to return now would cut that short.
        ws.thread.join(2 * LINGER_S)


class _Conversation:
    """The frames of one socket: commands in, and the events of what it follows out."""

    def __init__(
        self, ws: Server, doors: Context, who: Caller, limits: limits.SocketLimits
    ) -> None:
        self._ws = ws
        self._doors = doors
        self._caller = who
        self._limits = limits
        self._service = doors.service
        self._sending = threading.Lock()
        self._followers = Followers()
        self._commands = {
            "cancel": self._cancel,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ping": self._ping,
            "auth": self._auth,
        }

    def run(self) -> None:
        """Answer frame after frame. Raises one of OVER at the end."""
        entrance = self._doors.entrance
        try:
            if self._caller is STRANGER:
                self._doors.connections.check_unnamed()
                with self._doors.connections.unnamed():
                    self._await_credentials()
            may_stay = entrance.lasting(self._caller) if entrance else None
            while True:
                data = self._ws.receive(LOOK_AGAIN_S if may_stay else None)
                if may_stay and not may_stay():
                    self._refuse(Unauthorized("The credentials are no longer in force."))
                if data is not None:
                    self._answer(data)
        finally:
            self._followers.drop_all()

    def _await_credentials(self) -> None:
        """Let a page say who it is: the first frame has to."""
        data = self._ws.receive(AUTH_S)
        if data is None:
            self._refuse(Unauthorized(AUTH_FIRST))
        self._answer(data)
        if self._caller is STRANGER:
            self._send_away(AUTH_FIRST)

    def _refuse(self, error: OrchestratorError, about: Json | None = None) -> NoReturn:
        self._send_error(error, about or {})
        self._send_away(error.message)

    def _send_away(self, reason: str) -> NoReturn:
        self._ws.close(CLOSE_POLICY, reason)
        raise ConnectionClosed(CLOSE_POLICY)

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
            frame = self._read(data)
            about = _named(frame)
            kind = frame.get("type")
            if kind is None:
                kind = "submit"
            if kind != "auth" and self._caller is STRANGER:
                raise Unauthorized(AUTH_FIRST)
            if kind not in FREE:
                self._limits.call()
            if kind not in CLIENT_TYPES:
                raise invalid({"type": [f"Must be one of: {', '.join(CLIENT_TYPES)}."]})
            if kind in ("submit", "cancel"):
                require(self._caller, Scope.INFER)
            if kind == "submit":
                self._submit(frame)
            else:
                self._commands[kind](read_command(frame))
        except OrchestratorError as error:
            self._send_error(error, about)

    def _read(self, data: str | bytes) -> Json:
        try:
            if isinstance(data, bytes):
                raise InvalidRequest("Binary frames are not understood. Send JSON as text.")
            return parse_object(data)
        except InvalidRequest:
            # It counts as well, as a call with such a body would.
            self._limits.call()
            raise

    def _submit(self, frame: Json) -> None:
        ref = take_ref(frame)
        request = self._doors.reader.read(frame)
        self._followers.check_room()
        submission = self._service.submit(
            request, tenant=self._caller.tenant, allow=partial(self._limits.allowance, request)
        )
        ack = {"type": "ack", "request_id": submission.request_id, "status": Status.PROCESSING}
        self._send(ack | ref)
        self._follow(Follower(submission.request_id, START, request.stream, ref))

    def _subscribe(self, frame: Json) -> None:
        request_id, after = frame["request_id"], frame.get("after")
        after = START if after is None else max(START, min(after, MAX_SEQ))
        after, _ = self._service.resume(request_id, after, limit=1, tenant=self._caller.tenant)
        self._followers.check_room(request_id)
        self._follow(Follower(request_id, after, tokens=True, ref=_ref(frame)))

    def _unsubscribe(self, frame: Json) -> None:
        self._followers.drop(frame["request_id"])

    def _cancel(self, frame: Json) -> None:
        request_id = frame["request_id"]
        if request_id in self._followers:
            self._service.cancel(request_id, self._caller.tenant)
            return
        # It follows only what is about to end: that is no request more in flight.
        self._followers.check_threads()
        self._service.cancel(request_id, self._caller.tenant)
        self._follow(Follower(request_id, START, tokens=False, ref=_ref(frame)))

    def _ping(self, frame: Json) -> None:
        self._send({"type": "pong"} | _ref(frame))

    def _auth(self, frame: Json) -> None:
        entrance = self._doors.entrance
        if entrance:
            if self._caller is not STRANGER:
                raise InvalidRequest("This socket has said who it is. Open another for others.")
            who = entrance.guard.identify(frame["token"])
            require(who, Scope.READ)
            try:
                self._limits.admit(who)
            except RateLimited as error:
                self._refuse(error, _ref(frame))
            self._caller = who
        self._send({"type": "welcome"} | _ref(frame))

    def _follow(self, follower: Follower) -> None:
        self._followers.add(follower)
        threading.Thread(target=self._relay, args=(follower,), daemon=True).start()

    def _relay(self, follower: Follower) -> None:
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
            self._followers.end(follower)

    def _relay_tokens(self, follower: Follower) -> None:
        for page in self._service.follow(
            follower.request_id, follower.after, LOOK_S, self._caller.tenant
        ):
            if self._is_over(follower):
                return
            if page is None:
                continue
            for seq, event in page.events:
                if self._is_over(follower):
                    return
                frame = wire.ws_frame(seq, event, page.job)
                if frame:
                    self._tell(follower, frame)
            if len(page.events) == BATCH:
                # A long log is read without ever waiting: others have their turn.
                time.sleep(0)
            if page.complete and not page.events and not self._is_over(follower):
                self._tell(follower, wire.ws_end(page.job))

    def _relay_end(self, follower: Follower) -> None:
        for job in self._service.await_end(follower.request_id, LOOK_S, self._caller.tenant):
            if self._is_over(follower):
                return
            if job:
                self._tell(follower, wire.ws_end(job))

    def _tell(self, follower: Follower, frame: Json) -> None:
        self._send(frame | follower.ref if frame["type"] == "error" else frame)

    def _is_over(self, follower: Follower) -> bool:
        return follower.dropped or not self._ws.connected

    def _send_error(self, error: OrchestratorError, about: Json) -> None:
        frame: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message}
        if error.retry_after is not None:
            frame["retry_after"] = error.retry_after
        if error.details.get("fields"):
            frame["fields"] = error.details["fields"]
        frame |= {name: about[name] for name in ("request_id", "ref") if name in about}
        self._send(frame)

    def _send(self, frame: Json) -> None:
        text = orjson.dumps(frame).decode()
        with self._sending:
            self._ws.send(text)


def _named(frame: Json) -> Json:
    """Return what an answer repeats of a frame, so that the client knows which one is meant."""
    request_id = frame.get("request_id")
    named = {"request_id": request_id} if isinstance(request_id, str) else {}
    return named | (_ref(frame) if is_ref(frame.get("ref")) else {})


def _ref(frame: Json) -> Json:
    ref = frame.get("ref")
    return {} if ref is None else {"ref": ref}
