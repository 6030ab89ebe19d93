"""The Dockerfile, read line by line."""

import json
import re
from dataclasses import dataclass, field

from tests.served import ROOT

INSTRUCTIONS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)


@dataclass
class Stage:
    """One FROM and what follows it, as (instruction, rest of the line)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]


def stages() -> list[Stage]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    found: list[Stage] = []
    for line in filter(None, lines):
        instruction, _, rest = line.partition(" ")
        assert instruction in INSTRUCTIONS, f"{instruction} is no instruction of a Dockerfile."
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].steps.append((instruction, rest.strip()))
    return found


def exec_form(rest: str) -> list[str]:
    """The words of an exec form, which starts no shell. Raises ValueError for anything else."""
    words = json.loads(rest)
    assert isinstance(words, list)
    assert all(isinstance(word, str) for word in words)
    return words


def variables(stage: Stage) -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in stage.all("ENV") for pair in rest.split())
