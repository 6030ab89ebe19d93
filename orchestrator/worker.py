"""What ``dramatiq-gevent orchestrator.worker`` runs: a process that answers what web ones took."""

import sys

import dramatiq

from orchestrator.bootstrap import build_worker
from orchestrator.config import load
from orchestrator.errors import ConfigError

try:
    dramatiq.set_broker(build_worker(load()))
except ConfigError as error:
    sys.exit(f"orchestrator: {error}")
