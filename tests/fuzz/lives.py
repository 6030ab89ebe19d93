"""Runs of the state machine over each store."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests import redis_server
from tests.fuzz.life import Life, MemoryLife, RedisLife

STEPS_A_LIFE = 60
LIVES: dict[str, type[Life]] = {"memory": MemoryLife, "redis": RedisLife}


def live(kind: str, seed_: int, lives: int) -> int:
    """Live so many lives over a store; return their steps. Raises what the first fault raises."""
    machine = LIVES[kind]
    machine.steps = 0
    limits = settings(
        max_examples=lives,
        stateful_step_count=STEPS_A_LIFE,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        if machine is RedisLife:
            with redis_server.running(Path(folder)) as RedisLife.server:
                run_state_machine_as_test(seed(seed_)(machine), settings=limits)
        else:
            run_state_machine_as_test(seed(seed_)(machine), settings=limits)
    return machine.steps


@contextmanager
def _quiet() -> Iterator[None]:
    """Have nothing logged: each drain says what it ended."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
