"""A long chaos run, bounded to ten minutes: ``python -m tests.chaos [--seed N]``."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.harms import Scale
from tests.chaos.run import KEEPING_ALL, Plan, run

EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


def main() -> int:
    """Do the run, print what it has shown, and return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=400.0, help="how long harm is done")
    parser.add_argument(
        "--everysec", action="store_true", help="have Redis sync its file once a second only"
    )
    options = parser.parse_args()
    scale = Scale(options.seconds, gap=(1.0, 4.0), pause=(0.5, 12.0), outage=(0.5, 20.0))
    plan = Plan(
        options.seed,
        options.requests,
        clients=48,
        scale=scale,
        lease_s=5.0,
        settle_s=60.0,
        redis_options=EVERYSEC if options.everysec else KEEPING_ALL,
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {plan.seed}, files in {folder}", flush=True)
    verdict = run(plan, folder)
    print(verdict)
    return 1 if verdict.offences else 0


if __name__ == "__main__":
    sys.exit(main())
