"""Every error can be told to several requests, each with a copy of its own."""

import copy
from collections.abc import Iterator

import pytest

from orchestrator.bootstrap import worker
from orchestrator.errors import OrchestratorError, UpstreamError
from orchestrator.routing.silence import Silence

assert worker, "it imports whatever has errors of its own"


def kinds(root: type[OrchestratorError]) -> Iterator[type[OrchestratorError]]:
    """Yield the whole tree."""
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


def hold_a_copy_is_the_same(error: OrchestratorError) -> None:
    made = copy.copy(error)
    assert made is not error
    assert type(made) is type(error)
    assert (made.message, made.details, str(made)) == (error.message, error.details, str(error))
    assert vars(made) == vars(error)


@pytest.mark.parametrize("kind", list(kinds(OrchestratorError)), ids=lambda kind: kind.__name__)
def test_a_copy_says_the_same(kind: type[OrchestratorError]) -> None:
    hold_a_copy_is_the_same(kind("Try again later.", stage="run"))


def test_so_does_one_of_a_silence() -> None:
    hold_a_copy_is_the_same(Silence.of(1.5))


def test_a_copy_has_no_traceback() -> None:
    try:
        raise UpstreamError("Try again later.")
    except UpstreamError as error:
        assert copy.copy(error).__traceback__ is None
