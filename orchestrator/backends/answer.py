"""Reads a provider's answer, streamed or whole, to its last word."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeGuard

from orchestrator.backends.base import Finish
from orchestrator.backends.sse_reader import SSEReader
from orchestrator.backends.text import MAX_ANSWER_BYTES, AnswerText
from orchestrator.backends.upstream import Call
from orchestrator.errors import RunError, UpstreamError, UpstreamTimeout, UpstreamTruncated
from orchestrator.events import FinishReason, Usage
from orchestrator.stop import StopSignal

# How long an answer may go on without a word after its finish reason. Some servers give a reason
# before they are through. Others, after the last one, neither close nor say anything more: each of
# their answers takes as long.
_MORE_S = 5.0
# How long the end mark may take once nothing else is to come.
_END_S = 1.0


class Answer(ABC):
    """What is known of an answer so far; each provider's dialect has one of its own.

    ``begun`` says that text or thoughts have come, ``thinking`` that the last of it was a thought.
    ``reason`` is the provider's word for why the answer ended, and ``done`` that its end mark came;
    either makes it whole, but for a reason after which it ``goes_on``, up to the next one.
    ``closing`` says that nothing but the end mark is to come.
    """

    def __init__(self, api_key: str | None) -> None:
        self.api_key = api_key
        self.text = AnswerText()
        self.usage: Usage | None = None
        self.reason: str | None = None
        self.begun = False
        self.thinking = False
        self.goes_on = False
        self.closing = False
        self.done = False
        self._told: Usage | None = None

    @property
    def ended(self) -> bool:
        """Whether a reason came, and no text after it."""
        return self.reason is not None and not self.goes_on

    @property
    def end_s(self) -> float | None:
        """How long the rest may take; None for an answer that hasn't ended."""
        if not self.ended:
            return None
        return _END_S if self.closing else _MORE_S

    @property
    def spent(self) -> Usage | None:
        """What an answer that breaks off here has cost, as far as the provider said so."""
        return self.usage

    def news(self) -> Iterator[Usage]:
        """Yield what it has cost so far, where that has changed since it was last yielded."""
        spent = self.spent
        if spent and spent != self._told:
            self._told = spent
            yield spent

    def hear(self, text: str, thought: bool = False) -> str:
        """Take a piece of text, or note a thought, which isn't shown; return the text to show."""
        if text or thought:
            self.begun, self.thinking = True, not text
        if text:
            self.goes_on, self.closing = self.reason is not None, False
        return self.text.add(text)

    def end(self, reason: Any) -> None:
        """Note why the answer ended, where ``reason`` says so."""
        if isinstance(reason, str) and reason:
            self.reason, self.goes_on = reason, False

    @abstractmethod
    def add(self, data: str | bytes) -> str:
        """Take one event's data, or a whole answer, and return the text in it.

        Raises UpstreamError where it's neither, and what an error object asks for.
        """

    def check_whole(self) -> None:
        """Raise UpstreamTruncated for what isn't the whole of an answer."""
        if not self.ended and not self.done:
            raise UpstreamTruncated("The provider's answer ended too early; try again.")
        if not self.begun and self.reason is None:
            raise UpstreamTruncated("The provider ended its answer without a word; try again.")

    @abstractmethod
    def finish_reason(self) -> FinishReason:
        """Return why the answer ended. Raises a RunError where that makes it no answer."""


def answered(call: Call, answer: Answer, stop: StopSignal) -> Iterator[str | Usage | Finish]:
    """Yield the pieces of an answer with status 200 as they come, and the Finish.

    What it has cost so far comes as soon as that is known or changes: a stop leaves no time for it.

    The first-token timeout runs until text or a thought comes, and the idle timeout between two
    pieces of text; nothing else counts. While it thinks, which need not be shown, each whole line
    is a sign of life, keep-alive comments included. Raises a RunError, or Stopped.
    """
    if call.media_type == "text/html":
        raise UpstreamError("The provider answered with a web page; the base URL must be wrong.")
    whole = call.media_type.endswith("json")
    try:
        for piece in _whole(call, answer) if whole else _streamed(call, answer):
            yield piece
            stop.check()
        if rest := answer.text.rest():
            yield rest
        answer.check_whole()
        yield Finish(answer.finish_reason(), answer.usage)
    except RunError:
        yield from answer.news()
        raise


def parsed(data: str | bytes) -> dict[str, Any]:
    """Return the JSON object in ``data``. Raises UpstreamError where there is none."""
    try:
        return an_object(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise no_answer() from error


def an_object(value: Any) -> dict[str, Any]:
    """Return ``value`` where it's a JSON object. Raises UpstreamError otherwise."""
    if not isinstance(value, dict):
        raise no_answer()
    return value


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether ``value`` can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def no_answer() -> UpstreamError:
    """Return the error for JSON of a wrong shape."""
    return UpstreamError("The provider sent what is no answer of a model.")


def wants_a_tool() -> UpstreamError:
    """Return the error for a model that asks for what nobody has offered."""
    return UpstreamError("The provider wants a tool to be used, and there is none.", reason="tool")


def _streamed(call: Call, answer: Answer) -> Iterator[str | Usage]:
    """Yield the text of an event stream, and what it costs; an empty text for a first thought."""
    reader = SSEReader()
    while piece := _read(call, answer):
        lines, end_s, said = reader.lines, answer.end_s, False
        for data in reader.feed(piece):
            begun = answer.begun
            text = answer.add(data)
            yield from answer.news()
            if text:
                said = True
                yield text
            elif answer.begun and not begun:
                yield ""
            if answer.done:
                call.drain()
                return
        if answer.end_s:
            if said or answer.end_s != end_s:
                call.allow(answer.end_s)
        elif said or (answer.thinking and reader.lines > lines):
            call.lives()


def _read(call: Call, answer: Answer) -> bytes:
    """Read on. Once the finish reason is there, the answer is whole, whatever comes after it."""
    try:
        return call.read()
    except (UpstreamTimeout, UpstreamTruncated):
        if not answer.ended:
            raise
        return b""


def _whole(call: Call, answer: Answer) -> Iterator[str]:
    """Yield the text of an answer in one piece: some servers know no streams."""
    text = answer.add(call.read_all(MAX_ANSWER_BYTES))
    if not text and answer.reason is None:
        raise no_answer()
    answer.done = True
    if text:
        yield text
