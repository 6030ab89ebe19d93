"""The echo backend: an answer that depends on the prompt and on the conversation's length."""

import time

import pytest

from orchestrator.backends.base import Finish, Message
from orchestrator.backends.echo import EchoBackend
from orchestrator.events import FinishReason, Usage
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import Asking, a_request, ask, eventually

TURNS = [Message("user", "one"), Message("assistant", "two")]


def test_the_prompt_comes_back_word_by_word() -> None:
    said = ask(EchoBackend(), "a  bc\nd")

    assert said.pieces == ["Echo: ", "a  ", "bc\n", "d"]
    assert said.finish == Finish(FinishReason.STOP, Usage(3, 4))


def test_the_answer_says_how_many_messages_came_before() -> None:
    assert ask(EchoBackend(), "three", earlier=TURNS).text == "Echo after 2 messages: three"


def test_a_system_text_is_no_earlier_message() -> None:
    system = Message("system", "Be brief.")

    assert ask(EchoBackend(), "one", earlier=[system]).text == "Echo: one"
    assert "after 2 messages" in ask(EchoBackend(), "three", earlier=[system, *TURNS]).text


def test_max_tokens_cuts_the_answer_and_the_finish_says_so() -> None:
    said = ask(EchoBackend(), "a b c", max_tokens=2)

    assert said.text == "Echo: a "
    assert said.finish == Finish(FinishReason.LENGTH, Usage(3, 2))


def test_max_tokens_that_suffice_cut_nothing() -> None:
    said = ask(EchoBackend(), "a b c", max_tokens=4)

    assert said.text == "Echo: a b c"
    assert said.finish == Finish(FinishReason.STOP, Usage(3, 4))


def test_the_delay_is_waited_before_each_word() -> None:
    began = time.monotonic()
    ask(EchoBackend(delay_s=0.02), "a b c")

    assert time.monotonic() - began >= 4 * 0.02


def test_a_stop_ends_the_delay_at_once() -> None:
    asking = Asking(EchoBackend(delay_s=60), "a b c")
    asking.signal.request()

    assert asking.join() < 1
    assert type(asking.error) is Stopped


def test_a_stop_between_words_keeps_what_was_said() -> None:
    asking = Asking(EchoBackend(delay_s=0.01), "word " * 10_000)
    eventually(lambda: len(asking.said.pieces) >= 3)
    asking.signal.request()

    assert asking.join() < 1
    assert type(asking.error) is Stopped
    assert asking.said.text.startswith("Echo: word word ")


def test_a_stop_that_came_first_says_nothing() -> None:
    signal = StopSignal()
    signal.request()
    stream = EchoBackend(delay_s=0.01).stream(a_request(), [Message("user", "hello")], signal)

    with pytest.raises(Stopped):
        next(stream)
