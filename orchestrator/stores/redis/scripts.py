"""The Lua scripts: one for each transition and view, so that each is one atomic step."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.allowance import DAY_S, TOKEN_BYTES
from orchestrator.errors import DeadlineExceeded
from orchestrator.events import Cancelled
from orchestrator.job import Priority
from orchestrator.session import HISTORY_BYTES, HISTORY_MESSAGES
from orchestrator.stores.redis import codec
from orchestrator.stores.redis.names import NAMES

FILLED = 0.9
"""The share of maxmemory past which nothing new is taken: at all of it nothing could run or end."""
END_BYTES = 16_384
"""What the log, the result and the session of a short answer take."""
SEND_S = 5
"""When a ready request is handed to the dispatcher again, where nobody says that it was."""
SEND_AGAIN_S = 20
"""The same where someone says so: its message may have been lost since, or wait behind too many
others. After that it is done whenever the request has waited twice as long."""
PASS_ON_S = 2
PASS_ON_SHARE = 0.25
"""The same where a worker that got it can't run it: then when it has waited a quarter longer."""
INTERRUPT_STEP = 100
"""How many requests a script asks to stop: Redis does nothing else meanwhile."""

_FOLDER = Path(__file__).with_name("lua")


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis knows it by."""

    name: str
    text: str
    sha: str


def _lua(value: str | int | float | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"{{{', '.join(map(_lua, value))}}}"
    return f"'{value}'" if isinstance(value, str) else str(value)


def _prelude() -> str:
    values: dict[str, str | int | float | tuple[str, ...]] = {
        **NAMES,
        "VERSION": codec.VERSION,
        "READ": codec.READ,
        "PRIORITIES": tuple(Priority),
        "CANCELLED": codec.dump_event(Cancelled()).decode(),
        "HISTORY_MESSAGES": HISTORY_MESSAGES,
        "HISTORY_BYTES": HISTORY_BYTES,
        "FILLED": FILLED,
        "END_BYTES": END_BYTES,
        "SEND_S": SEND_S,
        "INTERRUPT_STEP": INTERRUPT_STEP,
        "DAY_S": DAY_S,
        "DEADLINE_EXCEEDED": DeadlineExceeded.code,
        "TOKEN_BYTES": TOKEN_BYTES,
    }
    return "".join(f"local {name} = {_lua(value)}\n" for name, value in values.items())


_SHARED = _prelude() + (_FOLDER / "common.lua").read_text(encoding="utf-8")


def _script(name: str) -> Script:
    first, _, rest = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8").partition("\n")
    text = f"{first}\n{_SHARED}{rest}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SUBMIT = _script("submit")
REPLAY = _script("replay")
INTERRUPT = _script("interrupt")
CLAIM = _script("claim")
EMIT = _script("emit")
ATTEMPT = _script("attempt")
FINISH = _script("finish")
CANCEL = _script("cancel")
REQUEUE = _script("requeue")
RENEW = _script("renew")
SENT = _script("sent")
SHOW_WORKER = _script("show_worker")
LOOK = _script("look")
SWEEP = _script("sweep")
DELETE = _script("delete")
DELETE_SESSION = _script("delete_session")
READ = _script("read")
JOBS = _script("jobs")
SESSION = _script("session")
SESSION_HEAD = _script("session_head")
SESSIONS = _script("sessions")
POSITION = _script("position")
PLACE = _script("place")
CACHE_GET = _script("cache_get")
CACHE_PUT = _script("cache_put")
HIT = _script("hit")
PUT_TICKET = _script("put_ticket")
TAKE_PLACE = _script("take_place")
RENEW_PLACES = _script("renew_places")
