"""The ways to start the service: make, the command, gunicorn alone, flask, the Procfile."""

import json
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.commands import (
    INSTALL_S,
    NO_SOURCE,
    START_S,
    environment,
    get,
    installs,
    run,
    script,
    serving,
)
from tests.deployed import WORKER
from tests.e2e.client import until
from tests.needs import needs
from tests.redis_server import RedisServer
from tests.served import ROOT, free_port


def procfile_command(kind: str = "web") -> str:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines)[kind]


@pytest.mark.parametrize(
    "command",
    [
        ["orchestrator", "serve"],
        ["gunicorn"],
        ["flask", "--app", "app", "run", "--port", "{port}"],
        ["bash", "-c", procfile_command()],
    ],
    ids=["orchestrator serve", "gunicorn", "flask run", "Procfile"],
)
def test_every_way_to_start_serves_on_the_port_asked_for(
    command: list[str], tmp_path: Path
) -> None:
    port = free_port()
    command = [part.format(port=port) for part in command]
    command[0] = needs("bash") if command[0] == "bash" else script(command[0])
    with serving(command, ROOT, port, environment(PORT=str(port)), tmp_path / "log") as served:
        assert get(port, "/api/v1/models")[0] == 200
        assert "Traceback" not in served.output
        # Once, and by the command that is for people.
        assert served.output.count("Try:") == (command[1:] == ["serve"])


def test_a_new_master_takes_over_from_the_one_that_the_command_started(
    redis: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    env = environment(PORT=str(port), REDIS_URL=redis.url)
    command = [script("orchestrator"), "serve"]
    with serving(command, ROOT, port, env, tmp_path / "log") as served:
        served.process.send_signal(signal.SIGUSR2)
        until(lambda: served.output.count("Booting worker") == 2, START_S)
        assert served.stop() == 0
        until(lambda: "promoted" in served.output)
        assert get(port, "/api/v1/models")[0] == 200
        assert "Traceback" not in served.output


def test_the_procfile_listens_for_a_platform_and_keeps_to_one_process() -> None:
    # Some platforms set WEB_CONCURRENCY by themselves; the memory store refuses more than one.
    words = procfile_command().split()
    assert words == ["ORCHESTRATOR_HOST=0.0.0.0", "WEB_CONCURRENCY=1", "gunicorn"]


def test_the_procfiles_worker_is_started_as_everywhere() -> None:
    assert procfile_command("worker").split() == WORKER


def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, output = run([script("orchestrator"), "serve"], ROOT, PORT=port)
    assert code != 0
    assert port in output
    assert len(output.strip().splitlines()) == 1, output


TRACE = """Traceback (most recent call last):
  File "pip_audit/_cli.py", line 554, in audit
requests.exceptions.ProxyError: Unable to connect"""
TABLE = """Found 1 known vulnerability in 1 package
Name  Version ID            Fix Versions
----- ------- ------------- ------------
flask 0.5     PYSEC-2018-66 0.12.3"""


@pytest.mark.parametrize(
    ("report", "status", "code", "lines"),
    [
        (TRACE, 1, 2, ["make audit: NOT CHECKED.*ProxyError: Unable to connect.*"]),
        (TABLE, 1, 2, [*TABLE.splitlines(), "make audit: the packages above.*vulnerable."]),
        ("No known vulnerabilities found", 0, 0, ["No known vulnerabilities found"]),
    ],
    ids=["out of reach", "vulnerable", "good"],
)
def test_an_audit_says_in_a_sentence_what_came_of_it(
    report: str, status: int, code: int, lines: list[str], tmp_path: Path
) -> None:
    """What asks is played here: whether it can be reached differs from machine to machine."""
    for name in ("Makefile", "requirements.txt", "requirements-audit.txt"):
        shutil.copy(ROOT / name, tmp_path)
    place = tmp_path / ".venv-audit" / "bin"
    place.mkdir(parents=True)
    fake_python(place / "pip-audit", f"cat >&2 <<'END'\n{report}\nEND\nexit {status}")
    (tmp_path / ".venv-audit" / "built").touch()
    found, output = run([needs("make"), "audit"], tmp_path)
    said = [line for line in output.splitlines() if not line.startswith("make: ***")]
    assert found == code
    assert len(said) == len(lines), output
    for line, expected in zip(said, lines, strict=True):
        assert re.fullmatch(expected, line)


def fake_python(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def copy_of_the_tree(where: Path) -> Path:
    shutil.copytree(ROOT, where, ignore=NO_SOURCE)
    return where


@pytest.mark.parametrize("target", ["run", "install", "test"])
def test_an_old_python_is_refused_in_one_sentence(target: str, tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    old = fake_python(tmp_path / "python3", "exit 1")
    code, output = run([needs("make"), target, f"PYTHON={old}"], tree)
    said = output.splitlines()
    assert code != 0
    assert said[0].startswith("Python 3.11 or newer is needed")
    assert len(said) == 2, "one sentence, and make's own last line"
    assert not (tree / ".venv").exists()


def test_a_python_that_is_not_there_is_refused_in_the_same_sentence(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    code, output = run([needs("make"), "install", "PYTHON=no-such-python"], tree)
    assert code != 0
    assert output.startswith("Python 3.11 or newer is needed, and 'no-such-python' is not")


def test_a_python_without_venv_says_what_to_install(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    bare = fake_python(tmp_path / "python3", 'case "$*" in *ensurepip*) exit 1;; esac')
    code, output = run([needs("make"), "install", f"PYTHON={bare}"], tree)
    assert code != 0
    assert "apt-get install python3-venv" in output.splitlines()[0]


@pytest.mark.parametrize("target", ["run", "install"])
def test_llama_cpp_is_installed_where_a_local_model_is_asked_for(target: str) -> None:
    planned = [needs("make"), "--dry-run", "--always-make", target]
    for backend, wanted in (("echo", False), ("engine", True)):
        code, output = run(planned, ROOT, ORCHESTRATOR_BACKEND=backend)
        assert code == 0
        assert ("requirements-local.txt" in output) == wanted


def test_make_alone_lists_its_targets() -> None:
    code, output = run([needs("make")], ROOT)
    listed = re.findall(r"^make ([\w-]+)", output, re.MULTILINE)
    phony = re.search(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert code == 0
    assert phony
    assert listed == phony.group(1).split()


def pinned(name: str) -> set[str]:
    """What a file of requirements installs here."""
    found = map(Requirement, required(name))
    return {normal(one.name) for one in found if one.marker is None or one.marker.evaluate()}


def required(name: str) -> list[str]:
    """Its requirements, each without its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.partition("#")[0].partition("--hash")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_to_one_version() -> None:
    for name in sorted(path.name for path in ROOT.glob("requirements*.txt")):
        for line in required(name):
            assert re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)?", line), f"{name}: {line}"


def test_what_is_installed_is_known_by_its_hash_on_every_platform() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.partition("make lock\n")[2].strip())
    assert len(blocks) == len(required("requirements.txt")) > 20
    counts = {
        block.partition("==")[0]: len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
        for block in blocks
    }
    assert min(counts.values()) >= 1
    # Those in C have wheels for many platforms and versions of Python.
    assert min(counts["gevent"], counts["greenlet"], counts["orjson"]) > 30
    assert "://" not in text, "it is nobody's business where they were found"


def test_the_lock_has_what_is_asked_for() -> None:
    asked = {normal(line.partition("==")[0]): line for line in required("requirements.in")}
    locked = {normal(line.partition("==")[0]): line for line in required("requirements.txt")}
    for name, line in asked.items():
        assert locked[name].partition(" ;")[0].partition("==")[2] == line.partition("==")[2]


LIST_PACKAGES = """
from importlib.metadata import distributions
print(*(package.name for package in distributions()))
"""


@installs
def test_make_install_has_the_package_and_nothing_else_and_make_run_serves(
    tmp_path: Path,
) -> None:
    tree = copy_of_the_tree(tmp_path / "a tree with blanks")
    code, output = run([needs("make"), "-j4", "install"], tree, INSTALL_S)
    assert code == 0, output

    code, listed = run([".venv/bin/python", "-c", LIST_PACKAGES], tree)
    assert code == 0, listed
    names = {normal(name) for name in listed.split()}
    optional = pinned("requirements-fast.txt") | {"setuptools"}
    assert names - optional == pinned("requirements.txt") | {"llm-orchestrator", "pip"}
    code, output = run([".venv/bin/python", "-m", "pip", "check", "-qq"], tree, INSTALL_S)
    assert code == 0, output

    port = free_port()
    env = environment(PORT=str(port))
    with serving([needs("make"), "run"], tree, port, env, tmp_path / "log") as served:
        assert "Building" not in served.output, "built twice"
        assert str(port) in served.output
        served.stop()
        with pytest.raises(OSError):
            get(port, "/health")

    port = free_port()
    engine = {"ORCHESTRATOR_BACKEND": "engine", "ORCHESTRATOR_MODEL": "demo"}
    env = environment(PORT=str(port), XDG_CACHE_HOME=str(tmp_path), **engine)
    code, output = run([needs("make"), "install"], tree, INSTALL_S, **engine)
    assert code == 0, output
    assert "Installing llama.cpp" in output
    with serving([needs("make"), "run"], tree, port, env, tmp_path / "log") as served:
        assert "Installing" not in served.output, "installed twice"
        assert json.loads(get(port, "/health")[1])["backend"] == "engine"

    code, output = run([needs("make"), "sbom"], tree, INSTALL_S)
    assert code == 0, output
    bill = json.loads((tree / "sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    listed_there = {normal(component["name"]) for component in bill["components"]}
    assert pinned("requirements.txt") <= listed_there
    # Nobody can be asked: what was not checked has not passed.
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    code, output = run([needs("make"), "audit"], tree, INSTALL_S, **nowhere)
    assert code != 0
    assert "NOT CHECKED" in output
    assert "Traceback" not in output

    (tree / "requirements.txt").touch()
    code, output = run([needs("make"), "--question", "install"], tree)
    assert code == 1, "changed requirements build anew"
