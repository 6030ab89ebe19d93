"""Schemathesis over a running server: whatever its OpenAPI document allows, and what it doesn't."""

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import redis_server
from tests.scaled import scaled, working
from tests.served import Served, environment, serve

COMMAND = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
SETTINGS = Path(__file__).with_name("schemathesis.toml")
REQUEST_S = 90
"""How long an answer may take: a long poll may last for 60 s."""
KINDS = ("roomy", "crowded", "shared", "guarded")
KEYS = [sys.executable, "-m", "orchestrator", "keys", "create", "--tenant", "fuzz"]


@dataclass(frozen=True)
class Target:
    """A running server, and the headers that it wants with everything."""

    server: Served
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How many cases there were, and what was found, in words; nothing where all is well."""

    cases: int
    found: str


def judge(target: Target, seed: int, examples: int, folder: Path, seconds: float) -> Verdict:
    """Send a server what its document tells of: up to ``examples`` cases a phase and operation."""
    server = target.server
    report = folder / f"schemathesis-{seed}.json"
    options = {
        "--checks": "all",
        "--seed": str(seed),
        "--max-examples": str(examples),
        "--request-timeout": str(REQUEST_S),
        "--generation-database": "none",
        "--report": "json",
        "--report-json-path": str(report),
    }
    logged = len(server.log)
    done = subprocess.run(
        [
            *(*COMMAND, "--config-file", str(SETTINGS), "run", f"{server.api}/openapi.json"),
            *(part for option in options.items() for part in option),
            *(part for header in target.headers for part in ("--header", header)),
            *("--continue-on-failure", "--no-color"),
        ],
        # It leaves what it found in a folder of its own.
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    if not report.exists():
        return Verdict(0, done.stdout)
    told = json.loads(report.read_text())
    found = [done.stdout] if done.returncode or told["failures"] or told["errors"] else []
    if not told["complete"] or told["operations"]["tested"] != told["operations"]["total"]:
        found.append("Not all operations were tested.")
    if "Traceback" in server.log[logged:]:
        found.append(server.log[logged:])
    return Verdict(told["test_cases"]["generated"], "\n".join(found))


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Target]:
    """Run a service: with room for all, with room for few, over Redis with a worker, with keys."""
    with contextlib.ExitStack() as stack:
        environ: dict[str, str] = {}
        headers: tuple[str, ...] = ()
        if kind == "crowded":
            environ = {
                "ORCHESTRATOR_ECHO_DELAY_S": "0.02",
                "ORCHESTRATOR_CONCURRENCY": "2",
                "ORCHESTRATOR_QUEUE_LIMIT": "2",
            }
        elif kind == "shared":
            redis = stack.enter_context(redis_server.running(folder))
            environ = scaled(redis, ORCHESTRATOR_ECHO_DELAY_S="0.001")
            stack.enter_context(working(folder / "worker.log", **environ))
        elif kind == "guarded":
            environ = {
                "ORCHESTRATOR_API_KEYS_FILE": str(folder / "keys"),
                "ORCHESTRATOR_KEY_PEPPER": secrets.token_hex(32),
            }
            headers = (f"X-API-Key: {_new_key(environ)}",)
        yield Target(stack.enter_context(serve(**environ)), headers)


def _new_key(environ: dict[str, str]) -> str:
    made = subprocess.run(
        KEYS, env=environment(**environ), capture_output=True, text=True, check=True
    )
    return made.stdout.strip()
