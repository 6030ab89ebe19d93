"""What the model says in a chaos run: each token tells whose it is, and its place.

A token names its request, the call of the model for it, what the model was told before, and its
number: a text that mixes requests, calls or conversations, or lacks a token, is known for it.
"""

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

Message = tuple[str, str]
"""Who speaks, and what is said."""

TOKEN = re.compile(r"(m\d+)-(\d+)-([0-9a-f]{8})-0é🎈 ")


@dataclass(frozen=True)
class Said:
    """One call's answer: the request's marker, the number of the call, and the conversation."""

    marker: str
    call: int
    conversation: str

    @property
    def tokens(self) -> list[str]:
        """All of its tokens."""
        count, _ = shape(self.marker)
        stem = f"{self.marker}-{self.call}-{self.conversation}"
        return [f"{stem}-{number}é🎈 " for number in range(count)]

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def shape(marker: str) -> tuple[int, float]:
    """Return how many tokens the answer to a request has, and the seconds before each."""
    chance = random.Random(marker)
    if chance.random() < 0.2:
        return chance.randint(60, 90), 0.05
    return chance.randint(3, 40), 0.02


def prompt_of(marker: str) -> str:
    """Return what a request asks."""
    return f"Say it, {marker}"


def marker_of(prompt: str) -> str:
    """Return the marker of the request that asks so."""
    return prompt.rpartition(" ")[2]


def digest(conversation: Sequence[Message]) -> str:
    """Return the mark of a conversation."""
    return f"{zlib.crc32(repr(list(conversation)).encode()):08x}"


def said_by(text: str) -> Said | None:
    """Return which call began to say this, or None for what no call says."""
    found = TOKEN.match(text)
    return Said(found[1], int(found[2]), found[3]) if found else None


def is_part(text: str, said: Said) -> bool:
    """Whether this is a call's answer up to the end of some token."""
    whole = said.text
    return whole.startswith(text) and text.endswith(" ")
