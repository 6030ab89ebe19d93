"""The engine backend with the real llama.cpp, and models so small that they are made here."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.backends.base import Message
from orchestrator.backends.engine.backend import EngineBackend
from orchestrator.backends.engine.engines import Engines
from orchestrator.backends.engine.environment import for_engine
from orchestrator.backends.engine.models import model_source
from orchestrator.backends.engine.process import EngineProcess
from orchestrator.backends.engine.tiny_llama import DEMO_TEXT
from orchestrator.bootstrap.service import build_service
from orchestrator.config import load
from orchestrator.errors import (
    ConfigError,
    RunError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
)
from orchestrator.events import FinishReason
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import Asking, ask, eventually
from tests.fakes.closing import close
from tests.fakes.models import (
    VOICES,
    answer_of,
    write_slow_reader,
    write_slow_speaker,
    write_voices,
)
from tests.needs import needs_module
from tests.served import BUSY, ROOT

LONG_S = 60.0
LONG_TOKENS = 16384
"""Room for an answer that takes seconds, and with a slow speaker most of a minute."""
AT_ONCE_S = BUSY * 1.0
NO_HUB = "http://127.0.0.1:9"


class Engine(EngineBackend):
    """An engine with a process of its own."""

    def __init__(self, name: str, cache: Path, **options: float) -> None:
        self.process = EngineProcess(
            model_source(name, cache, NO_HUB, "MODEL"),
            slots=int(options.get("slots", 4)),
            context=int(options.get("context", 2048)),
            environment=for_engine(os.environ),
        )
        super().__init__(
            self.process,
            connect_timeout_s=LONG_S,
            first_token_timeout_s=options.get("first_token", LONG_S),
            idle_timeout_s=LONG_S,
            max_connections=1,
        )


Starting = Callable[..., Engine]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_module("xllamacpp")
    folder = tmp_path_factory.mktemp("models")
    write_voices(folder / "voices.gguf")
    write_slow_reader(folder / "slow.gguf")
    write_slow_speaker(folder / "speaker.gguf")
    (folder / "text.gguf").write_text("GGUF, it says, and is none.")
    return folder


@pytest.fixture(scope="module")
def voices(models: Path) -> Iterator[Engine]:
    """An engine that tests share, and leave as they found it."""
    engine = Engine(str(models / "voices.gguf"), models)
    engine.process.start()
    yield engine
    close(engine.process)


@pytest.fixture
def starting(models: Path) -> Iterator[Starting]:
    """A function that starts an engine with a model; it ends with the test."""
    engines = []

    def start(name: str, **options: float) -> Engine:
        engine = Engine(name.format(models=models), models, **options)
        engines.append(engine)
        engine.process.start()
        return engine

    yield start
    for engine in engines:
        close(engine.process)


def gone(pid: int) -> bool:
    """Whether a process has ended, even where nobody has reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children() -> set[int]:
    """The processes that this one has started, in whichever thread."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text().split()}


def seconds_of_work(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestAnswers:
    @pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "top_p": 1.0, "seed": 7}])
    def test_the_demo_says_its_text_to_the_letter_and_then_ends(
        self, starting: Starting, options: dict[str, float]
    ) -> None:
        said = ask(starting("demo"), "Anything at all, é€😀", **options)

        assert said.text == DEMO_TEXT
        assert len(said.pieces) > 20
        assert said.finish
        assert said.finish.reason is FinishReason.STOP
        assert said.finish.usage
        assert said.finish.usage.output_tokens == len(said.pieces) + 1

    def test_the_options_of_a_request_reach_the_model(self, voices: Engine) -> None:
        said = ask(voices, "A", max_tokens=12)
        assert said.text == answer_of("A", 12)
        assert said.finish
        assert said.finish.reason is FinishReason.LENGTH

        assert ask(voices, "B", max_tokens=50, stop=(" b7",)).text == answer_of("B", 7)

    def test_the_conversation_reaches_the_model(self, voices: Engine) -> None:
        earlier = [Message("user", "C"), Message("assistant", "CCC")]
        assert ask(voices, "C", earlier=earlier, max_tokens=3).text == answer_of("C", 3)

    def test_many_at_once_are_not_mixed(self, voices: Engine) -> None:
        alone = {voice: ask(voices, voice, max_tokens=20, seed=1).text for voice in VOICES}
        asking = {
            voice: Asking(voices, voice, max_tokens=150, seed=number)
            for number, voice in enumerate(VOICES)
        }
        for voice, one in asking.items():
            one.join()
            assert one.error is None
            assert one.said.text == answer_of(voice, 150)
            assert one.said.text.startswith(alone[voice])

    def test_a_prompt_that_is_too_long_is_refused_with_the_reason(self, voices: Engine) -> None:
        with pytest.raises(UpstreamRejected, match="context size") as caught:
            ask(voices, "A" * 3000)
        assert caught.value.details["reason"] == "context_length", "another target may hold it"


class TestSlots:
    def test_a_request_without_a_slot_waits_for_one(self, starting: Starting) -> None:
        engine = starting("{models}/voices.gguf", slots=1, context=LONG_TOKENS)
        first = Asking(engine, "A")
        eventually(lambda: first.said.pieces)
        second = Asking(engine, "B", max_tokens=3)
        assert not second.said.pieces

        first.signal.request()
        first.join()
        second.join()
        assert second.said.text == answer_of("B", 3)

    def test_waiting_for_the_model_ends_with_the_time_for_a_first_token(self, models: Path) -> None:
        never_started = Engine("demo", models, first_token=0.2)
        with pytest.raises(UpstreamTimeout, match="not loaded yet after 0.2 s"):
            ask(never_started, "A")

    def test_waiting_for_a_slot_is_no_silence_of_the_model(self, starting: Starting) -> None:
        process = starting("{models}/voices.gguf", slots=1).process
        given = threading.Event()

        def take_another() -> None:
            with process.slot(StopSignal(), 0.05):
                given.set()

        with process.slot(StopSignal(), LONG_S):
            other = threading.Thread(target=take_another, daemon=True)
            other.start()
            assert not given.wait(0.3), "longer than it would wait for the model"
        assert given.wait(LONG_S)

    def test_a_cancel_reaches_one_that_waits_for_a_slot(self, starting: Starting) -> None:
        engine = starting("{models}/voices.gguf", slots=1, context=LONG_TOKENS)
        first = Asking(engine, "A")
        eventually(lambda: first.said.pieces)
        second = Asking(engine, "B")
        second.signal.request()
        assert second.join() < AT_ONCE_S
        assert isinstance(second.error, Stopped)
        first.signal.request()
        first.join()

    def test_a_cancel_frees_the_slot_also_while_a_prompt_is_read(self, starting: Starting) -> None:
        engine = starting("{models}/slow.gguf", slots=1, context=LONG_TOKENS)
        assert ask(engine, "A", max_tokens=1).text == " a0"
        pid = engine.process.pid
        assert pid
        before = seconds_of_work(pid)
        # The whole of it would take half a minute.
        long = Asking(engine, "B" * 16000, max_tokens=1)
        eventually(lambda: seconds_of_work(pid) > before + 0.3)
        long.signal.request()
        assert long.join() < AT_ONCE_S
        after = Asking(engine, "C", max_tokens=1)
        assert after.join() < 5.0
        assert after.said.text == " c0"


class TestDeath:
    def test_a_killed_engine_fails_what_ran_and_is_there_again(self, starting: Starting) -> None:
        engine = starting("{models}/speaker.gguf", context=LONG_TOKENS)
        running = Asking(engine, "A")
        eventually(lambda: running.said.pieces)
        pid = engine.process.pid
        assert pid

        os.kill(pid, signal.SIGKILL)
        assert running.join() < AT_ONCE_S
        assert isinstance(running.error, UpstreamTruncated | UpstreamError)

        eventually(lambda: engine.process.pid is None)
        assert ask(engine, "B", max_tokens=5).text == answer_of("B", 5)
        assert engine.process.pid not in (None, pid)

    def test_one_that_hangs_is_killed_and_started_again(
        self, starting: Starting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("orchestrator.backends.engine.process.EVERY_S", 0.05)
        monkeypatch.setattr("orchestrator.backends.engine.watch._PATIENCE_S", 1.0)
        engine = starting("{models}/speaker.gguf", context=LONG_TOKENS)
        running = Asking(engine, "A")
        eventually(lambda: running.said.pieces)
        pid = engine.process.pid
        assert pid

        os.kill(pid, signal.SIGSTOP)
        running.join()
        assert isinstance(running.error, UpstreamTruncated | UpstreamError)
        assert ask(engine, "B", max_tokens=5).text == answer_of("B", 5)
        assert gone(pid)
        assert "The engine does not answer any more, and is killed." in caplog.messages

    def test_one_that_reads_a_long_prompt_does_not_hang(
        self, starting: Starting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.backends.engine.process.EVERY_S", 0.01)
        monkeypatch.setattr("orchestrator.backends.engine.watch._MOST_MISSES", 1)
        monkeypatch.setattr("orchestrator.backends.engine.watch._MOST_STILL", 10_000)
        engine = starting("{models}/slow.gguf", slots=1, context=LONG_TOKENS)
        ask(engine, "A", max_tokens=1)
        pid = engine.process.pid
        assert ask(engine, "B" * 700, max_tokens=1).text == " b0"
        assert engine.process.pid == pid

    def test_one_that_fails_again_and_again_is_started_ever_more_rarely(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orchestrator.backends.engine.process._FIRST_DELAY_S", 0.05)
        monkeypatch.setattr("orchestrator.backends.engine.process._LONGEST_DELAY_S", 0.2)
        source = NeverThere()
        process = EngineProcess(source, 1, 128, {})
        process.start()
        eventually(lambda: len(source.asked_at) == 5)
        close(process)
        gaps = [later - earlier for earlier, later in pairwise(source.asked_at)]
        for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True):
            assert gap >= least

    def test_it_ends_with_the_service_and_tells_its_key_to_nobody(self, starting: Starting) -> None:
        engine = starting("{models}/voices.gguf")
        ask(engine, "A", max_tokens=1)
        pid = engine.process.pid
        assert pid
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert arguments[-8].endswith(b"voices.gguf")
        room = [b"--slots", b"4", b"--context", b"2048"]
        assert arguments[-7:] == [*room, b"--parent", str(os.getpid()).encode(), b""]

        close(engine.process)
        assert gone(pid)

    def test_it_ends_with_the_drain_and_not_only_with_the_server(
        self, models: Path, tmp_path: Path
    ) -> None:
        model = str(models / "voices.gguf")
        environ = {"ORCHESTRATOR_BACKEND": "engine", "ORCHESTRATOR_MODEL": model}
        before = children()
        service = build_service(load(environ | {"XDG_CACHE_HOME": str(tmp_path)}))
        eventually(lambda: children() - before)
        (pid,) = children() - before
        service.drain(1.0)
        eventually(lambda: gone(pid))

    def test_it_ends_with_a_service_that_is_killed(self, models: Path) -> None:
        service = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(models / "voices.gguf")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        with service:
            assert service.stdout
            pid = int(service.stdout.readline())
            assert not gone(pid)
            service.kill()
            eventually(lambda: gone(pid))


class NeverThere:
    """A model that can't be had, and when it was asked for."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    def fetch(self, cancelled: Callable[[], bool]) -> Path:
        self.asked_at.append(time.monotonic())
        raise UpstreamError("The model is not there.")


SERVICE = """
import sys, time
from pathlib import Path
from tests.fakes.asking import ask
from tests.integration.test_engine import Engine
engine = Engine(sys.argv[1], Path("."))
engine.process.start()
ask(engine, "A", max_tokens=1)
print(engine.process.pid, flush=True)
time.sleep(60)
"""

LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from orchestrator.errors import UpstreamError
from tests.fakes.asking import ask
from tests.fakes.closing import close
from tests.integration.test_engine import Engine
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
engine = Engine(sys.argv[1], Path("."), slots=16, context=1 << 20)
engine.process.start()
try:
    ask(engine, "A")
except UpstreamError as error:
    print(error.message)
close(engine.process)
"""


class TestRoom:
    def test_the_demo_has_the_room_that_is_asked_for(self, starting: Starting) -> None:
        said = ask(starting("demo", slots=1, context=8192), "A" * 6000)
        assert said.text == DEMO_TEXT

    def test_a_model_made_for_less_room_than_asked_for_is_told(
        self, starting: Starting, caplog: pytest.LogCaptureFixture
    ) -> None:
        starting("{models}/voices.gguf", slots=1, context=2 * LONG_TOKENS)
        eventually(lambda: caplog.messages)
        assert caplog.messages == [
            "The local model was made for 16384 tokens of prompt and answer: that is what a "
            "request may have, not 32768."
        ]


class TestFailures:
    def failure(self, engine: Engine) -> str:
        with pytest.raises(RunError) as caught:
            ask(engine)
        return caught.value.message

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("{models}/missing.gguf", "missing.gguf can't be read (no such file or directory)"),
            ("{models}", "can't be read (is a directory)"),
            (str(Path(__file__)), "test_engine.py is not a GGUF file"),
            ("gpt-4o-mini", "gpt-4o-mini can't be read (no such file or directory)"),
            ("hf:owner/model.gguf", "is not of the form hf:owner/repo/file.gguf"),
            ("hf:owner/repo/../../model.gguf", "is not of the form hf:owner/repo/file.gguf"),
            ("hf:owner/repo//tmp/model.gguf", "is not of the form hf:owner/repo/file.gguf"),
            ("hf:../repo/model.gguf", "is not of the form hf:owner/repo/file.gguf"),
            ("hf:owner/./model.gguf", "is not of the form hf:owner/repo/file.gguf"),
        ],
    )
    def test_a_model_that_is_none_is_refused_at_the_start(
        self, models: Path, name: str, said: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            model_source(name.format(models=models), models, NO_HUB, "MODEL")
        assert said in caught.value.message
        assert caught.value.message.startswith("MODEL: ")

    def test_a_file_that_cannot_be_loaded_fails_requests_with_the_reason(
        self, starting: Starting, models: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        message = self.failure(starting("{models}/text.gguf"))

        assert message.startswith("The local model can't be loaded: ")
        assert "version" in message
        assert str(models) not in message
        eventually(lambda: message in caplog.messages)

    def test_a_model_that_comes_later_is_found(
        self, starting: Starting, tmp_path: Path, models: Path
    ) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes((models / "text.gguf").read_bytes())
        engine = starting(str(path))
        assert "can't be loaded" in self.failure(engine)
        (models / "voices.gguf").rename(tmp_path / "good")
        (tmp_path / "good").rename(path)
        write_voices(models / "voices.gguf")
        eventually(lambda: engine.process.pid)
        assert ask(engine, "A", max_tokens=1).text == " a0"

    def test_a_model_that_cannot_be_downloaded_fails_requests_with_the_reason(
        self, starting: Starting
    ) -> None:
        message = self.failure(starting("hf:owner/repo/model.gguf"))
        assert message.startswith("The model can't be downloaded: 127.0.0.1 can't be reached")

    @pytest.mark.parametrize(
        ("complaint", "said"),
        [
            ("libgomp.so.1: cannot open shared object file", "apt-get install libgomp1"),
            ("/srv/secret/libother.so: wrong ELF class", "xllamacpp can't be imported; the"),
        ],
    )
    def test_an_engine_that_cannot_be_imported_says_what_to_install(
        self,
        starting: Starting,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        complaint: str,
        said: str,
    ) -> None:
        (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({complaint!r})")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        message = self.failure(starting("demo"))
        assert said in message
        assert "/srv" not in message
        assert f"xllamacpp can't be imported: {complaint}" in caplog.messages

    def test_too_little_memory_says_what_to_lower(self, models: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", LITTLE_MEMORY, str(models / "voices.gguf")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
        assert "too little memory for it; it needs less context" in done.stdout, done

    def test_a_start_without_the_package_says_what_to_install(
        self, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "orchestrator.backends.engine.engines._PACKAGE", "xllamacpp_not_installed"
        )
        with pytest.raises(ConfigError, match=r"pip install -r requirements-local\.txt"):
            Engines(models, NO_HUB, {}).process("demo", slots=1, context=128, where="MODEL")
