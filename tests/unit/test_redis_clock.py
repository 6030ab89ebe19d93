"""Redis's time as a process knows it."""

import time

from orchestrator.stores.redis.clock import ASK_EVERY_S, Clock


class Asked:
    """A clock of Redis that is an hour ahead, and how often it was asked."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.times = 0
        self._takes_s = takes_s

    def __call__(self) -> tuple[int, int]:
        self.times += 1
        now = time.time() + 3600
        time.sleep(self._takes_s)
        return int(now), int(now % 1 * 1_000_000)


def test_it_asks_once_in_a_while_and_at_once_where_it_is_in_doubt() -> None:
    asked = Asked()
    clock = Clock(asked)
    began = time.monotonic()
    first, second = clock.now(), clock.now()
    assert first <= second <= time.time() + 3600
    assert asked.times == 1 or time.monotonic() - began > ASK_EVERY_S
    before = asked.times
    clock.doubt()
    clock.now()
    assert asked.times == before + 1


def test_it_is_never_ahead_however_long_the_answer_took() -> None:
    clock = Clock(Asked(takes_s=0.05))
    assert clock.now() <= time.time() + 3600 - 0.05
