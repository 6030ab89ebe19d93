"""What the memory store needs for a short request, and what a submit costs with many of them.

    python -m benchmarks.memory [--stored 1000 100000 1000000] [--tokens 8] [--tenants]

Each size is measured in a process of its own: requests without a session of their own go through
the store as a client's would, and the process's resident memory tells what they hold. "counted" is
what the store believes, on which its limit rests; it should be near "held", and not below it.
"""

import argparse
import gc
import multiprocessing
import os
import statistics
import time
from pathlib import Path

from orchestrator.events import Completed, FinishReason, Token, Usage
from orchestrator.ids import new_id
from orchestrator.job import Job
from orchestrator.schemas import SubmitReader
from orchestrator.server import GC_THRESHOLD
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.strict_json import parse_object

READER = SubmitReader(["echo"], timeout_s=300.0, queue_timeout_s=3600.0)
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE = 2_000


def resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def a_job(number: int, tenant: str = "") -> Job:
    request = READER.read(parse_object(b'{"prompt": "What is the answer to %d?"}' % number))
    request = request._replace(tenant=tenant)
    return Job(id=new_id(), request=request, created_at=time.time())


def store_one(store: MemoryStore, number: int, tokens: int, has_tenant: bool) -> None:
    """Store a request that has run to its end, perhaps of a tenant who has no other."""
    job = a_job(number, f"tenant-{number}" if has_tenant else "")
    store.submit(job)
    store.claim(job.id, "echo")
    for chunk in range(tokens):
        store.append(job.id, Token(chunk, f"{number + chunk:x} "))
    store.finish(job.id, Completed(FinishReason.STOP, Usage(6, tokens)))


def submit_us(store: MemoryStore) -> tuple[float, float]:
    """Return the median and the longest time of a submit, in microseconds."""
    times = []
    for number in range(SAMPLE):
        job = a_job(number)
        began = time.perf_counter()
        store.submit(job)
        times.append((time.perf_counter() - began) * 1e6)
        store.cancel(job.id)
    return statistics.median(times), max(times)


def measure(stored: int, tokens: int, has_tenants: bool) -> str:
    """Return a line of the table."""
    store = MemoryStore(queue_limit=10**9, retention_s=86_400.0, memory_limit=10**15)
    for number in range(SAMPLE):
        store_one(store, number, tokens, has_tenants)
    gc.collect()
    # As the server does: what was there before is not looked at again, and the rest seldom.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    memory, counted = resident(), store.size
    for number in range(SAMPLE, SAMPLE + stored):
        store_one(store, number, tokens, has_tenants)
    began = time.perf_counter()
    gc.collect()
    pause_ms = (time.perf_counter() - began) * 1e3
    objects = len(gc.get_objects()) / stored
    held = (resident() - memory) / stored
    believed = (store.size - counted) / stored
    median, longest = submit_us(store)
    return (
        f"{stored:>9,} {held:>7,.0f} {believed:>8,.0f} {believed / held:>6.2f} {median:>10.1f} "
        f"{longest:>11.0f} {objects:>8.1f} {pause_ms:>12.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stored", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--tokens", type=int, default=8, help="tokens of each answer")
    parser.add_argument("--tenants", action="store_true", help="each of a tenant of its own")
    arguments = parser.parse_args()
    print("          bytes a request         submit, in us         collector")
    print("   stored    held  counted  ratio     median     longest  objects  pause, in ms")
    for stored in arguments.stored:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            print(process.apply(measure, (stored, arguments.tokens, arguments.tenants)), flush=True)


if __name__ == "__main__":
    main()
