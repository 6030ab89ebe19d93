"""Which connections to a provider are kept, and which are closed."""

import os
import socket
from collections.abc import Iterator

import pytest
from urllib3.connection import HTTPConnection

from orchestrator.backends.kept import Connection, KeptConnections
from orchestrator.backends.native import NativeSocket
from orchestrator.backends.paced import Clock, PacedSocket


@pytest.fixture
def lines() -> Iterator[list[Connection]]:
    """Three connections, whose other ends say nothing."""
    ends, lines = [], []
    for _ in range(3):
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        http = HTTPConnection("127.0.0.1")
        paced = PacedSocket(ours, Clock("connect", 1.0))
        handle = NativeSocket(fileno=os.dup(ours.fileno()))
        handle.setblocking(False)
        lines.append(Connection(http, paced, handle))
    yield lines
    for line in lines:
        line.close()
        line.paced.close()
    for end in ends:
        end.close()


def test_those_that_were_idle_too_long_are_closed_wherever_they_stand(
    lines: list[Connection],
) -> None:
    kept = KeptConnections(3)
    first, second, third = lines
    kept.keep(first)
    kept.keep(second)
    second.used_at -= 10.0

    kept.keep(third)

    assert [line.handle.fileno() == -1 for line in lines] == [False, True, False]
    assert kept.take() is third
    assert kept.take() is first
    assert kept.take() is None


def test_dropped_they_are_closed_and_others_may_be_kept(lines: list[Connection]) -> None:
    kept = KeptConnections(3)
    first, second, third = lines
    kept.keep(first)
    kept.keep(second)

    kept.drop()
    kept.keep(third)

    assert [line.handle.fileno() == -1 for line in lines] == [True, True, False]
    assert kept.take() is third
