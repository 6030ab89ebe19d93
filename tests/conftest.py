"""Fixtures shared by all tests: above all, the service as it is deployed."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.served import Served, serve


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """One gunicorn with default settings, shared by tests that change nothing for others."""
    with serve() as served:
        yield served


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    """A function that starts a gunicorn with the given environment; it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **environ: stack.enter_context(serve(**environ))
