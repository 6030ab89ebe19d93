"""A model callable that fails with what it was asked, in a process whose every logger says all."""

import logging
import sys

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
logger = logging.getLogger("somebody.elses")


def answer(prompt: str) -> str:
    """Say the prompt back, or fail over it, as code that one doesn't know may."""
    logger.debug("asked")
    if prompt.startswith("fails"):
        try:
            raise KeyError(prompt)
        except KeyError as error:
            raise ValueError(f"{prompt}\n2026-01-01 CRITICAL forged") from error
    return prompt
