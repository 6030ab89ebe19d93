"""One attempt at a target, and what its breaker is told of it."""

from collections.abc import Callable, Sequence

from orchestrator.backends.base import Finish, Message, Pieces
from orchestrator.errors import DeadlineExceeded, RunError, UpstreamRejected, UpstreamTruncated
from orchestrator.job import GenerateRequest
from orchestrator.routing.breaker import Permit
from orchestrator.routing.silence import Patience, Silence
from orchestrator.routing.target import Entry
from orchestrator.stop import StopSignal

_ABOUT_A_PROMPT = frozenset({"callable", "too_large", "tool"})
"""Failures that one prompt may bring about at a sound target: others must not suffer for it."""
_TOO_MANY = 429


class Failures:
    """Tells the breakers of one request's failures, one of each target at most.

    One request that no server can bear must not look like many. So a failure at a target that is
    to be asked once more is kept: it counts at the request's end, unless another report comes.
    """

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._kept: dict[int, tuple[Permit, RunError]] = {}

    def __enter__(self) -> "Failures":
        return self

    def __exit__(self, *_: object) -> None:
        for permit, error in self._kept.values():
            permit.failed(error)

    def add(self, entry: Entry, error: RunError, again: bool) -> None:
        """Take a failure; ``again`` where its target may be asked once more."""
        if isinstance(error, Silence):
            self._add_silence(entry, error)
            return
        self.forget(entry)
        asked: float = error.details.get("retry_after") or 0.0
        if asked:
            entry.target.breaker.hold(asked, error)
        if isinstance(error, UpstreamRejected):
            # The target did its part: what came was no good.
            entry.permit.succeeded()
        elif error.details.get("reason") in _ABOUT_A_PROMPT or (asked and _is_limit(error)):
            entry.permit.leave()
        elif not again:
            entry.permit.failed(error)
        elif permit := entry.permit.failed_for_now(error):
            self._kept[entry.index] = permit, error

    def add_stop(self, entry: Entry, stop: StopSignal) -> None:
        """Take the stop of a call that had said nothing: it tells something at the deadline."""
        now = self._clock()
        if isinstance(stop.reason, DeadlineExceeded) or now >= self._deadline:
            self._add_silence(entry, Silence.of(now - entry.permit.since))

    def _add_silence(self, entry: Entry, error: Silence) -> None:
        if entry.permit.silent(error):
            self.forget(entry)

    def forget(self, entry: Entry) -> None:
        """Drop what is kept of a target, now that there is something newer to tell."""
        self._kept.pop(entry.index, None)


def ask(
    entry: Entry,
    request: GenerateRequest,
    messages: Sequence[Message],
    stop: StopSignal,
    failures: Failures,
    patience: Patience | None = None,
) -> Pieces:
    """Make one attempt, and report how it goes, but for its failure. Raises Silence too."""
    permit, begun = entry.permit, False
    signal = patience.signal if patience else stop
    stream = entry.target.backend.stream(request, messages, signal)
    try:
        for piece in stream:
            if isinstance(piece, Finish):
                failures.forget(entry)
                permit.succeeded()
                yield piece
                return
            if not begun and isinstance(piece, str):
                begun = True
                permit.alive()
                if patience:
                    patience.heard()
            if piece != "":
                yield piece
        raise UpstreamTruncated("The model's answer stopped before its end. Submit it again.")
    except Exception as error:
        if patience and patience.ran_out:
            raise Silence.of(patience.seconds) from error
        if stop.requested and not begun:
            failures.add_stop(entry, stop)
        raise
    finally:
        stream.close()


def _is_limit(error: RunError) -> bool:
    """Whether a sound target has had enough for now."""
    return error.details.get("status") == _TOO_MANY
