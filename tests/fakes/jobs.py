"""Requests as stores and dispatchers get them."""

import time
from collections.abc import Callable
from typing import Any, Protocol
from uuid import uuid4

from orchestrator.ids import new_id
from orchestrator.job import Job, Priority
from tests.fakes.asking import a_request


def a_job(prompt: str = "hello", clock: Callable[[], float] = time.time, **fields: Any) -> Job:
    """Return a new pending job, in a session of its own unless ``fields`` names one."""
    fields.setdefault("session_id", str(uuid4()))
    return Job(id=new_id(), request=a_request(prompt, **fields), created_at=clock())


def as_listed(job: Job) -> Job:
    """Return a job as lists may show it: without what it asks."""
    return job._replace(request=job.request._replace(prompt="", system=None))


def as_read(job: Job, complete: bool) -> Job:
    """Return a job as it goes with a page of its log."""
    return as_listed(job) if complete else as_listed(job)._replace(result=None)


class _Queue(Protocol):
    def position(self, job_id: str, priority: Priority) -> int: ...


def position(queue: _Queue, job: Job) -> int:
    """Return how many are ahead of a job."""
    return queue.position(job.id, job.request.priority)
