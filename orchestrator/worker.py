"""What ``dramatiq-gevent orchestrator.worker`` runs: the requests that web processes accepted."""

import os
import sys

import dramatiq

from orchestrator import logs
from orchestrator.bootstrap.worker import build_worker
from orchestrator.config import load
from orchestrator.errors import ConfigError

try:
    settings = load()
    logs.guard(settings.secrets, settings.log_messages)
    dramatiq.set_broker(build_worker(settings))
except ConfigError as error:
    sys.stderr.write(f"orchestrator: {error}\n")
    # Not the code of a worker that was killed: whoever starts those again has no use for this one.
    sys.exit(os.EX_CONFIG)
