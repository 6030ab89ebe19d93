"""What the documentation shows, said by the code that says it to clients."""

from collections.abc import Sequence

from orchestrator import __version__, wire
from orchestrator.auth.tickets import TTL_S
from orchestrator.events import (
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Started,
    Terminal,
    Token,
    Usage,
)
from orchestrator.job import GenerateRequest, Job, Priority, Status
from orchestrator.session import History, Session
from orchestrator.strict_json import Json
from orchestrator.views import (
    accepted_view,
    conversation_view,
    result_view,
    session_view,
    status_view,
)

REQUEST_ID = "019b76da-a87b-7c44-a5f1-3c1e5a0d9b27"
SESSION_ID = "trip-to-lisbon"
MODEL = "llama3.2"
_BACKEND = "openai"
_SUBMITTED = 1_767_225_600.123
_RETENTION_S = 3600.0
_ANSWER = ("Lisbon", " is", " lovely", " in", " May.")

SMALLEST = {"prompt": "Hello"}
IN_A_SESSION = {"prompt": "When should I go to Lisbon?", "session_id": SESSION_ID}
WITH_ALL = {
    "prompt": "When should I go to Lisbon?",
    "session_id": SESSION_ID,
    "metadata": {"user": "u-17", "priority": "high"},
    "stream": True,
    "system": "Answer in one sentence.",
    "max_tokens": 200,
    "temperature": 0.7,
    "top_p": 0.9,
    "stop": ["\n\n"],
    "seed": 42,
    "timeout_s": 60,
    "queue_timeout_s": 30,
    "on_busy": "enqueue",
}

_PENDING = Job(
    id=REQUEST_ID,
    request=GenerateRequest(
        prompt="When should I go to Lisbon?",
        session_id=SESSION_ID,
        model=MODEL,
        metadata={"user": "u-17", "priority": "high"},
        priority=Priority.HIGH,
        timeout_s=60,
        queue_timeout_s=30,
    ),
    created_at=_SUBMITTED,
)
_DONE = Completed(FinishReason.STOP, Usage(12, 5))
_TIMED_OUT = Failed(
    "DEADLINE_EXCEEDED",
    "The request ran into its time limit. Allow more with timeout_s, or ask for less with "
    "max_tokens.",
    "run",
)


def _processing() -> Job:
    started = _PENDING.apply(Started(_BACKEND), _SUBMITTED + 0.002)
    return started.apply(Token(0, _ANSWER[0]), _SUBMITTED + 0.183)


def _ended(event: Terminal, text: str) -> Job:
    return _processing().end(event, text, _SUBMITTED + 0.412, _RETENTION_S)


def _tokens() -> list[Event]:
    return [Token(chunk, text) for chunk, text in enumerate(_ANSWER)]


def _log() -> list[Event]:
    return [Started(_BACKEND), *_tokens(), _DONE]


def _session() -> Session:
    history = History().with_turn(_PENDING.request, "".join(_ANSWER))
    return Session(SESSION_ID, _SUBMITTED, _SUBMITTED + 0.412, len(history.messages), (), history)


def _items(events: Sequence[Event], first: int = 0) -> list[Json]:
    return [wire.page_item(seq, event, REQUEST_ID) for seq, event in enumerate(events, first)]


def _frame(seq: int, event: Event) -> Json:
    frame = wire.ws_frame(seq, event, COMPLETED_JOB)
    if frame is None:
        raise ValueError(f"{event} has no frame")
    return frame


COMPLETED_JOB = _ended(_DONE, "".join(_ANSWER))
CACHED_JOB = COMPLETED_JOB.attempt(0, _BACKEND)
FAILED_JOB = _ended(_TIMED_OUT, "")

ACCEPTED = accepted_view(REQUEST_ID, SESSION_ID)
COMPLETED = result_view(COMPLETED_JOB)
FAILED = result_view(FAILED_JOB)
PROCESSING = result_view(_processing())
PENDING = result_view(_PENDING)
CANCELLED = PENDING | {"status": Status.CANCELLED}

STATUS_PENDING = status_view(_PENDING, queue_position=3)
STATUS_PROCESSING = status_view(_processing(), None)
STATUS_COMPLETED = status_view(COMPLETED_JOB, None)
STATUS_FAILED = status_view(FAILED_JOB, None)
STATUS_CACHED = status_view(CACHED_JOB, None)

REQUEST_LIST = {"data": [STATUS_COMPLETED], "has_more": True, "next_cursor": REQUEST_ID}
SESSION_LIST = {"data": [session_view(_session())], "has_more": False, "next_cursor": None}
CONVERSATION = conversation_view(_session())
MODEL_LIST = {"data": [{"id": MODEL, "backend": _BACKEND, "default": True}]}
HEALTH = {
    "status": "healthy",
    "service": "web-api",
    "version": __version__,
    "model": MODEL,
    "backend": _BACKEND,
}

EVENT_PAGE = {"events": _items(_log()), "next": len(_log()) - 1, "done": True}
EVENT_PAGE_SO_FAR = {"events": _items(_log()[:3]), "next": 2, "done": False}
EVENT_PAGE_RESTARTED = {
    "events": _items([Restarted(2), Token(0, "Go"), Token(1, " in"), _TIMED_OUT], 3),
    "next": 6,
    "done": True,
}


KEY = f"ok_{'0' * 16}.{'A' * 43}"
STREAM_TOKEN = {"token": "A" * 43, "expires_in": TTL_S}


def event_stream() -> str:
    """Return the sample's events as an SSE stream."""
    frames = (wire.sse(seq, event, REQUEST_ID) for seq, event in enumerate(_log()))
    return (wire.SSE_RETRY + b"".join(frames)).decode()


CLIENT_FRAMES: tuple[Json, ...] = (
    SMALLEST | {"stream": True, "ref": "a"},
    {"type": "cancel", "request_id": REQUEST_ID},
    {"type": "subscribe", "request_id": REQUEST_ID, "after": 4},
    {"type": "unsubscribe", "request_id": REQUEST_ID},
    {"type": "ping"},
    {"type": "auth", "token": KEY},
)
"""One for each schema in frames.CLIENT_FRAMES, in the same order."""

SERVER_FRAMES: tuple[Json, ...] = (
    {"type": "ack", "request_id": REQUEST_ID, "status": Status.PROCESSING, "ref": "a"},
    _frame(1, Token(0, _ANSWER[0])),
    _frame(7, Restarted(2)),
    wire.ws_end(COMPLETED_JOB),
    wire.ws_end(FAILED_JOB),
    {"type": "pong"},
    {"type": "welcome"},
)
"""One for each schema in frames.SERVER_FRAMES, in the same order."""
