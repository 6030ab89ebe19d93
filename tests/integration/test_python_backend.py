"""The python backend with real callables in real native threads."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gevent.monkey import is_module_patched

from orchestrator.backends.base import Finish, Message
from orchestrator.backends.python import PythonBackend
from orchestrator.errors import ConfigError, UpstreamError
from orchestrator.events import FinishReason
from orchestrator.stop import Stopped, StopSignal
from tests.fakes import callables
from tests.fakes.asking import Asking, a_request, ask, eventually
from tests.served import BUSY

ROOT = Path(__file__).resolve().parent.parent.parent
AT_ONCE_S = 1.0 * BUSY


def backend_for(name: str, max_threads: int = 4) -> PythonBackend:
    return PythonBackend(f"tests.fakes.callables:{name}", max_threads)


@pytest.fixture
def done() -> list[str]:
    """Return what callables note, empty."""
    callables.DONE.clear()
    return callables.DONE


@pytest.fixture
def release() -> Iterator[Any]:
    """Give the lock that holds ``stuck``; it's opened after the test at the latest."""
    callables.RELEASE.acquire()
    yield callables.RELEASE
    if callables.RELEASE.locked():
        callables.RELEASE.release()


class TestAnswers:
    @pytest.mark.parametrize(
        ("name", "pieces"),
        [
            ("words", ["a ", "b "]),
            ("whole", ["You said: a b"]),
            ("listed", ["a", "b"]),
            ("nothing", []),
            ("MODEL", ["a b None"]),
            ("MODEL.method", ["A B"]),
            ("PARTIAL", ["a b 5"]),
            ("sleeps", ["0 ", "1 ", "2 "]),
        ],
    )
    def test_what_is_returned_or_yielded_is_the_answer(self, name: str, pieces: list[str]) -> None:
        said = ask(backend_for(name), "a b")

        assert said.pieces == pieces
        assert said.finish == Finish(FinishReason.STOP)

    def test_the_backend_bears_the_name_of_its_callable(self) -> None:
        assert backend_for("words").name == "tests.fakes.callables:words"

    def test_parameters_get_what_their_names_say(self) -> None:
        said = ask(
            backend_for("everything"),
            "why?",
            earlier=[Message("system", "Be brief."), Message("assistant", "a")],
            session_id="s1",
            metadata={"user": "u1"},
            system="Be brief.",
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            stop=("END",),
            seed=3,
        )

        assert json.loads(said.text) == {
            "text": "why?",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "why?"},
            ],
            "session_id": "s1",
            "metadata": {"user": "u1"},
            "system": "Be brief.",
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["END"],
            "seed": 3,
            "stopped": False,
            "mine": 7,
        }

    def test_a_default_stands_for_what_the_client_does_not_say(self) -> None:
        backend = backend_for("with_defaults")

        assert json.loads(ask(backend).text) == [5, ["\n"], 0.5]
        assert json.loads(ask(backend, seed=0, stop=("x",), top_p=1).text) == [0, ["x"], 1]

    def test_double_starred_options_get_all_that_is_known(self) -> None:
        known = "max_tokens messages metadata seed session_id stop stopped system temperature top_p"

        options = json.loads(ask(backend_for("by_options")).text)
        assert options == sorted([*known.split(), "prompt"])
        prompt, more, options = json.loads(ask(backend_for("by_prompt_and_options"), "why?").text)
        assert (prompt, more, options) == ("why?", [], known.split())

    def test_halves_of_characters_are_joined_or_replaced(self) -> None:
        assert ask(backend_for("surrogates")).text == "a😀bc\ufffdd\ufffd"

    def test_a_burst_arrives_whole_and_in_order(self) -> None:
        said = ask(backend_for("burst"), "20000")

        assert said.pieces == [f"{number} " for number in range(20_000)]

    def test_many_answers_at_once_are_kept_apart(self) -> None:
        backend = backend_for("burst", max_threads=8)
        askings = [Asking(backend, str(size)) for size in range(100, 140)]

        for size, asking in enumerate(askings, start=100):
            asking.join()
            assert asking.error is None
            assert asking.said.pieces == [f"{number} " for number in range(size)]

    def test_callables_may_share_locks_and_logs(self) -> None:
        askings = [Asking(backend_for("locks"), "go") for _ in range(8)]

        for asking in askings:
            asking.join()
            assert asking.error is None
            assert len(asking.said.pieces) == 20


class TestThreads:
    def test_callables_run_in_native_threads(self) -> None:
        assert ask(backend_for("in_thread")).text == "True"

    def test_a_callable_that_computes_lets_others_run(self) -> None:
        asking = Asking(backend_for("computes"), "0.5")
        longest, before = 0.0, time.monotonic()
        while asking.said.finish is None:
            time.sleep(0.001)
            now = time.monotonic()
            longest, before = max(longest, now - before), now

        assert asking.said.text == "computed"
        assert longest < 0.25

    def test_threads_are_used_again(self) -> None:
        backend = backend_for("words")
        ask(backend)
        before = native_threads()
        for _ in range(50):
            ask(backend)

        assert native_threads() <= before + 1

    def test_no_answer_leaves_a_descriptor_behind(self) -> None:
        backend = backend_for("words")
        ask(backend)
        before = open_files()
        for _ in range(50):
            ask(backend)

        assert open_files() <= before

    def test_calls_beyond_the_threads_wait_for_one(self, release: Any, done: list[str]) -> None:
        backend = backend_for("stuck", max_threads=2)
        holding = [Asking(backend, f"holds {number}") for number in range(2)]
        eventually(lambda: len(done) == 2)
        waiting = Asking(backend, "waits")
        release.release()

        for asking in (*holding, waiting):
            asking.join()
            assert asking.said.pieces == ["stuck", "free"]
        assert done[2] == "waits"

    def test_a_running_callable_never_keeps_the_process_from_exiting(self) -> None:
        program = """
import gevent.monkey
{patch}
import threading
from tests.fakes.asking import Asking, eventually
from tests.fakes.callables import DONE, RELEASE
from tests.served import BUSY
from orchestrator.backends.python import PythonBackend
RELEASE.acquire()
backend = PythonBackend("tests.fakes.callables:stuck", 2)
asking = Asking(backend, "go")
eventually(lambda: DONE)
"""
        patch = "gevent.monkey.patch_all()" if is_module_patched("threading") else ""
        command = [sys.executable, "-c", program.format(patch=patch)]

        assert subprocess.run(command, cwd=ROOT, timeout=20, check=False).returncode == 0


class TestStopping:
    def test_a_stop_ends_the_answer_at_once_and_the_generator_at_its_next_yield(
        self, done: list[str]
    ) -> None:
        asking = Asking(backend_for("endless"), "stopped")
        eventually(lambda: len(asking.said.pieces) > 3)
        asking.signal.request()

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped
        eventually(lambda: done == ["stopped"], AT_ONCE_S)

    def test_closing_the_stream_ends_the_generator(self, done: list[str]) -> None:
        request, messages = a_request("closed"), [Message("user", "closed")]
        with closing(backend_for("endless").stream(request, messages, StopSignal())) as stream:
            assert next(stream) == "again "

        eventually(lambda: done == ["closed"], AT_ONCE_S)

    def test_a_callable_can_ask_whether_it_is_still_wanted(self, done: list[str]) -> None:
        asking = Asking(backend_for("polite"), "polite")
        time.sleep(0.01)
        assert not done
        asking.signal.request()

        assert asking.join() < AT_ONCE_S
        eventually(lambda: done == ["polite"], AT_ONCE_S)

    def test_a_stop_ends_a_wait_for_a_stuck_callable(self, release: Any, done: list[str]) -> None:
        asking = Asking(backend_for("stuck"), "hangs")
        eventually(lambda: done)
        asking.signal.request()

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped

    def test_a_stop_ends_a_wait_for_a_thread_and_the_call_never_begins(
        self, release: Any, done: list[str]
    ) -> None:
        backend = backend_for("stuck", max_threads=1)
        holding = Asking(backend, "holds")
        eventually(lambda: done)
        waiting = Asking(backend, "waits")
        waiting.signal.request()

        assert waiting.join() < AT_ONCE_S
        assert type(waiting.error) is Stopped
        release.release()
        holding.join()
        assert ask(backend, "afterwards").text == "stuckfree"
        assert done == ["holds", "afterwards"]

    def test_a_stop_that_came_first_begins_nothing(self, done: list[str]) -> None:
        signal = StopSignal()
        signal.request()

        with pytest.raises(Stopped):
            ask(backend_for("endless"), "too early", signal=signal)
        assert not done

    def test_a_stop_takes_effect_between_two_pieces_that_are_there(self) -> None:
        signal = StopSignal()
        stream = backend_for("listed").stream(a_request(), [Message("user", "a")], signal)
        assert next(stream) == "a"
        signal.request()

        with pytest.raises(Stopped):
            next(stream)


class TestFailures:
    @pytest.mark.parametrize("name", ["fails", "fails_at_once", "exits"])
    def test_what_a_callable_raises_is_logged_and_not_told(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR, "orchestrator"), pytest.raises(UpstreamError) as caught:
            ask(backend_for(name))

        assert caught.value.message.startswith("The model callable failed")
        assert "secret" not in caught.value.message
        assert f"in {name}" in caplog.text
        assert "Traceback" in caplog.text
        assert "ORCHESTRATOR_LOG_MESSAGES=yes" in caplog.text

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("yields_numbers", "yielded int"),
            ("yields_bytes", "yielded bytes"),
            ("returns_bytes", "returned bytes"),
            ("returns_nothing", "returned NoneType"),
            ("returns_a_mapping", "returned dict"),
        ],
    )
    def test_what_is_not_text_is_an_error_that_names_its_type(self, name: str, what: str) -> None:
        with pytest.raises(UpstreamError, match=what):
            ask(backend_for(name))

    @pytest.mark.parametrize("name", ["huge", "many_letters"])
    def test_an_answer_without_end_is_left_at_a_limit(self, name: str) -> None:
        with pytest.raises(UpstreamError, match="8 MiB"):
            ask(backend_for(name))

    def test_a_generator_past_the_limit_is_closed(self, done: list[str]) -> None:
        with pytest.raises(UpstreamError):
            ask(backend_for("huge"), "over")

        assert done == ["over"]

    def test_a_failed_callable_leaves_its_thread_fit_for_others(self) -> None:
        backend = backend_for("fails", max_threads=1)
        for _ in range(3):
            with pytest.raises(UpstreamError):
                ask(backend)


class TestConstruction:
    @pytest.mark.parametrize(
        ("path", "part"),
        [
            ("tests.fakes.no_such:answer", "can't be imported (ModuleNotFoundError"),
            ("tests.fakes.broken_module:answer", "can't be imported (RuntimeError: no such device"),
            ("tests.fakes.callables:answer", "tests.fakes.callables has no answer"),
            ("tests.fakes.callables:MODEL.no", "has no MODEL.no"),
            ("tests.fakes.callables:NOT_CALLABLE", "can't be called, it is of type int"),
            ("tests.fakes.callables:is_async", "is async"),
            ("tests.fakes.callables:yields_async", "is async"),
            ("tests.fakes.callables:ASYNC_MODEL", "is async"),
            ("tests.fakes.callables:wants_more", "temprature; a parameter after the prompt can be"),
            ("tests.fakes.callables:wants_by_keyword", "session_id, metadata, system"),
            ("tests.fakes.callables:takes_messages_first", "always the prompt"),
            ("builtins:type", "parameters can't be read"),
        ],
    )
    def test_what_can_not_be_called_stops_the_start_with_a_sentence(
        self, path: str, part: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            PythonBackend(path, 1)

        message = caught.value.message
        assert message.startswith(f"{path}: ")
        assert part in message
        assert message.endswith(".")


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))
