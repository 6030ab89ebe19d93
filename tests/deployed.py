"""What the files in deploy/ have in common: where they are, and what the service says of itself."""

import os
import re
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from orchestrator.settings import Settings
from tests.dockerfile import stages, variables
from tests.served import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

GRACEFUL_S = Settings().graceful_timeout_s
SPARE_S = 5
"""What a platform has to leave beyond the drain, for the process to go."""
IMAGE = variables(stages()[-1])
WORKER = ["orchestrator", "worker"]
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD")


def documents(path: Path) -> list[Any]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def known_settings() -> set[str]:
    """The names of all variables that the service reads."""
    return {item.metadata["variable"] for item in fields(Settings)}


def assert_tells_signs(command: list[str], path: str, folder: Path) -> None:
    """Hold that a probe passes where the file at ``path`` was touched in the last minute."""
    sign = folder / "sign"
    asked = [word.replace(path, str(sign)) for word in command]
    assert asked != command

    def passes() -> bool:
        return subprocess.run(asked, stderr=subprocess.DEVNULL, check=False).returncode == 0

    assert not passes()
    sign.touch()
    assert passes()
    os.utime(sign, (0, time.time() - 61))
    assert not passes()


def seconds(text: str) -> int:
    """A duration such as ``40s``."""
    assert text.endswith("s"), text
    return int(text[:-1])
