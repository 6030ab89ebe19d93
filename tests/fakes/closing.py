"""The end of an engine's process, which is begun at once and takes a while."""

from orchestrator.backends.engine.process import EngineProcess
from tests.fakes.asking import eventually

LONG_S = 60.0


def close(process: EngineProcess) -> None:
    """End it, and wait until nothing of it is left."""
    process.close()
    eventually(lambda: not process._supervisor.is_alive(), LONG_S)
