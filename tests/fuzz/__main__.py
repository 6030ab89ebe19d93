"""The long form, bounded to ten minutes: ``python -m tests.fuzz [--seed N]``."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import openapi, sockets
from tests.fuzz.lives import LIVES, live
from tests.served import serve

OPENAPI_S = 380.0
EXAMPLES = 300
CASES = 20_000
LIVES_EACH = 400
RANDOM_SOCKETS = 1_000


def documented(seed: int, cases: int, folder: Path) -> Iterator[str]:
    """Call what the document tells of until there were enough cases; yield what is found."""
    done, deadline = 0, time.monotonic() + OPENAPI_S
    while done < cases:
        for kind in openapi.KINDS:
            place = folder / f"{kind}-{seed}"
            place.mkdir()
            # A crowded server is slow by its making, and needs fewer.
            examples = EXAMPLES // 6 if kind == "crowded" else EXAMPLES
            with openapi.serving(kind, place) as target:
                left = deadline - time.monotonic()
                verdict = openapi.judge(target, seed, examples, place, max(left, 60.0))
            done += verdict.cases
            print(f"  {kind}, seed {seed}: {verdict.cases} cases", flush=True)
            if verdict.found:
                yield verdict.found
        seed += 1
        if time.monotonic() > deadline and done < cases:
            yield f"Only {done} of {cases} cases were done in {OPENAPI_S:g} s."
            return
    print(f"OpenAPI: {done} cases")


def lived(seed: int) -> Iterator[str]:
    """Live the life of requests over each store; yield what is found."""
    for kind in LIVES:
        try:
            print(f"Life of requests, {kind}: {live(kind, seed, LIVES_EACH)} steps", flush=True)
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            yield "\n".join([f"{kind}: {error!r}", *notes])


def framed(seed: int) -> Iterator[str]:
    """Replay the cases of WebSocket; yield what is found."""
    with serve() as server:
        sent, failed = sockets.judge(server.port, seed, RANDOM_SOCKETS)
        print(f"WebSocket: {sent} cases, {len(failed)} failed", flush=True)
        yield from failed
        if "Traceback" in server.log:
            yield server.log


def main() -> int:
    """Run all three, print what they have shown, and return 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--cases", type=int, default=CASES, help="how many calls are made at least")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"seed {options.seed}, files in {folder}", flush=True)
    found = [
        *lived(options.seed),
        *framed(options.seed),
        *documented(options.seed, options.cases, folder),
    ]
    print("\n\n".join(found) or "Nothing was found.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
