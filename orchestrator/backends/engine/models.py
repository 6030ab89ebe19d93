"""Which file a model's name means, and how it comes to this machine."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.backends.engine.download import cannot_write, download
from orchestrator.backends.engine.gguf import MAGIC
from orchestrator.backends.engine.tiny_llama import demo_model
from orchestrator.errors import ConfigError, UpstreamError

Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model hub. Without ``sha256``, the one that the hub says is checked."""

    repository: str
    path: str
    sha256: str | None = None


NAMES = {
    "small": HubFile("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_k_m.gguf"),
}
"""The models that have a short name, beside ``demo``."""

# No part of a path is empty or begins with a dot: it can't lead out of the folder of models.
_PART = r"[\w-][\w.-]*"
_HUB_NAME = re.compile(rf"hf:(?P<repository>{_PART}/{_PART})/(?P<path>{_PART}(?:/{_PART})*\.gguf)")


class ModelSource(Protocol):
    """Where a model's file comes from."""

    def fetch(self, cancelled: Cancelled) -> Path:
        """Return the file, brought here first where need be.

        Raises UpstreamError, also once ``cancelled`` returns true.
        """
        ...


def model_source(name: str, cache: Path, hub_url: str, where: str) -> ModelSource:
    """Return the source of ``demo``, of a name in NAMES, of ``hf:owner/repo/file.gguf``, or of a
    file by its path. Raises ConfigError, which says ``where``, where it's none of these.
    """
    if name == "demo":
        return _Demo(cache)
    if name in NAMES:
        return _Downloaded(NAMES[name], cache, hub_url)
    if name.startswith("hf:"):
        match = _HUB_NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"{where}: {name!r} is not of the form hf:owner/repo/file.gguf.")
        return _Downloaded(HubFile(**match.groupdict()), cache, hub_url)
    path = Path(name).expanduser()
    if fault := _fault(path):
        known = ", ".join(["demo", *NAMES])
        raise ConfigError(
            f"{where}: {fault}; give the path of a GGUF file, {known} or hf:owner/repo/file.gguf."
        )
    return _Local(path.resolve())


def _fault(path: Path) -> str | None:
    """Return what is wrong with a file as a model, or None."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        return f"{path} can't be read ({(error.strerror or 'no file').lower()})"
    return None if start == MAGIC else f"{path} is not a GGUF file"


@dataclass(frozen=True, slots=True)
class _Local:
    path: Path

    def fetch(self, cancelled: Cancelled) -> Path:
        if fault := _fault(self.path):
            fault = fault.replace(str(self.path), self.path.name)
            raise UpstreamError(f"The local model can't be loaded: {fault}.")
        return self.path


@dataclass(frozen=True, slots=True)
class _Demo:
    cache: Path

    def fetch(self, cancelled: Cancelled) -> Path:
        path = self.cache / "demo.gguf"
        part = path.with_name(f"demo.{os.getpid()}.part")
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            # Written anew each time: it takes milliseconds, and is never one of another version.
            demo_model().write(part)
            part.replace(path)
        except OSError as error:
            raise cannot_write(self.cache, error) from error
        return path


@dataclass(frozen=True, slots=True)
class _Downloaded:
    file: HubFile
    cache: Path
    hub_url: str

    def fetch(self, cancelled: Cancelled) -> Path:
        target = self.cache / self.file.repository / self.file.path
        if not target.is_file():
            url = f"{self.hub_url}/{self.file.repository}/resolve/main/{self.file.path}"
            download(url, target, self.file.sha256, cancelled)
        return target
