"""What each caller may have, as the settings say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.rate import Rate


class ModelRules(NamedTuple):
    """What each caller may have of one model; an empty tuple and 0 are for any number."""

    rates: tuple[Rate, ...] = ()
    tokens_a_day: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What each caller may have; an empty tuple and 0 are for any number.

    ``answer_tokens`` is what an answer is expected to have at most where the request doesn't say.
    """

    rates: tuple[Rate, ...] = ()
    requests: int = 0
    streams: int = 0
    tokens_a_day: int = 0
    answer_tokens: int = 1024
    models: Mapping[str, ModelRules] = field(default_factory=dict)

    @property
    def has_any(self) -> bool:
        """Whether anything is limited."""
        own = (self.rates, self.requests, self.streams, self.tokens_a_day)
        return any(own) or any(map(any, self.models.values()))
