"""A model that says its prompt back and holds in the middle until it is let go on.

A test says so by making a file, named after the session, in the folder that HELD_IN names.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def answer(prompt: str, session_id: str, stopped: Callable[[], bool]) -> Iterator[str]:
    """Yield half of the words, and after the hold the others."""
    go_on = Path(os.environ["HELD_IN"], session_id)
    words = prompt.split(" ")
    for place, word in enumerate(words):
        while place == len(words) // 2 and not go_on.exists() and not stopped():
            time.sleep(0.01)
        yield word if place == 0 else f" {word}"
