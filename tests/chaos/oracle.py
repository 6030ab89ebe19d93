"""Whether every promise was kept, from the clients' journal and the model server's book."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.answers import Message, digest, is_part, marker_of, prompt_of, said_by
from tests.chaos.client import Ask
from tests.chaos.harms import Done
from tests.chaos.journal import Entry, Journal
from tests.chaos.upstream import Call

LOSSES = 3
"""How often a request may be lost before it fails for that."""
SLACK_S = 0.5
"""How long an answer may be whole at the model server, and not yet at the worker."""
WAKE_S = 3.0
"""How long a worker that stood still may take until it goes on, on a busy machine."""


@dataclass
class Verdict:
    """What a run has shown. ``offences`` has a sentence for each broken promise."""

    asked: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    harms: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    extra_calls: int = 0
    allowed_calls: int = 0
    offences: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        def told(counts: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in counts.most_common())

        lines = [
            f"{self.asked} requests: {told(self.ends)}",
            f"{self.harms.total()} harms: {told(self.harms)}",
            f"{self.attempts.total()} attempts of clients: {told(self.attempts)}",
            f"{self.calls} calls of the model, {self.extra_calls} of them extra (at most "
            f"{self.allowed_calls} were in flight where a worker was harmed)",
        ]
        for kind in KINDS:
            found = self.offences.get(kind, [])
            lines.append(f"{len(found)} {kind}")
            lines += [f"  {sentence}" for sentence in found[:20]]
        return "\n".join(lines)


KINDS = (
    "lost",
    "ended twice",
    "torn streams",
    "answers of another request",
    "failed without a reason",
    "sessions out of order",
    "calls of the model without a reason",
    "members that did not come back",
    "faults in the logs",
)


def judge(
    asks: Sequence[Ask],
    journal: Journal,
    calls: Sequence[Call],
    harms: Sequence[Done],
    logs: Sequence[str],
) -> Verdict:
    """Return what a run has shown; ``logs`` are what the processes said."""
    verdict = Verdict(asked=len(asks), calls=len(calls))
    for entry in journal.of("attempt"):
        verdict.attempts[f"{entry.more['what']} {entry.more['outcome']}"] += 1
    for done in harms:
        verdict.harms[f"{done.harm.victim} {done.harm.action}"] += 1
        if done.error:
            verdict.offences["members that did not come back"].append(done.error)
    ends = _by_marker(journal, "ended")
    reads = _by_marker(journal, "read")
    accepted = _by_marker(journal, "accepted")
    for ask in asks:
        _judge_ends(ask, verdict, accepted[ask.marker], ends[ask.marker])
        _judge_texts(ask, verdict, ends[ask.marker], reads[ask.marker])
    _judge_failures(verdict, ends, accepted, harms)
    for entry in journal.of("broken"):
        verdict.offences[entry.more["offence"]].append(f"{entry.marker}: {entry.more['outcome']}")
    _judge_calls(verdict, calls, harms, ends)
    _judge_sessions(verdict, asks, journal, ends)
    for log in logs:
        for trace in log.split("Traceback (most recent call last):")[1:]:
            verdict.offences["faults in the logs"].append(trace[:2_000])
    return verdict


def _by_marker(journal: Journal, kind: str) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in journal.of(kind):
        found[entry.marker].append(entry)
    return found


def _judge_ends(ask: Ask, verdict: Verdict, accepted: list[Entry], ends: list[Entry]) -> None:
    ids = {entry.more["request_id"] for entry in accepted}
    if len(ids) > 1:
        verdict.offences["ended twice"].append(f"{ask.marker}: one key stood for {ids}")
    states = {entry.more["status"] for entry in ends}
    if len(states) > 1:
        verdict.offences["ended twice"].append(f"{ask.marker}: {sorted(states)}")
    if not states:
        verdict.offences["lost"].append(f"{ask.marker}: no end was seen")
        verdict.ends["without an end"] += 1
        return
    state = ends[-1].more["status"]
    verdict.ends[state] += 1
    if state == "cancelled" and ask.cancel_s is None:
        verdict.offences["failed without a reason"].append(f"{ask.marker}: nobody cancelled it")


def _judge_failures(
    verdict: Verdict,
    ends: dict[str, list[Entry]],
    accepted: dict[str, list[Entry]],
    harms: Sequence[Done],
) -> None:
    """Hold that a request has failed only where it may have been lost often enough."""
    for marker, own in ends.items():
        if _state(own) != "failed":
            continue
        codes = {entry.more["error_code"] for entry in own if entry.more.get("error_code")}
        since, until = accepted[marker][0].at, own[0].at
        losses = [
            done
            for done in harms
            if done.harm.victim.startswith("worker") and done.ended >= since and done.began <= until
        ]
        if codes != {"WORKER_LOST"} or len(losses) < LOSSES:
            verdict.offences["failed without a reason"].append(f"{marker}: {codes}")


def _judge_texts(ask: Ask, verdict: Verdict, ends: list[Entry], reads: list[Entry]) -> None:
    """Hold that all who have read to the end read the same: one call's answer to this request."""
    # What a failed request has said is in its log, and no result.
    told = [] if _state(ends) == "failed" else ends
    texts = {entry.more["text"] or "" for entry in [*told, *reads] if "text" in entry.more}
    if len(texts) > 1:
        found = [text[-60:] for text in texts]
        verdict.offences["torn streams"].append(f"{ask.marker}: {len(found)} texts, {found}")
    for text in texts:
        said = said_by(text)
        if said is None:
            # One that was cancelled or lost may have said nothing.
            if text or _state(ends) == "completed":
                verdict.offences["torn streams"].append(f"{ask.marker}: {text[:60]!r}")
        elif said.marker != ask.marker:
            verdict.offences["answers of another request"].append(f"{ask.marker}: {text[:60]!r}")
        elif not is_part(text, said):
            verdict.offences["torn streams"].append(f"{ask.marker}: {text!r}")
        elif _state(ends) == "completed" and text != said.text:
            verdict.offences["torn streams"].append(f"{ask.marker} is cut: {text[-60:]!r}")


def _judge_calls(
    verdict: Verdict, calls: Sequence[Call], harms: Sequence[Done], ends: dict[str, list[Entry]]
) -> None:
    """Hold that each further call of a request follows the harm of the worker before it.

    Or it is made by one that stood still between its claim and its call, while the request was
    another's: nobody can prevent that, and nobody is told what comes of it.
    """
    offences: list[str] = []
    by_marker: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_marker[call.marker].append(call)
        has_ended = ends[call.marker] and call.began > ends[call.marker][0].at
        if has_ended and not any(_is_belated(done, call) for done in harms):
            offences.append(f"{call.marker}: call {call.number} after its end")
    for marker, own in by_marker.items():
        verdict.extra_calls += len(own) - 1
        offences += [
            f"{marker}: call {later.number} by {later.worker} at {later.began:.1f}, after "
            f"{earlier.worker} from {earlier.began:.1f} to {earlier.ended:.1f}"
            for earlier, later in zip(own, own[1:], strict=False)
            if not any(
                _explains(done, earlier, later) or _is_belated(done, later) for done in harms
            )
        ]
    verdict.allowed_calls = sum(
        _is_in_flight(call, done) or _is_belated(done, call) for done in harms for call in calls
    )
    if verdict.extra_calls > verdict.allowed_calls:
        offences.append(f"{verdict.extra_calls} extra ones, {verdict.allowed_calls} in flight")
    if offences:
        verdict.offences["calls of the model without a reason"] = offences


def _is_in_flight(call: Call, done: Done) -> bool:
    """Whether a call was under way at the worker that was harmed."""
    return (
        call.worker == done.harm.victim
        and call.began <= done.ended
        and done.began <= call.ended + SLACK_S
    )


def _is_belated(done: Done, call: Call) -> bool:
    """Whether a call comes from a worker that has just stood still, and not from its start."""
    return (
        done.harm.action == "pause"
        and call.worker == done.harm.victim
        and done.began <= call.began <= done.ended + WAKE_S
        and call.number > 1
    )


def _explains(done: Done, earlier: Call, later: Call) -> bool:
    # Until the first worker has said that the answer is whole, it may still be harmed.
    return (
        done.harm.victim == earlier.worker
        and done.ended >= earlier.began
        and done.began <= later.began
    )


def _judge_sessions(
    verdict: Verdict, asks: Sequence[Ask], journal: Journal, ends: dict[str, list[Entry]]
) -> None:
    """Hold that a session has its completed turns in the order of their submits, and that each
    was answered in the light of those before it."""
    turns: dict[str, list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.session:
            turns[ask.session].append(ask)
    unread = set(turns) - {entry.marker for entry in journal.of("session")}
    for session in unread:
        verdict.offences["sessions out of order"].append(f"{session} was not read")
    for entry in journal.of("session"):
        messages = [(one["role"], one["content"]) for one in entry.more["messages"]]
        for sentence in _faults(turns[entry.marker], messages, ends):
            verdict.offences["sessions out of order"].append(f"{entry.marker}: {sentence}")


def _faults(
    turns: Sequence[Ask], messages: list[Message], ends: dict[str, list[Entry]]
) -> Iterator[str]:
    done = [ask.marker for ask in turns if _state(ends[ask.marker]) == "completed"]
    asked = [marker_of(content) for role, content in messages if role == "user"]
    if asked != done:
        yield f"{asked} instead of {done}"
        return
    history: list[Message] = []
    for marker, (_, answer) in zip(done, messages[1::2], strict=True):
        history.append(("user", prompt_of(marker)))
        said = said_by(answer)
        if said is None or said.conversation != digest(history):
            yield f"{marker} was answered without what was said before"
        history.append(("assistant", answer))


def _state(ends: Sequence[Entry]) -> Any:
    return ends[-1].more["status"] if ends else None
