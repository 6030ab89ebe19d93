"""Identical requests in flight: one call, and the whole answer for each that stays."""

import random
import threading
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from orchestrator.backends.base import Finish, Message
from orchestrator.errors import (
    DeadlineExceeded,
    InternalError,
    OrchestratorError,
    PipelineUnavailable,
    UpstreamError,
)
from orchestrator.events import FinishReason
from orchestrator.job import GenerateRequest, Reuse
from orchestrator.routing import coalesce
from orchestrator.routing.base import Attempt, Route
from orchestrator.routing.coalesce import Coalesced
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import WAIT_S, a_request, eventually
from tests.fakes.backends import CutsTheStream, Hangs
from tests.fakes.clock import Clock

DONE = Finish(FinishReason.STOP)


class Told:
    """A route that says what the test tells it to, when it does; an error is raised."""

    name = "told"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Any] = []
        self.said = 0
        self.calls = 0
        self.open = 0
        self.stop: StopSignal | None = None

    def say(self, *items: str | Attempt | Finish | Exception) -> None:
        """Let these be said next."""
        with self._changed:
            self._items += items
            self._changed.notify_all()

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Attempt | Finish, None, None]:
        self.calls += 1
        self.open += 1
        self.stop = stop
        try:
            with stop.waking(self._wake):
                for place in range(10_000):
                    item = self._item(place, stop)
                    self.said = place + 1
                    if isinstance(item, Exception):
                        raise item
                    yield item
        finally:
            self.open -= 1

    def _item(self, place: int, stop: StopSignal) -> Any:
        with self._changed:
            assert self._changed.wait_for(
                lambda: stop.requested or place < len(self._items), WAIT_S
            )
        stop.check()
        return self._items[place]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Listener:
    """A request that runs in a thread of its own."""

    def __init__(self, route: Route, prompt: str = "hello", **fields: Any) -> None:
        self.stop = StopSignal()
        self.heard: list[str | Attempt | Finish] = []
        self.error: BaseException | None = None
        self._stream = route.stream(
            a_request(prompt, **fields), [Message("user", prompt)], self.stop
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for item in self._stream:
                self.heard.append(item)
                if isinstance(item, Finish):
                    break
        except BaseException as error:
            self.error = error
        finally:
            self._stream.close()

    def end(self) -> list[str | Attempt | Finish]:
        """Wait for the end, and return all that was heard."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the answer does not end"
        return self.heard

    def leave(self, reason: OrchestratorError | None = None) -> None:
        self.stop.request(reason)
        self.end()
        assert isinstance(self.error, Stopped)


def test_identical_requests_share_a_call_and_each_has_it_from_its_beginning() -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    early = Listener(route)
    inner.say("one ", "two ")
    eventually(lambda: len(early.heard) == 2)
    late = Listener(route, session_id="another", stream=True)
    eventually(lambda: len(late.heard) == 2)
    inner.say("three", DONE)
    assert early.end() == late.end() == ["one ", "two ", "three", DONE]
    assert (inner.calls, inner.open) == (1, 0)


def test_a_restart_is_everybodys() -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    early = Listener(route)
    inner.say("torn", Attempt(2, "second"), "who")
    eventually(lambda: len(early.heard) == 3)
    late = Listener(route)
    inner.say("le", DONE)
    assert early.end() == late.end() == ["torn", Attempt(2, "second"), "who", "le", DONE]


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "another"},
        {"seed": 7},
        {"timeout_s": 7.0},
        {"reuse": Reuse.REFRESH},
        {"reuse": Reuse.NEVER},
    ],
    ids=str,
)
def test_other_requests_have_calls_of_their_own(other: dict[str, Any]) -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    listeners = [Listener(route), Listener(route, **other)]
    eventually(lambda: inner.calls == 2)
    inner.say("hello", DONE)
    for listener in listeners:
        assert listener.end() == ["hello", DONE]


def test_after_its_end_a_call_is_joined_by_nobody() -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    inner.say("hello", DONE)
    for calls in (1, 2):
        assert Listener(route).end() == ["hello", DONE]
        assert inner.calls == calls


@pytest.mark.parametrize("leaver", [0, 1])
def test_one_who_leaves_takes_nothing_from_the_others(leaver: int) -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    listeners = [Listener(route), Listener(route)]
    inner.say("one ")
    eventually(lambda: all(listener.heard for listener in listeners))
    listeners.pop(leaver).leave()
    inner.say("two", DONE)
    assert listeners[0].end() == ["one ", "two", DONE]
    assert inner.calls == 1


def test_the_last_to_leave_ends_the_call() -> None:
    hangs = Hangs("one ")
    route = Coalesced(hangs, "route")
    listeners = [Listener(route) for _ in range(3)]
    eventually(lambda: all(listener.heard for listener in listeners))
    for listener in listeners:
        assert hangs.closed == 0
        listener.leave()
    eventually(lambda: hangs.closed == 1)


def test_a_call_ends_for_the_reason_of_the_last_to_leave() -> None:
    late, inner = DeadlineExceeded("The request ran out of time."), Told()
    route = Coalesced(inner, "route")
    listeners = [Listener(route) for _ in range(2)]
    inner.say("one ")
    eventually(lambda: all(listener.heard for listener in listeners))
    listeners[0].leave()
    listeners[1].leave(late)
    eventually(lambda: inner.open == 0)
    assert inner.stop
    assert inner.stop.reason is late


def test_who_comes_after_the_last_has_left_begins_a_new_call() -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    first = Listener(route)
    eventually(lambda: inner.calls == 1)
    first.leave()
    second = Listener(route)
    inner.say("hello", DONE)
    assert second.end() == ["hello", DONE]
    assert inner.calls == 2
    eventually(lambda: inner.open == 0)


def test_overlapping_readers_do_not_keep_a_call_open_for_ever() -> None:
    clock, inner, timeout_s = Clock(), Told(), 10.0
    route = Coalesced(inner, "route", clock)
    readers: list[tuple[float, Listener]] = []
    for number in range(12):
        # Each leaves at its own deadline, as the runner has it; the next one is there before.
        while readers and readers[0][0] <= clock():
            readers.pop(0)[1].leave()
        readers.append((clock() + timeout_s, Listener(route, timeout_s=timeout_s)))
        inner.say(f"{number} ")
        eventually(lambda number=number: inner.open and inner.said and readers[-1][1].heard)
        eventually(lambda: inner.open <= 3)
        clock.advance(0.4 * timeout_s)
    assert inner.calls == 6, "every second one joins"
    for _, reader in readers:
        reader.leave()
    eventually(lambda: inner.open == 0)


def test_a_failure_is_everybodys_and_for_each_an_error_of_its_own() -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    listeners = [Listener(route) for _ in range(3)]
    inner.say("so far")
    eventually(lambda: all(listener.heard for listener in listeners))
    inner.say(UpstreamError("down", status=503))
    for listener in listeners:
        assert listener.end() == ["so far"]
    errors = [listener.error for listener in listeners]
    for error in errors:
        assert isinstance(error, UpstreamError)
        assert (error.message, error.details) == ("down", {"status": 503})
    assert len({id(error) for error in errors}) == 3


def test_a_fault_of_the_backend_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    inner = Told()
    route = Coalesced(inner, "route")
    inner.say(ZeroDivisionError("oh"))
    listener = Listener(route)
    listener.end()
    assert type(listener.error) is InternalError
    assert "ZeroDivisionError" in caplog.text


def test_an_answer_without_a_last_word_has_none_for_anybody() -> None:
    listener = Listener(Coalesced(CutsTheStream(), "route"))
    assert listener.end() == ["Hello "]
    assert listener.error is None


def test_without_a_thread_to_be_had_the_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    inner = Told()
    stream = Coalesced(inner, "route").stream(a_request(), [], StopSignal())
    monkeypatch.setattr(threading, "Thread", NoThread)
    with pytest.raises(PipelineUnavailable):
        next(stream)
    assert inner.calls == 0


def test_a_call_waits_for_its_slowest_reader_and_is_then_joined_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "MOST_AHEAD", 1_000)
    inner = Told()
    route = Coalesced(inner, "route")
    slow = route.stream(a_request(), [Message("user", "hello")], StopSignal())
    inner.say("0")
    said = [next(slow)]
    quick = Listener(route)
    pieces = [str(number) for number in range(1, 200)]
    inner.say(*pieces, DONE)
    eventually(lambda: len(quick.heard) == 17)
    late = Listener(route)
    eventually(lambda: inner.calls == 2)
    assert len(quick.heard) < 20, "it waits for the slow one"
    said += slow
    assert said == quick.end() == late.end() == ["0", *pieces, DONE]


def test_what_is_kept_for_a_slow_reader_is_little() -> None:
    inner = Told()
    slow = Coalesced(inner, "route").stream(a_request(), [Message("user", "hello")], StopSignal())
    pieces = ["x" * 10_000] * 200
    inner.say(*pieces, DONE)
    said = [next(slow)]
    # The reader may have taken a whole window before it fell behind by another one.
    window = 256 * 1024 // 10_000
    eventually(lambda: inner.said >= window)
    settled = threading.Event()
    assert not settled.wait(0.2)
    assert inner.said <= 2 * window + 5
    assert [*said, *slow] == [*pieces, DONE]


def test_a_slow_reader_that_leaves_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "MOST_AHEAD", 1_000)
    inner = Told()
    route = Coalesced(inner, "route")
    slow = route.stream(a_request(), [Message("user", "hello")], StopSignal())
    inner.say("0")
    next(slow)
    quick = Listener(route)
    pieces = [str(number) for number in range(1, 100)]
    inner.say(*pieces, DONE)
    eventually(lambda: len(quick.heard) == 17)
    slow.close()
    assert quick.end() == ["0", *pieces, DONE]


def test_a_full_call_ends_with_its_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "MOST_AHEAD", 1_000)
    inner = Told()
    slow = Coalesced(inner, "route").stream(a_request(), [], StopSignal())
    inner.say(*map(str, range(100)))
    next(slow)
    eventually(lambda: inner.said >= 17)
    slow.close()
    eventually(lambda: inner.open == 0)


def test_readers_that_come_and_go_at_random_have_what_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesce, "MOST_AHEAD", 2_000)
    chance = random.Random(7)
    for _ in range(30):
        inner = Told()
        route = Coalesced(inner, "route")
        pieces = [str(number) for number in range(150)]
        listeners = []
        for at in range(0, len(pieces), 10):
            inner.say(*pieces[at : at + 10])
            listeners += [Listener(route) for _ in range(chance.randrange(3))]
            if listeners and chance.random() < 0.4:
                chance.choice(listeners).stop.request()
        inner.say(DONE)
        for listener in listeners:
            heard = listener.end()
            whole = [*pieces, DONE]
            assert heard == (whole[: len(heard)] if listener.stop.requested else whole)
        eventually(lambda inner=inner: inner.open == 0)
