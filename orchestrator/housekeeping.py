"""The housekeeping: what waited too long, was lost, or is past its retention is looked for."""

import logging
import threading
import time

from orchestrator.dispatch.base import Dispatcher
from orchestrator.errors import PipelineUnavailable
from orchestrator.stores.base import Store

logger = logging.getLogger("orchestrator")

SWEEP_S = 0.5
"""How often, where one process does it for itself alone."""


class Housekeeping:
    """Sweeps the store every ``sweep_s`` seconds, and tells the dispatcher what came of it."""

    def __init__(self, store: Store, dispatcher: Dispatcher, sweep_s: float = SWEEP_S) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._sweep_s = sweep_s

    def start(self) -> None:
        """Sweep from now on, beside all else. To be called once."""
        threading.Thread(target=self._keep_on, name="housekeeping", daemon=True).start()

    def _keep_on(self) -> None:
        while True:
            time.sleep(self._sweep_s)
            try:
                self._sweep()
            except PipelineUnavailable as error:
                logger.debug("the housekeeping waits: %s", error.message)
            except Exception:
                logger.exception("the housekeeping failed; it goes on")

    def _sweep(self) -> None:
        for change in self._store.sweep():
            if change.changed:
                self._dispatcher.cancel(change.job.id)
            for job in change.ready:
                self._dispatcher.put(job)
