"""A provider that comes and goes, under load through every view, for as long as FLAPPING_S says.

FLAPPING_S=60 (make flapping) is the whole of it, and takes most of a processor for that minute.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from uuid import uuid4

import pytest

from tests.e2e.client import until
from tests.e2e.faults import ANSWER, SPARE, SPARE_FAULT
from tests.e2e.views import VIEWS, End, Refused
from tests.fakes.upstream import start_upstream
from tests.served import BUSY, Served, serve

LAST_S = float(os.environ.get("FLAPPING_S", "6"))
PERIOD_S = 0.4
CLIENTS = 6
DEADLINE_S = 5.0
TOLERANCE_S = BUSY * 1.0
LONGEST_OPEN_S = 60.0
"""How long a circuit breaker keeps a target closed off at most."""
REFUSED = "refused"
CODES = {"UPSTREAM_ERROR", "UPSTREAM_TRUNCATED", "UPSTREAM_TIMEOUT", "DEADLINE_EXCEEDED"}
FLAP = f"a/fault:flap/{PERIOD_S}/{LAST_S}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with ExitStack() as stack:
        primary, spare = (stack.enter_context(start_upstream()) for _ in range(2))
        path = tmp_path_factory.mktemp("routes") / "routes.toml"
        path.write_text(
            f'[backends.a]\nkind = "openai"\nbase_url = "{primary.url}"\n'
            f'[backends.b]\nkind = "openai"\nbase_url = "{spare.url}"\n'
            f'[models.default]\ntargets = ["{FLAP}/alone"]\n'
            f'[models.backed]\ntargets = ["{FLAP}/backed", "b/fault:{SPARE_FAULT}"]\n'
        )
        yield stack.enter_context(serve(ORCHESTRATOR_CONFIG=str(path)))


class Load:
    """Clients that ask for ``model`` through each view by turns, for as long as it flaps.

    ``ends`` counts what they got: texts of whole answers, codes of errors, and refused submits.
    """

    def __init__(self, served: Served, model: str) -> None:
        self._served = served
        self._model = model
        self._until = time.monotonic() + LAST_S
        self.ends: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._clients = [self._pool.submit(self._ask_on, number) for number in range(CLIENTS)]

    def join(self) -> "Load":
        """Wait for every client's last answer."""
        for client in self._clients:
            client.result(LAST_S + 2 * DEADLINE_S)
        self._pool.shutdown()
        return self

    def ask(self, see: Callable[..., End]) -> str:
        """Return what becomes of one request."""
        began = time.monotonic()
        try:
            end = see(self._served, str(uuid4()), model=self._model, timeout_s=DEADLINE_S)
        except Refused:
            return REFUSED
        assert time.monotonic() - began < DEADLINE_S + TOLERANCE_S
        return end.text or str(end.code)

    def _ask_on(self, number: int) -> None:
        views = islice(cycle(VIEWS.values()), number, None)
        while time.monotonic() < self._until:
            end = self.ask(next(views))
            self.ends[end] += 1
            if end == REFUSED:
                time.sleep(0.1)


@pytest.fixture(scope="module")
def loads(served: Served) -> tuple[Load, Load]:
    """What came of a target alone and of one with a spare, which flap beside one another."""
    alone, backed = Load(served, "default"), Load(served, "backed")
    return alone.join(), backed.join()


def test_with_one_target_each_request_is_a_whole_answer_or_a_clean_error(
    loads: tuple[Load, Load],
) -> None:
    ends = loads[0].ends
    assert ends.keys() <= {ANSWER, REFUSED, *CODES}
    assert ends[ANSWER] > 0


def test_with_one_target_all_is_well_again_once_it_stays_up(loads: tuple[Load, Load]) -> None:
    until(lambda: loads[0].ask(VIEWS["sse"]) == ANSWER, LONGEST_OPEN_S)
    assert [loads[0].ask(see) for see in VIEWS.values()] == [ANSWER] * 3


def test_with_two_targets_each_request_is_a_whole_answer(loads: tuple[Load, Load]) -> None:
    ends = loads[1].ends
    assert ends.keys() == {ANSWER, SPARE}
    assert sum(ends.values()) >= CLIENTS * LAST_S / BUSY
