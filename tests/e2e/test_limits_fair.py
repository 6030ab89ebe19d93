"""One caller that calls far past its limit costs the others nothing."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.e2e import load_client
from tests.e2e.callers import SECRET, Caller, somebody
from tests.e2e.load_client import ask, connected, gather
from tests.served import Served

GOOD = 49
LIMIT = 5
"""Calls a second."""
PACE = 2
"""Calls a second of who behaves."""
NOISE = 20 * LIMIT
SECONDS = 4
SOON_S = 5.0
"""An answer that takes longer is none."""


@dataclass
class Tally:
    """How the calls of some went."""

    taken: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)


async def call_on(port: int, caller: Caller, rate: float, tally: Tally) -> None:
    """Submit ``rate`` times a second over one connection, whatever becomes of it."""
    async with connected(port) as connection:
        began = time.monotonic()
        for number in range(round(rate * SECONDS)):
            await asyncio.sleep(began + number / rate - time.monotonic())
            try:
                async with asyncio.timeout(SOON_S):
                    body = {"prompt": "x"}
                    answer = await ask(connection, "POST", "/api/v1/infer", json=body, **caller)
                    await answer.read()
            except (OSError, EOFError, TimeoutError) as error:
                tally.failed.append(repr(error))
                return
            tally.taken += answer.status == 200
            tally.refused += answer.status == 429
            if answer.status not in (200, 429):
                tally.failed.append(answer.body.decode())


def test_49_callers_get_their_answers_beside_one_at_20_times_its_limit(
    serving: Callable[..., Served],
) -> None:
    server = serving(ORCHESTRATOR_JWT_SECRET=SECRET, ORCHESTRATOR_RATE_LIMIT=f"{LIMIT}/second")
    good, noisy, culprit, lines = Tally(), Tally(), somebody(), 10

    async def main() -> None:
        await gather(
            [call_on(server.port, somebody(), PACE, good) for _ in range(GOOD)]
            + [call_on(server.port, culprit, NOISE / lines, noisy) for _ in range(lines)]
        )

    began = time.monotonic()
    load_client.run(main())
    took = time.monotonic() - began
    assert good.taken >= 0.99 * GOOD * PACE * SECONDS, good
    assert not noisy.failed
    assert noisy.refused > noisy.taken
    assert LIMIT * (SECONDS - 1) <= noisy.taken <= LIMIT * math.ceil(took + 1)
