"""The `orchestrator` command."""

import argparse
import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from orchestrator import __version__, config, greeting, keys_command, listening, logs, scaled
from orchestrator.bootstrap.check import Check, check_redis
from orchestrator.bootstrap.worker import redis_of_worker
from orchestrator.errors import ConfigError
from orchestrator.parts import LOOK_S, Parts
from orchestrator.server import files_for, raise_file_limit
from orchestrator.settings import Settings

EXIT_RESERVE_S = 2
"""How long past their time workers may take to end before they are killed."""
THREADS_END_S = 1
"""How long Dramatiq waits for its threads, and for its consumers: by then nothing runs in them."""
WORKER = [sys.executable, "-m", "orchestrator", "worker"]

Options = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        sys.stderr.write(f"orchestrator: {logs.line(error.message)}\n")
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    """Return what reads the command line: ``run`` of its options is what to do."""
    parser = argparse.ArgumentParser(prog="orchestrator", description="LLM orchestrator web API")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[Options], int], help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help)
        command.set_defaults(run=run)
        return command

    add("serve", _serve, "serve the API; settings come from the environment")
    worker = add("worker", _work, "run requests that web processes keep in Redis; needs REDIS_URL")
    worker.add_argument("--processes", type=_count, default=1, help="how many workers (default: 1)")
    add(
        "run-scaled",
        _run_scaled,
        "two web processes and two workers, with a Redis of their own where REDIS_URL is not set",
    )
    add("settings", _settings, "list the settings as a Markdown table")
    check = add(
        "check-config",
        _check_config,
        "say what the configuration means, and whether its backends and Redis answer",
    )
    check.add_argument(
        "--file",
        type=_path,
        help="a TOML file, in place of the one ORCHESTRATOR_CONFIG names",
    )
    keys_command.describe(add("keys", _keys, "create, list and revoke API keys"))
    return parser


def _count(text: str) -> int:
    """a whole number from 1"""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not {_count.__doc__}.")
    return value


def _path(text: str) -> str:
    """the path of a file"""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"it is empty; give {_path.__doc__}")
    return text


def _settings(options: Options) -> int:
    sys.stdout.write(config.table())
    return 0


def _keys(options: Options) -> int:
    return keys_command.run(config.load(), options)


def _check_config(options: Options) -> int:
    settings = config.load(routes=options.file)
    if "" not in sys.path:
        # As gunicorn does: a callable may lie in the folder that the command is run in.
        sys.path.insert(0, "")
    check = Check(settings)
    # Names in it come from other servers.
    sys.stdout.writelines(f"{logs.line(line)}\n" for line in check.lines())
    return 0 if check.ok else 1


def _serve(options: Options) -> NoReturn:
    settings = config.load()
    _check_address(settings)
    # As a program of its own: what this one has imported, gevent could no longer patch.
    command = _server()
    os.execve(command[0], command, greeting.asked(config.environment()))


def _server() -> list[str]:
    # Not by -m: a new master (USR2), which is started with what sys.argv says, would not come up.
    conf = str(_configuration_file())
    return [_script("gunicorn"), "--config", conf, "orchestrator.web:create_app()"]


def _keep_workers(settings: Settings, count: int) -> int:
    """Keep workers, each by itself: Dramatiq ends all of its processes when one of them dies."""
    workers = Parts(config.environment())
    workers.listen()
    try:
        for number in range(count):
            workers.start(f"worker {number + 1}", WORKER)
        while not workers.is_asked:
            time.sleep(LOOK_S)
            if not workers.tend():
                return 1
        return 0
    finally:
        workers.end(hurry_s=math.inf, kill_s=settings.graceful_timeout_s + EXIT_RESERVE_S)


def _work(options: Options) -> int:
    settings = config.load()
    redis_of_worker(settings)
    if options.processes > 1:
        return _keep_workers(settings, options.processes)
    return _be_worker(settings)


def _be_worker(settings: Settings) -> NoReturn:
    # It patches the standard library before anything else is imported, so it can't be called here.
    arguments = {
        "--processes": 1,
        "--threads": settings.concurrency,
        "--worker-shutdown-timeout": 1000 * THREADS_END_S,
    }
    if warning := raise_file_limit(files_for(settings.concurrency)):
        sys.stderr.write(f"orchestrator: {warning}\n")
    flat = [str(part) for pair in arguments.items() for part in pair]
    sys.stdout.flush()
    command = _script("dramatiq-gevent")
    os.execv(command, [command, "orchestrator.worker", *flat])


def _script(name: str) -> str:
    """Return a command of a package that this one needs. Raises ConfigError."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ConfigError(f"{name} is not installed. Install this package with what it needs.")
    return found


def _run_scaled(options: Options) -> int:
    environ = config.environment()
    with contextlib.ExitStack() as stack:
        is_given = bool(environ.get("REDIS_URL", "").strip())
        redis: Sequence[str] = ()
        if not is_given:
            environ["REDIS_URL"], redis = stack.enter_context(scaled.redis())
        environ.setdefault("WEB_CONCURRENCY", str(scaled.WEB_PROCESSES))
        settings = config.load(environ)
        if is_given:
            check_redis(settings)
        _check_address(settings)
        service = scaled.Scaled(settings, environ, redis)
        return service.run(_server(), WORKER, greeting.text(settings, "make run-scaled"))


def _configuration_file() -> Path:
    here = Path(__file__).resolve().parent
    packaged = here / "gunicorn.conf.py"
    return packaged if packaged.exists() else here.parent / "gunicorn.conf.py"


def _check_address(settings: Settings) -> None:
    if reason := listening.fault(settings.host, settings.port):
        raise ConfigError(reason)
