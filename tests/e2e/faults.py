"""What becomes of each fault of a provider, with one target and with a second one that answers.

The names are those of the fake upstream (see fakes/upstream.py).
"""

from dataclasses import dataclass
from enum import Enum, auto

TOKENS = [f"w{number} " for number in range(60)]
ANSWER = "".join(TOKENS[:5])
"""What the first target says where it answers in the end."""
SPARE_FAULT = "ok/7"
SPARE = "".join(TOKENS[:7])
"""What the second target says."""

REFUSE = "refuse"
"""The fault of a target that isn't there at all."""


class Then(Enum):
    """What a second target does."""

    ANSWERS = auto()
    RESTARTS = auto()
    """It answers, after words that are taken back."""
    NOTHING = auto()
    """It isn't asked: the end is the same as without it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and what has to come of it.

    ``code`` is the client's error where there is no other target; None where an answer comes all
    the same. ``calls`` is how often the first target is asked, alone and before another one.
    ``mute`` says that the connection, which is a kept one at first, ends without a word, so that
    one more call comes unasked. ``holds`` says that it would not end by itself, so that it must see
    us leave. ``waits_s`` is the least time between two calls. ``patient`` gives it timeouts that
    don't run out here, and ``timeout_s`` is the request's own deadline where that is the point.
    """

    name: str
    code: str | None
    calls: tuple[int, int]
    then: Then
    mute: bool = False
    holds: bool = False
    waits_s: float = 0.0
    patient: bool = False
    timeout_s: float | None = None

    def __str__(self) -> str:
        more = ["patient"] if self.patient else []
        more += [f"within-{self.timeout_s:g}s"] if self.timeout_s else []
        return "-".join([*self.name.replace(".", "_").split("/"), *more])


ANSWERS, RESTARTS, NOTHING = Then.ANSWERS, Then.RESTARTS, Then.NOTHING
ERROR, TIMEOUT = "UPSTREAM_ERROR", "UPSTREAM_TIMEOUT"
CUT, REJECTED, LATE = "UPSTREAM_TRUNCATED", "UPSTREAM_REJECTED", "DEADLINE_EXCEEDED"

FAULTS = (
    # No answer begins
    Fault(REFUSE, ERROR, (3, 2), ANSWERS),
    Fault("reset", ERROR, (3, 2), ANSWERS, mute=True),
    Fault("first/1/reset", None, (1, 1), NOTHING, mute=True),
    Fault("first/2/reset", None, (2, 2), NOTHING, mute=True),
    Fault("close", ERROR, (3, 2), ANSWERS, mute=True),
    Fault("junk", ERROR, (3, 2), ANSWERS),
    Fault("status/429", ERROR, (3, 2), ANSWERS),
    Fault("first/1/status/429", None, (2, 2), NOTHING),
    Fault("first/1/status/429/1", None, (2, 2), NOTHING, waits_s=1.0),
    Fault("first/1/status/429/4", None, (2, 1), ANSWERS, waits_s=4.0),
    Fault("status/429/60", ERROR, (1, 1), ANSWERS),
    Fault("first/1/status/500", None, (2, 2), NOTHING),
    Fault("first/2/status/500", None, (3, 2), ANSWERS),
    Fault("status/503", ERROR, (3, 2), ANSWERS),
    Fault("status/529", ERROR, (3, 2), ANSWERS),
    # Silence
    Fault("silent", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("headers", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("ping", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("late/2", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("late/2", None, (1, 1), NOTHING, patient=True),
    Fault("drip_head", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("drip", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("trickle/5/0.05", TIMEOUT, (1, 1), ANSWERS, holds=True),
    Fault("trickle/5/0.001", None, (1, 1), NOTHING, patient=True),
    # Half an answer
    Fault("cut/40/60", CUT, (3, 2), RESTARTS),
    Fault("cut_reset/40/60", CUT, (3, 2), RESTARTS),
    Fault("cut_clean/3", CUT, (3, 2), RESTARTS),
    Fault("first/1/cut/3", None, (2, 2), NOTHING),
    Fault("stall/3", TIMEOUT, (3, 2), RESTARTS, holds=True),
    Fault("alive_drip/3", TIMEOUT, (3, 2), RESTARTS, holds=True),
    Fault("alive/3/0.1/100", TIMEOUT, (3, 2), RESTARTS, holds=True),
    Fault("early_cut/3", CUT, (3, 2), RESTARTS),
    Fault("empty", CUT, (3, 2), ANSWERS),
    Fault("bad_json/3", ERROR, (3, 2), RESTARTS, holds=True),
    Fault("error/3/500", ERROR, (3, 2), RESTARTS, holds=True),
    Fault("no_done", None, (1, 1), NOTHING),
    Fault("hints/3/103", None, (1, 1), NOTHING),
    # What the provider means
    Fault("context", REJECTED, (1, 1), ANSWERS),
    Fault("policy", REJECTED, (1, 1), NOTHING),
    Fault("moderated", REJECTED, (1, 1), NOTHING),
    Fault("explained/0", REJECTED, (1, 1), NOTHING),
    Fault("html/413", REJECTED, (1, 1), ANSWERS),
    Fault("filter/3", REJECTED, (1, 1), NOTHING),
    Fault("status/400", REJECTED, (1, 1), ANSWERS),
    Fault("status/401", ERROR, (1, 1), ANSWERS),
    Fault("status/403", ERROR, (1, 1), ANSWERS),
    Fault("status/404", REJECTED, (1, 1), ANSWERS),
    Fault("status/422", REJECTED, (1, 1), ANSWERS),
    # Too much
    Fault("gzip_bomb", ERROR, (1, 1), ANSWERS, holds=True),
    Fault("endless", ERROR, (1, 1), RESTARTS, holds=True),
    # Whatever is waited for, the request's own deadline ends it, and silence in time for the next
    Fault("silent", LATE, (1, 1), ANSWERS, holds=True, patient=True, timeout_s=3.0),
    Fault("ping", LATE, (1, 1), ANSWERS, holds=True, patient=True, timeout_s=3.0),
    Fault("stall/3", LATE, (1, 1), NOTHING, holds=True, patient=True, timeout_s=1.5),
    Fault("trickle/5/0.05", LATE, (1, 1), ANSWERS, holds=True, patient=True, timeout_s=3.0),
    Fault("status/429/3", ERROR, (2, 2), ANSWERS, waits_s=3.0, timeout_s=5.9),
)
