"""The oracle of a chaos run finds each kind of broken promise, and none where all are kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.answers import Said, digest, prompt_of
from tests.chaos.client import Ask
from tests.chaos.harms import Done, Harm
from tests.chaos.journal import Journal
from tests.chaos.oracle import Verdict, judge
from tests.chaos.reading import Mixed, Reading, Torn
from tests.chaos.upstream import Call

FIRST, SECOND = "m00000", "m00001"


def said(marker: str, call: int = 1, *earlier: tuple[str, str]) -> str:
    return Said(marker, call, digest([*earlier, ("user", prompt_of(marker))])).text


class Story:
    """Two turns of a session that went well, to be told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.asks = [Ask(FIRST, "stream", session="s"), Ask(SECOND, "poll", session="s")]
        history = (("user", prompt_of(FIRST)), ("assistant", said(FIRST)))
        self.texts = {FIRST: said(FIRST), SECOND: said(SECOND, 1, *history)}
        self.calls = [Call(FIRST, 1, "worker1", 1.0, 2.0), Call(SECOND, 1, "worker1", 2.0, 3.0)]
        self.harms: list[Done] = []
        self.journal = Journal(folder / "journal")
        for ask in self.asks:
            self.journal.note("accepted", ask.marker, request_id=f"id of {ask.marker}")
        self.turns = [FIRST, SECOND]
        self.ended: list[tuple[str, dict[str, Any]]] = []

    def end(self, marker: str, **more: Any) -> None:
        """Have an end be seen, as it is or otherwise."""
        self.ended.append((marker, {"status": "completed", "text": self.texts[marker]} | more))

    def verdict(self) -> Verdict:
        for marker, more in self.ended:
            self.journal.note("ended", marker, **more)
        messages = [
            {"role": role, "content": content}
            for marker in self.turns
            for role, content in (("user", prompt_of(marker)), ("assistant", self.texts[marker]))
        ]
        self.journal.note("session", "s", messages=messages)
        self.journal.close()
        return judge(self.asks, self.journal, self.calls, self.harms, ["all is well\n"])


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_where_all_is_kept_nothing_is_found(story: Story) -> None:
    story.end(FIRST)
    story.end(SECOND)
    verdict = story.verdict()
    assert not verdict.offences, str(verdict)
    assert "0 lost" in str(verdict)


def a_call_again(story: Story) -> None:
    story.calls.append(Call(SECOND, 2, "worker2", 4.0, 5.0))


def a_call_after_the_end(story: Story) -> None:
    later = time.monotonic() + 1
    story.calls[1] = Call(SECOND, 1, "worker1", later, later + 1)


OTHERWISE: list[tuple[str, Callable[[Story], None]]] = [
    ("lost", lambda story: story.ended.pop(0)),
    ("ended twice", lambda story: story.end(FIRST, status="failed", text=None)),
    ("torn streams", lambda story: story.end(FIRST, text=story.texts[FIRST][:-40])),
    ("torn streams", lambda story: story.end(FIRST, text=story.texts[FIRST] * 2)),
    ("torn streams", lambda story: story.end(FIRST, text=None)),
    ("answers of another request", lambda story: story.end(FIRST, text=story.texts[SECOND])),
    ("sessions out of order", lambda story: story.turns.reverse()),
    ("calls of the model without a reason", a_call_again),
    ("calls of the model without a reason", a_call_after_the_end),
]


@pytest.mark.parametrize(("kind", "change"), OTHERWISE)
def test_a_broken_promise_is_found(
    story: Story, kind: str, change: Callable[[Story], None]
) -> None:
    story.end(FIRST)
    story.end(SECOND)
    change(story)
    assert kind in story.verdict().offences


def test_a_failure_needs_as_many_losses_as_are_allowed(story: Story) -> None:
    story.end(FIRST)
    story.end(SECOND, status="failed", text=None, error_code="WORKER_LOST")
    story.turns.remove(SECOND)
    assert list(story.verdict().offences) == ["failed without a reason"]


def test_a_call_after_the_worker_was_harmed_is_what_is_promised(story: Story) -> None:
    story.end(FIRST)
    story.end(SECOND, text=said(SECOND, 2, ("user", prompt_of(FIRST)), ("assistant", said(FIRST))))
    story.texts[SECOND] = story.ended[-1][1]["text"]
    a_call_again(story)
    story.harms.append(Done(Harm(1.0, "worker1", "kill", 0.0), began=2.5, ended=2.8))
    verdict = story.verdict()
    assert not verdict.offences, str(verdict)
    assert (verdict.extra_calls, verdict.allowed_calls) == (1, 2)


@pytest.mark.parametrize(("action", "is_found"), [("pause", False), ("kill", True)])
def test_only_a_worker_that_stood_still_may_call_when_all_is_over(
    story: Story, action: str, is_found: bool
) -> None:
    story.end(FIRST)
    story.end(SECOND)
    later = time.monotonic() + 60
    story.calls.append(Call(SECOND, 2, "worker2", later, later + 1))
    story.harms.append(Done(Harm(1.0, "worker2", action, 5.0), began=later - 5, ended=later - 0.1))
    assert ("calls of the model without a reason" in story.verdict().offences) is is_found


# A reader's place


START = (0, "start", {"request_id": "any"})
TOKENS = [(number + 1, "token", {"chunk": number, "data": f"{number} "}) for number in range(3)]
RESTART = (4, "restart", {"attempt": 2})
AGAIN = [(number + 5, "token", {"chunk": number, "data": f"{number} "}) for number in range(2)]
END = (7, "complete", {"status": "done"})
STREAM = [START, *TOKENS, RESTART, *AGAIN, END]


def test_a_stream_that_begins_anew_is_read_whole() -> None:
    reading = Reading("any")
    for event in STREAM:
        reading.take(*event)
    assert (reading.text, reading.ended, reading.after) == ("0 1 ", "completed", 7)


@pytest.mark.parametrize("place", range(1, len(STREAM) - 1))
def test_what_is_left_out_given_twice_or_swapped_is_torn(place: int) -> None:
    streams = [
        [*STREAM[:place], *STREAM[place + 1 :]],
        [*STREAM[: place + 1], *STREAM[place:]],
        [*STREAM[: place - 1], STREAM[place], STREAM[place - 1], *STREAM[place + 1 :]],
    ]
    for stream in streams:
        reading = Reading("any")
        with pytest.raises(Torn):
            for event in stream:
                reading.take(*event)


def frame(event: tuple[int, str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return an event as a WebSocket has it."""
    seq, kind, data = event
    if kind == "start":
        return None
    if kind == "complete":
        return {"type": "result", "request_id": "any", "result": "0 1 "}
    return {"type": kind, "request_id": "any", **data} | ({"seq": seq} if kind == "token" else {})


def test_a_socket_that_is_left_and_resumed_anywhere_is_read_whole() -> None:
    for left in range(1, len(STREAM)):
        reading = Reading("any")
        for event in STREAM[:left]:
            if told := frame(event):
                reading.take_frame(told)
        reading.resume()
        for event in STREAM:
            if event[0] > reading.after and (told := frame(event)):
                reading.take_frame(told)
        assert (reading.text, reading.ended, reading.result) == ("0 1 ", "completed", "0 1 ")


def test_a_socket_that_leaves_a_token_out_is_torn() -> None:
    reading = Reading("any")
    reading.take_frame(frame(TOKENS[0]) or {})
    with pytest.raises(Torn):
        reading.take_frame(frame(TOKENS[2]) or {})


def test_an_answer_about_another_request_is_found() -> None:
    reading = Reading("mine")
    with pytest.raises(Mixed):
        reading.take(*START)
    with pytest.raises(Mixed):
        reading.take_frame(frame(TOKENS[0]) or {})
