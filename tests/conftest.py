"""Fixtures shared by all tests, the service as it is deployed above all; and how tests spread."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from xdist.remote import Producer

from tests.served import Served, serve
from tests.spread import Spread, longest_first


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


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Spread:
    return Spread(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        longest_first(items)
