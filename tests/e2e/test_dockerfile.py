"""The Dockerfile, read line by line, and its steps carried out without Docker."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import INSTALL_S, NO_SOURCE, get, installs, run, serving
from tests.dockerfile import Stage, exec_form, stages, variables
from tests.served import ROOT, free_port


def reaches_docker(path: str) -> bool:
    """Whether .dockerignore lets ``path`` into the build; the last line that matches decides."""
    let_in = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        patterns = [pattern, pattern.removeprefix("**/")]
        names = [*parents, *(Path(parent).name for parent in parents if "**/" in pattern)]
        if any(fnmatch.fnmatchcase(name, one) for name in names for one in patterns):
            let_in = line.startswith("!")
    return let_in


def sources_of(copy: str) -> tuple[list[str], str]:
    *sources, target = copy.split()
    return sources, target


def test_the_image_builds_in_one_stage_and_runs_in_another() -> None:
    build, final = stages()
    assert build.base == final.base
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", final.base)
    assert final.all("RUN") == []
    assert final.all("COPY") == [f"--from={build.name} /opt/venv /opt/venv"]


def test_the_image_runs_as_a_number_that_is_not_root() -> None:
    user, group = stages()[-1].last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_image_starts_without_a_shell_so_that_sigterm_arrives() -> None:
    final = stages()[-1]
    assert exec_form(final.last("CMD")) == ["orchestrator", "serve"]
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert final.all("ENTRYPOINT") == []


def test_the_image_listens_to_everyone_on_the_port_it_exposes() -> None:
    final = stages()[-1]
    settings = variables(final)
    assert settings["ORCHESTRATOR_HOST"] == "0.0.0.0"
    assert settings["PORT"] == final.last("EXPOSE")


def test_the_image_asks_its_own_health() -> None:
    options, _, command = stages()[-1].last("HEALTHCHECK").partition(" CMD ")
    assert all(option.startswith("--") for option in options.split())
    assert exec_form(command) == ["python", "-m", "orchestrator.probe"]


def test_docker_gets_what_the_image_copies_and_nothing_else() -> None:
    copied = {
        source.rstrip("/") for copy in stages()[0].all("COPY") for source in sources_of(copy)[0]
    }
    assert all((ROOT / source).exists() for source in copied)
    let_in = {path.name for path in ROOT.iterdir() if reaches_docker(path.name)}
    assert let_in == copied
    assert reaches_docker("orchestrator/web/__init__.py")
    assert not reaches_docker("orchestrator/__pycache__/cli.cpython-311.pyc")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that another user can read, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def others_may_run_python() -> bool:
    """Whether this process may become another user, and that user reach this Python."""
    base = Path(sys.base_prefix).resolve()
    return os.geteuid() == 0 and all(
        path.stat().st_mode & 0o005 == 0o005 for path in (base, *base.parents)
    )


@dataclass
class Image:
    """The Dockerfile's steps, carried out below ``root`` on this machine instead of in Docker."""

    root: Path

    def at(self, text: str) -> str:
        """``text`` with the image's own directories moved below the root."""
        return re.sub(r"(?<![\w./])/(?=(opt|src|app|wheels)\b)", f"{self.root}/", text)

    def build(self, stage: Stage) -> None:
        tools = self.root / "bin"
        tools.mkdir()
        (tools / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
        cwd = self.root
        for instruction, rest in stage.steps:
            if instruction == "WORKDIR":
                cwd = Path(self.at(rest))
                cwd.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY":
                self.copy(rest, cwd)
            elif instruction == "RUN" and not rest.startswith("apt-get"):
                line = self.at(rest).replace("--no-cache-dir ", "")
                path = f"{tools}:{os.environ['PATH']}"
                code, output = run(["/bin/sh", "-ec", line], cwd, INSTALL_S, PATH=path)
                assert code == 0, f"{line}\n{output}"

    def copy(self, rest: str, cwd: Path) -> None:
        sources, target = sources_of(rest)
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, cwd / target, ignore=NO_SOURCE)
            else:
                shutil.copy(ROOT / source, cwd / target)

    def command(self, words: list[str]) -> list[str]:
        return [str(self.root / "opt/venv/bin" / words[0]), *words[1:]]


@installs
def test_the_steps_of_the_dockerfile_make_a_server_that_runs_anywhere(
    open_directory: Path,
) -> None:
    build, final = stages()
    image = Image(open_directory)
    image.build(build)
    home = Path(image.at(final.last("WORKDIR")))
    home.mkdir()
    port = free_port()
    env = {name: image.at(value) for name, value in variables(final).items()}
    env |= {"PATH": env["PATH"].replace("$PATH", os.environ["PATH"]), "PORT": str(port)}
    uid, gid = map(int, final.last("USER").split(":"))
    user = {"user": uid, "group": gid} if others_may_run_python() else {}
    health = image.command(exec_form(final.last("HEALTHCHECK").partition(" CMD ")[2]))

    def healthy() -> bool:
        return subprocess.run(health, env=env, stderr=subprocess.DEVNULL).returncode == 0

    command = image.command(exec_form(final.last("CMD")))
    log = open_directory / "log"
    with serving(command, home, port, env, log, **user) as served:
        assert get(port, "/")[0] == 200, "the playground came along"
        assert healthy()
        assert served.stop() == 0, served.output
        assert not healthy()
