"""deploy/compose.yaml: valid by the specification, and true of the image, nginx and Redis."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __version__
from tests.commands import run, script
from tests.deployed import (
    DEPLOY,
    GRACEFUL_S,
    IMAGE,
    SECRET,
    SPARE_S,
    WORKER,
    assert_tells_signs,
    documents,
    known_settings,
    seconds,
)
from tests.e2e.client import until
from tests.needs import needs
from tests.proxied import CONF
from tests.served import ROOT, free_port

FILE = DEPLOY / "compose.yaml"
(COMPOSE,) = documents(FILE)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WEB = ("web1", "web2")
OURS = (*WEB, "worker")


def test_the_file_is_valid_by_the_compose_specification() -> None:
    command = [script("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    code, output = run(command, ROOT)
    assert code == 0, output


def test_what_is_no_compose_file_is_found_out(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("stop_grace_period", "stop_grace"))
    command = [script("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(wrong)]
    code, output = run(command, ROOT)
    assert code == 1
    assert "stop_grace" in output


def test_web_and_worker_are_the_image_of_the_dockerfile_in_this_version() -> None:
    for name in OURS:
        assert (DEPLOY / SERVICES[name]["build"] / "Dockerfile").resolve().exists()
        assert SERVICES[name]["image"] == f"llm-orchestrator:{__version__}"
        # The user and, but for the worker, the command and the health check are the image's own.
        assert "user" not in SERVICES[name]
    assert all("command" not in SERVICES[name] for name in WEB)
    assert all("healthcheck" not in SERVICES[name] for name in WEB)


def test_the_worker_is_healthy_while_it_gives_a_sign(tmp_path: Path) -> None:
    (kind, command) = SERVICES["worker"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    sign = SERVICES["worker"]["environment"]["ORCHESTRATOR_WORKER_SIGN"]
    assert_tells_signs(["sh", "-c", command.replace("$$", "$")], sign, tmp_path)


def test_the_worker_is_started_as_everywhere_and_each_container_is_one_process() -> None:
    assert SERVICES["worker"]["command"] == WORKER
    assert all(SERVICES[name]["environment"]["WEB_CONCURRENCY"] == "1" for name in OURS)


def test_every_variable_is_a_setting() -> None:
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= known_settings()


def test_the_redis_url_leads_to_redis() -> None:
    for name in OURS:
        (host,) = re.findall(r"^redis://(\w+):6379/0$", SERVICES[name]["environment"]["REDIS_URL"])
        assert SERVICES[host]["image"].startswith("redis:")


def test_no_secret_is_in_the_file() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert value is None or not SECRET.search(name), name


def test_nothing_but_nginx_is_published_and_that_to_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"nginx": ["${PUBLISH:-127.0.0.1:8080}:8080"]}


def test_nginx_listens_where_its_port_leads_and_calls_every_web_service_on_its_port() -> None:
    text = CONF.read_text(encoding="utf-8")
    assert re.findall(r"listen (\S+);", text) == ["8080"]
    assert re.findall(r"server (\w+):(\d+)", text) == [(name, IMAGE["PORT"]) for name in WEB]
    (mounted,) = SERVICES["nginx"]["volumes"]
    source, target, mode = mounted.split(":")
    assert (DEPLOY / source).resolve() == CONF.resolve()
    assert (target, mode) == ("/etc/nginx/nginx.conf", "ro")


def test_each_starts_when_what_it_needs_is_healthy() -> None:
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert set(SERVICES["nginx"]["depends_on"]) == set(WEB)
    for need in SERVICES["nginx"]["depends_on"].values():
        assert need == {"condition": "service_healthy", "restart": True}


def test_a_stop_waits_for_longer_than_the_drain_takes() -> None:
    for name in OURS:
        assert seconds(SERVICES[name]["stop_grace_period"]) >= GRACEFUL_S + SPARE_S
    (shutdown,) = re.findall(r"worker_shutdown_timeout (\d+s);", CONF.read_text())
    assert seconds(SERVICES["nginx"]["stop_grace_period"]) >= seconds(shutdown) + SPARE_S


def test_everything_comes_back_by_itself() -> None:
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped"}


def test_what_faces_clients_writes_nothing_and_may_do_nothing() -> None:
    for name in (*OURS, "nginx"):
        service = SERVICES[name]
        assert service["read_only"]
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


# Redis, started as it is said there


@contextmanager
def redis_as_composed(folder: Path) -> Iterator[int]:
    """A real Redis with the file's own command, on a free port."""
    port = free_port()
    name, *arguments = SERVICES["redis"]["command"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [needs(name), *arguments, "--port", str(port), "--bind", "127.0.0.1"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: healthy(port))
        yield port
    finally:
        process.kill()
        process.wait()


def healthy(port: int) -> bool:
    """What the file's own health check says."""
    kind, name, *arguments = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD"
    command = [needs(name), "-p", str(port), *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def redis_cli(port: int, *arguments: str) -> str:
    command = [needs("redis-cli"), "-p", str(port), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def test_redis_keeps_what_it_was_given_though_it_is_killed(tmp_path: Path) -> None:
    with redis_as_composed(tmp_path) as port:
        for setting, value in {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }.items():
            assert redis_cli(port, "config", "get", setting).split() == [setting, value]
        assert int(redis_cli(port, "config", "get", "maxmemory").split()[1]) * 2 <= 2**30
        redis_cli(port, "set", "a", "kept")
    assert not healthy(port)
    with redis_as_composed(tmp_path) as port:
        assert redis_cli(port, "get", "a") == "kept"


def test_redis_keeps_its_data_in_a_volume() -> None:
    (mounted,) = SERVICES["redis"]["volumes"]
    source, target = mounted.split(":")
    assert source in COMPOSE["volumes"]
    assert target == "/data"


@pytest.mark.parametrize("line", re.findall(r"docker compose .*", FILE.read_text()))
def test_the_commands_in_the_file_name_it_from_the_projects_folder(line: str) -> None:
    (path,) = re.findall(r"-f (\S+)", line)
    assert (ROOT / path) == FILE
    assert set(re.findall(r"--scale (\w+)=", line)) <= set(SERVICES)
