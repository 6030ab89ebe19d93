"""What can't work is refused at the start, in a sentence; and what serves without gunicorn."""

import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import load_client
from tests.e2e.load_client import ask, connected, request, sse_events, submit, websocket
from tests.needs import lacking
from tests.served import BUSY, ROOT, START_S, Served, environment, free_port

GUNICORN = [sys.executable, "-m", "gunicorn"]
SERVE = [sys.executable, "-c", "import sys; from orchestrator.cli import main; sys.exit(main())"]
FLASK = [sys.executable, "-m", "flask", "--app", "app", "run"]
REFUSED_WITHIN_S = 20


def refused(command: list[str], **environ: str) -> str:
    """Run a command that must refuse to serve, and return the sentence that says why."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**{"PORT": str(free_port())} | environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=REFUSED_WITHIN_S,
        text=True,
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stdout
    assert "Try:" not in done.stdout, "it greets, and doesn't serve"
    # gunicorn's master never starts a second worker.
    assert done.stdout.count("Booting worker") <= 1
    sentences = [line for line in done.stdout.splitlines() if "orchestrator: " in line]
    assert len(sentences) == 1, done.stdout
    return sentences[0].partition("orchestrator: ")[2]


@pytest.mark.parametrize("command", [GUNICORN, [*SERVE, "serve"]])
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WEB_CONCURRENCY": "2"}, "WEB_CONCURRENCY=1"),
        ({"PORT": "http"}, "PORT: 'http' is not a whole number from 1 to 65535."),
        ({"ORCHESTRATOR_RETENTION_S": "-1"}, "ORCHESTRATOR_RETENTION_S: '-1'"),
        ({"ORCHESTRATOR_BACKEND": "openai"}, "ORCHESTRATOR_MODEL is not set."),
        ({"ORCHESTRATOR_BACKEND": "engine"}, "ORCHESTRATOR_MODEL is not set."),
        (
            {"ORCHESTRATOR_BACKEND": "engine", "ORCHESTRATOR_MODEL": "missing.gguf"},
            "ORCHESTRATOR_MODEL: missing.gguf can't be read",
        ),
        ({"ORCHESTRATOR_BACKEND": "no_such_module:answer"}, "no_such_module can't be imported"),
        ({"ORCHESTRATOR_BACKEND": "json:no_such_name"}, "json has no no_such_name"),
        ({"ORCHESTRATOR_CONFIG": "nowhere.toml"}, "nowhere.toml can't be read"),
        ({"ORCHESTRATOR_TLS_CERT": "cert.pem"}, "only with ORCHESTRATOR_TLS_KEY"),
        (
            {"ORCHESTRATOR_TLS_CERT": "/dev/null", "ORCHESTRATOR_TLS_KEY": "/dev/null"},
            "ORCHESTRATOR_TLS_CERT: /dev/null holds no certificate in PEM form.",
        ),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_is_refused_in_a_sentence(
    command: list[str], environ: dict[str, str], said: str
) -> None:
    assert said in refused(command, **environ)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2"], "Start with one worker, or set REDIS_URL."),
        (["--preload"], "Leave it out."),
        (["--worker-class", "gthread"], "Leave --worker-class out."),
    ],
)
def test_a_command_line_that_cannot_work_is_refused_in_a_sentence(
    arguments: list[str], said: str
) -> None:
    assert said in refused([*GUNICORN, *arguments])


@pytest.mark.parametrize("command", [GUNICORN, [*SERVE, "serve"]])
def test_a_taken_port_and_a_strange_host_are_told_apart(command: list[str]) -> None:
    with listening() as port:
        said = refused(command, PORT=str(port))
        assert said == f"Port {port} is taken. Choose another one, as in PORT={other(port)}."
        said = refused(command, ORCHESTRATOR_HOST="192.0.2.1")
        assert said.startswith("Nothing can listen on ORCHESTRATOR_HOST=192.0.2.1")


def test_a_taken_port_on_the_command_line_is_told_in_its_words() -> None:
    with listening() as port:
        said = refused([*GUNICORN, "--bind", f"127.0.0.1:{port}"])
        choice = f"--bind 127.0.0.1:{other(port)}"
        assert said == f"Port {port} is taken. Choose another one, as in {choice}."
    said = refused([*GUNICORN, "--bind", "192.0.2.1:80"])
    assert said.startswith("Nothing can listen on --bind 192.0.2.1:80")


@contextmanager
def listening() -> Iterator[int]:
    """Give a port that somebody listens on while inside."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def other(port: int) -> int:
    return port + 1 if port < 65535 else 8080


def test_a_callable_is_found_in_the_folder_that_the_server_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text("def answer(prompt):\n    yield prompt.upper()\n")

    async def main(port: int) -> None:
        request_id = await submit(port, "hello")
        answer = await request(port, "GET", f"/api/v1/result/{request_id}?wait=10")
        assert answer.json["result"] == "HELLO"

    command = [*SERVE, "serve"]
    settings = {"ORCHESTRATOR_BACKEND": "answers:answer"}
    with running(command, tmp_path / "log", folder=tmp_path, **settings) as server:
        load_client.run(main(server.port))


@contextmanager
def running(
    command: list[str],
    log: Path,
    limit: tuple[int, int] | None = None,
    folder: Path = ROOT,
    **environ: str,
) -> Iterator[Served]:
    """Run a command that serves, with a limit on open files, while inside."""
    host = "[::1]" if environ.get("ORCHESTRATOR_HOST") == "::1" else "127.0.0.1"
    port = int(environ.setdefault("PORT", str(free_port())))

    def prepare() -> None:
        # Whoever runs the tests in the background may have it ignored, and so would the server.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**environ),
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
        )
    try:
        wait_for(f"http://{host}:{port}/health")
        yield Served(port, process, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)


def test_the_limit_of_open_files_is_raised_to_what_the_settings_need(tmp_path: Path) -> None:
    wanted = 5000
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < wanted:
        lacking(f"{wanted} files may not be open at once here (ulimit -Hn).")
    with running(GUNICORN, tmp_path / "log", limit=(256, wanted)) as server:
        limits = Path(f"/proc/{server.worker_pid}/limits").read_text()
        soft, hard = next(
            line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")
        )
        assert 4096 < int(soft) <= int(hard) == wanted
        assert "WARNING" not in server.log


def test_a_limit_of_open_files_that_is_too_low_is_said(tmp_path: Path) -> None:
    with running(GUNICORN, tmp_path / "log", limit=(256, 512)) as server:
        assert "Only 512 files may be open at once" in server.log


@pytest.mark.parametrize("command", [GUNICORN, [*SERVE, "serve"]])
def test_nothing_is_imported_that_gevent_can_no_longer_patch(
    tmp_path: Path, command: list[str]
) -> None:
    with running(command, tmp_path / "log") as server:
        assert "Warning" not in server.log


def test_an_address_of_ip_6_is_served(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("This machine has no IPv6.")
    with running(GUNICORN, tmp_path / "log", ORCHESTRATOR_HOST="::1"):
        pass


def test_flask_run_streams_converses_and_cancels_with_plain_threads(tmp_path: Path) -> None:
    port = free_port()
    command = [*FLASK, "--port", str(port)]
    with running(command, tmp_path / "log", PORT=str(port), ORCHESTRATOR_ECHO_DELAY_S="0.02"):
        load_client.run(all_doors(port))


async def all_doors(port: int) -> None:
    """Go through every door once."""
    request_id = await submit(port, "by polling")
    answer = await request(port, "GET", f"/api/v1/result/{request_id}?wait=10")
    assert answer.json["result"] == "Echo: by polling"

    async with connected(port) as connection:
        body = {"prompt": "as a stream"}
        answer = await ask(
            connection, "POST", "/api/v1/infer", json=body, Accept="text/event-stream"
        )
        events = [event async for event in sse_events(answer)]
        text = "".join(event.data["data"] for event in events if event.name == "token")
        assert text == "Echo: as a stream"
        assert events[-1].data["status"] == "done"

    async with websocket(port) as client:
        client.send({"prompt": "over a socket"})
        assert (await client.receive())["type"] == "ack"
        assert (await client.receive())["result"] == "Echo: over a socket"
        client.send({"prompt": "word " * 1000, "stream": True})
        request_id = (await client.receive())["request_id"]
        assert (await client.receive())["type"] == "token"
        began = time.monotonic()
        answer = await request(port, "POST", f"/api/v1/cancel/{request_id}?wait=10")
        assert answer.json["status"] == "cancelled"
        assert time.monotonic() - began < BUSY
        while (frame := await client.receive())["type"] == "token":
            pass
        assert frame["code"] == "CANCELLED"
