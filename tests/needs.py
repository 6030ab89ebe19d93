"""What a test needs from the machine: without it CI fails, and elsewhere the test is skipped."""

import os
import shutil
from importlib.util import find_spec
from typing import NoReturn

import pytest


def needs(command: str) -> str:
    """Return the path of ``command``; skip the test without it, or fail where CI is set."""
    return shutil.which(command) or lacking(f"{command} is not installed.")


def needs_module(name: str) -> None:
    """Skip the test without the package ``name``, or fail where CI is set."""
    if find_spec(name) is None:
        lacking(f"The package {name} is not installed.")


def lacking(sentence: str) -> NoReturn:
    """Skip the test with ``sentence``, or fail with it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{sentence} CI runs every test, so .ci/run has to provide it.")
    pytest.skip(sentence)
