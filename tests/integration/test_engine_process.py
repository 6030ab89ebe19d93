"""How the engine's process is kept, with children that fail in ways of their own."""

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.backends.engine import spawn
from orchestrator.backends.engine.environment import for_engine
from orchestrator.backends.engine.process import EngineProcess
from orchestrator.backends.engine.watch import Watch
from orchestrator.errors import UpstreamError
from orchestrator.stop import StopSignal
from tests.fakes.asking import eventually
from tests.fakes.closing import close

LONG_S = 60.0
MODULE = "orchestrator.backends.engine.process"
SPAWN = "orchestrator.backends.engine.spawn"
STILLNESS = "orchestrator.backends.engine.stillness"
WATCH = "orchestrator.backends.engine.watch"
READY = "print(json.dumps({'address': 'http://127.0.0.1:9'}), flush=True)"
WAITS = "sys.stdin.read()"


class There:
    """A model that is there, and when it was asked for."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []

    def fetch(self, cancelled: Callable[[], bool]) -> Path:
        self.asked_at.append(time.monotonic())
        return Path("/srv/models/model.gguf")


Starting = Callable[..., tuple[EngineProcess, There]]


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starting]:
    """A function that keeps a child which does as it is told; it ends with the test."""
    processes = []
    child = tmp_path / "child.py"
    monkeypatch.setattr(f"{SPAWN}._CHILD", child)

    def start(*lines: str) -> tuple[EngineProcess, There]:
        child.write_text("\n".join(["import json, sys, time", *lines]))
        model = There()
        process = EngineProcess(model, 1, 128, {})
        processes.append(process)
        process.start()
        return process, model

    yield start
    for process in processes:
        close(process)


def failure(process: EngineProcess) -> str:
    with pytest.raises(UpstreamError) as caught, process.slot(StopSignal(), LONG_S):
        pass
    return caught.value.message


def test_a_slow_start_is_no_steady_life(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(f"{MODULE}._STEADY_S", 0.2)
    _, model = starting("time.sleep(0.3)", READY)
    eventually(lambda: len(model.asked_at) == 5)
    gaps = [later - earlier for earlier, later in pairwise(model.asked_at)]
    for gap, delay in zip(gaps, (0.05, 0.1, 0.2, 0.4), strict=True):
        assert gap >= 0.3 + delay


def test_a_child_that_takes_too_long_is_said_to(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{SPAWN}._LOAD_S", 0.2)
    process, _ = starting("time.sleep(60)")
    assert failure(process) == "The local model can't be loaded: it was not ready after 0.2 s."


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have stillness be noticed within half a second. Only Linux tells what a process does."""
    if sys.platform != "linux":
        pytest.skip("There is no /proc here.")
    monkeypatch.setattr(f"{SPAWN}.LOOK_S", 0.05)
    monkeypatch.setattr(f"{STILLNESS}.LOOK_S", 0.05)
    monkeypatch.setattr(f"{STILLNESS}._MOST_STILL", 10)


@pytest.mark.parametrize(
    ("line", "did"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", "was stopped"),
        # As from a file system that has nothing to say.
        ("os.mkfifo(pipe); open(pipe).read()", "did nothing"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_child_that_does_nothing_while_it_loads_is_ended_and_said_to(
    starting: Starting, tmp_path: Path, line: str, did: str
) -> None:
    pipe = str(tmp_path / "pipe")
    process, _ = starting("import os, signal", f"pipe = {pipe!r}", line)
    assert failure(process) == f"The local model can't be loaded: its process {did} for 0.5 s."


@pytest.mark.usefixtures("impatient")
def test_beside_a_child_that_can_not_be_killed_no_other_is_started(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one is that waits for a disk: the reason is told all the while, and it goes on after."""
    can_end = threading.Event()
    kill = spawn.Child.kill
    monkeypatch.setattr(f"{MODULE}._FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(f"{SPAWN}._END_S", 0.1)
    monkeypatch.setattr(
        f"{SPAWN}.Child.kill", lambda child: kill(child) if can_end.is_set() else None
    )
    process, model = starting("import os, signal", "os.kill(os.getpid(), signal.SIGSTOP)")
    told = "The engine's process"
    try:
        eventually(lambda: any(line.startswith(told) for line in caplog.messages))
        assert "was stopped" in failure(process)
        assert len(model.asked_at) == 1
    finally:
        can_end.set()
    eventually(lambda: len(model.asked_at) == 2)
    assert sum(line.startswith(told) for line in caplog.messages) == 1


def test_a_close_is_no_lack_of_memory(
    starting: Starting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = tmp_path / "begun"
    process, _ = starting(f"open({str(begun)!r}, 'w')", "time.sleep(60)")
    eventually(begun.exists)
    close(process)
    assert failure(process) == "The local model was stopped; the server is ending."
    assert caplog.messages == []


def test_a_first_line_without_end_is_not_read_without_end(starting: Starting) -> None:
    process, _ = starting("while True: sys.stdout.write('x' * 65536)")
    assert "the server's log says why" in failure(process)


def test_what_a_child_prints_is_not_kept(starting: Starting) -> None:
    tracemalloc.start()
    try:
        _, model = starting(READY, "for _ in range(256): sys.stdout.write('x' * 65536)")
        eventually(lambda: len(model.asked_at) == 2)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def serving(slots: str) -> list[str]:
    """Lines of a child that answers with its slots, as Python has them."""
    return [
        "from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer",
        "class Door(BaseHTTPRequestHandler):",
        "    looks = 0",
        "    def log_message(self, *arguments): pass",
        "    def do_GET(self):",
        "        Door.looks += 1",
        f"        body = json.dumps({slots}).encode()",
        "        self.send_response(200)",
        "        self.send_header('Content-Length', str(len(body)))",
        "        self.end_headers()",
        "        self.wfile.write(body)",
        "server = ThreadingHTTPServer(('127.0.0.1', 0), Door)",
        "address = f'http://127.0.0.1:{server.server_port}'",
        "print(json.dumps({'address': address}), flush=True)",
        "server.serve_forever()",
    ]


@pytest.mark.parametrize(
    ("slots", "is_stuck"),
    [
        ("[{'is_processing': True, 'n_decoded': 7}]", True),
        ("[{'is_processing': True, 'n_decoded': Door.looks}]", False),
        ("[{'is_processing': False, 'n_decoded': 7}]", False),
        ("{'error': 'not yet'}", False),
    ],
    ids=["nothing moves", "it gets on", "idle", "it says something else"],
)
def test_a_child_that_answers_but_does_not_get_on_is_started_anew(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, slots: str, is_stuck: bool
) -> None:
    looks = []
    look = Watch.look
    monkeypatch.setattr(f"{MODULE}._FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(f"{MODULE}.EVERY_S", 0.01)
    monkeypatch.setattr(f"{WATCH}._MOST_STILL", 5)
    monkeypatch.setattr(f"{WATCH}.Watch.look", lambda watch: looks.append(1) or look(watch))
    _, model = starting(*serving(slots))
    eventually(lambda: len(looks) >= 20)
    assert (len(model.asked_at) > 1) == is_stuck


def test_a_child_that_is_killed_while_it_loads_is_waited_for(
    starting: Starting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed = tmp_path / "killed"
    process, model = starting(
        "import os, pathlib, signal",
        f"killed = pathlib.Path({str(killed)!r})",
        "if not killed.exists(): killed.touch(); os.kill(os.getpid(), signal.SIGKILL)",
        READY,
        "sys.stdin.read()",
    )
    with process.slot(StopSignal(), LONG_S) as address:
        assert address.base_url == "http://127.0.0.1:9/v1"
    assert len(model.asked_at) == 2
    assert caplog.messages == [
        "The engine was killed while it loaded the model, and is started again."
    ]


def test_a_child_that_is_killed_again_and_again_likely_lacks_memory(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._FIRST_DELAY_S", 0.05)
    process, model = starting("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    said = failure(process)
    assert said.startswith(
        "The local model can't be loaded: its process was killed 3 times, likely for lack of "
        "memory; it needs less context, fewer requests at once, or a smaller model."
    )
    assert len(model.asked_at) == 3


def test_a_child_that_ends_by_itself_fails_what_waits_at_once(starting: Starting) -> None:
    process, model = starting("import os", "os.abort()")
    assert failure(process) == (
        "The local model can't be loaded: its process ended with exit code -6."
    )
    assert len(model.asked_at) == 1


def test_a_child_gets_no_secrets(tmp_path: Path) -> None:
    plain = {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "LD_LIBRARY_PATH": "/opt/lib"}
    plain |= {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "2", "GGML_N_THREADS": "2"}
    secrets = ["OPENAI_API_KEY", "HF_TOKEN", "REDIS_URL", "NVIDIA_API_KEY", "GGML_API_KEY"]
    assert for_engine(plain | dict.fromkeys(secrets, "hush")) == plain


def test_folders_in_a_reason_reach_no_client(starting: Starting) -> None:
    process, _ = starting(
        "print(json.dumps({'error': 'no /srv/models/model.gguf (/opt/lib/other.so)'}), flush=True)",
        "sys.exit(1)",
    )
    assert failure(process) == "The local model can't be loaded: no model.gguf (other.so)."


@pytest.mark.parametrize(
    ("line", "parent"), [("", os.getpid()), ("key\n", 0)], ids=["no key", "another parent"]
)
def test_a_child_without_its_parent_loads_nothing(tmp_path: Path, line: str, parent: int) -> None:
    (tmp_path / "xllamacpp.py").write_text("def __getattr__(name): raise SystemExit('loaded')")
    script = str(Path(spawn.__file__).with_name("child.py"))
    options = ["--slots", "1", "--context", "128", "--parent", str(parent)]
    done = subprocess.run(
        [sys.executable, "-P", script, "model.gguf", *options],
        input=line,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
