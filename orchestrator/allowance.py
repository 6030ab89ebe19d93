"""What a caller may have: requests at once, and tokens a day."""

from typing import NamedTuple

DAY_S = 86_400
"""A day of tokens, which begins at midnight, UTC."""
TOKEN_BYTES = 4
"""What is taken for a token where nobody has counted: so many bytes of text."""


def tokens_of(size: int) -> int:
    """Return how many tokens so many bytes of text are taken for."""
    return -(-size // TOKEN_BYTES)


class Budget(NamedTuple):
    """Tokens that may be used on a day, and by what name what is used is kept.

    ``model`` is the one that they are for; None for all.
    """

    name: str
    limit: int
    model: str | None = None


class Allowance(NamedTuple):
    """What the caller of a request may have, to be taken in one step with the submit.

    The end of the request gives it back, however it ends. ``live`` is how many requests ``account``
    may have pending or running at once, 0 for any number. ``input_tokens`` and ``answer_tokens``
    are what the request may cost beside its history.
    """

    account: str
    live: int = 0
    budgets: tuple[Budget, ...] = ()
    input_tokens: int = 0
    answer_tokens: int = 0

    def reserve(self, history_bytes: int) -> int:
        """Return how many tokens are to be reserved."""
        return self.input_tokens + tokens_of(history_bytes) + self.answer_tokens
