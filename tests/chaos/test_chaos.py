"""The short form of `make chaos`: whatever dies, stops or starts anew, no promise is broken."""

from pathlib import Path

from tests.chaos.harms import Scale
from tests.chaos.run import Plan, run
from tests.needs import needs

SHORT = Plan(
    seed=1,
    requests=100,
    clients=24,
    scale=Scale(duration=12.0, gap=(0.5, 1.5), pause=(0.5, 6.0), outage=(0.3, 2.0)),
    lease_s=5.0,
    settle_s=60.0,
)


def test_whatever_dies_every_request_ends_once_and_whole(tmp_path: Path) -> None:
    needs("redis-server")
    verdict = run(SHORT, tmp_path)
    assert not verdict.offences, str(verdict)
    assert verdict.harms.total() >= 5
    assert verdict.harms["redis pause"]
