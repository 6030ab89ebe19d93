"""The memory store's pages of requests: found among many, and no larger than they may be."""

import sys
from collections.abc import Callable
from itertools import islice

from orchestrator.job import Job
from orchestrator.stores.base import LIST_BYTES, SCAN_LIMIT, Listing
from orchestrator.stores.memory.order import OrderedIds


def page(
    ids: OrderedIds[str], cursor: str | None, limit: int, find: Callable[[str], Job | None]
) -> Listing[Job]:
    """Return what ``find`` lets through of ``ids``, newest first, from before a cursor on."""
    found: list[Job] = []
    size = 0
    seen: str | None = None
    for seen in islice(ids.before(cursor or None), SCAN_LIMIT):
        job = find(seen)
        if job is None:
            continue
        found.append(job)
        size += sys.getsizeof(job.result)
        if len(found) == limit or size >= LIST_BYTES:
            break
    more = seen is not None and any(ids.before(seen))
    return Listing(found, seen if more else None)
