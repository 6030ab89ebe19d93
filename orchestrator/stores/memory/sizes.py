"""How many bytes the memory store counts for a request."""

import sys

from orchestrator.job import GenerateRequest

JOB_BYTES = 1_070
"""What a request costs beside its texts, in bytes: measured (benchmarks/memory.py)."""


def request_bytes(request: GenerateRequest) -> int:
    """Return what a request costs when it is admitted."""
    size = JOB_BYTES + sum(map(sys.getsizeof, (request.prompt, request.system, *request.stop)))
    if request.tenant:
        size += 2 * sys.getsizeof(request.session)
    for name, value in request.metadata.items():
        size += sys.getsizeof(name) + sys.getsizeof(value) + 50
    return size
