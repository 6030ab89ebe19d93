"""How a worker ends what it serves."""

from types import SimpleNamespace
from typing import NoReturn

import pytest

from orchestrator.server import TELL_S, Worker


def test_streams_and_sockets_are_told_of_the_end_whatever_becomes_of_the_drain() -> None:
    def drain(timeout: float) -> NoReturn:
        raise MemoryError

    told: list[float] = []
    doors = SimpleNamespace(
        service=SimpleNamespace(drain=drain), connections=SimpleNamespace(finish=told.append)
    )
    worker = SimpleNamespace(cfg=SimpleNamespace(graceful_timeout=30), _leaves_at=None)
    with pytest.raises(MemoryError):
        Worker._end_requests(worker, doors)
    assert told == [TELL_S]
