"""The port to whoever runs requests."""

from typing import Protocol

from orchestrator.job import Job, Priority
from orchestrator.routing.base import Route

PATIENCE_S = 20.0
"""After this long a request takes turns with higher priorities, so that none waits for ever."""


class Dispatcher(Protocol):
    """Takes jobs whose turn it is and has each run once."""

    def start(self) -> None:
        """Begin to run jobs."""
        ...

    def check(self, model: str | None = None) -> None:
        """Raise PipelineUnavailable while nothing would run a job, or a job of ``model``."""
        ...

    def put(self, job: Job) -> None:
        """Queue a job by its priority. It never refuses: the store has limited how many there are.

        A job that can't be queued now is handed out again by a sweep of the store.
        """
        ...

    def run(self, job_id: str, route: Route) -> None:
        """Run a job here and now, in the caller's thread, with a route that waits for nothing."""
        ...

    def cancel(self, job_id: str) -> None:
        """Drop a job that waits here, or stop it where it runs. Unknown ids are ignored."""
        ...

    def position(self, job_id: str, priority: Priority) -> int:
        """Return how many waiting jobs are ahead of this one."""
        ...

    def stop_all(self) -> None:
        """Stop all that runs here as failed, because the process is about to end."""
        ...
