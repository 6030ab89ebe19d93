"""A model whose answers are as large as one likes."""

import time
from collections.abc import Iterator


def pieces(prompt: str) -> Iterator[str]:
    """Yield pieces, as the prompt says: how many, of how many bytes, after which delay each."""
    count, size, delay = [*map(float, prompt.split()), 0.0][:3]
    for number in range(int(count)):
        if delay:
            time.sleep(delay)
        yield f"{number:08d}".ljust(int(size), ".")
