"""How gunicorn serves this: settings only, each with its reason."""

import sys

from orchestrator.config import load
from orchestrator.errors import ConfigError
from orchestrator.server import ssl_context  # noqa: F401  (a setting by its name)

try:
    settings = load()
except ConfigError as error:
    sys.exit(f"orchestrator: {error}")

wsgi_app = "app:app"
bind = f"{settings.host}:{settings.port}"

# One kind of worker: gevent, with the deadlines and the drain that gunicorn's own lacks.
worker_class = "orchestrator.server.Worker"
workers = settings.workers
worker_connections = settings.max_connections

# The gevent worker patches the standard library and then loads the app: a lock made before
# that would block the whole loop.
preload_app = False

# How long an idle connection is kept, and how long a request's head may take.
keepalive = 5

# A loop that hangs for this long is killed and started anew. It is no limit on requests.
timeout = 30
graceful_timeout = settings.graceful_timeout_s

# Replacing the only worker would cut every stream.
max_requests = 0

# A line per request costs a third of a request, and its query strings may hold tokens.
accesslog = None
errorlog = "-"
loglevel = "info"

# A socket in the home directory that can reconfigure the server; nobody here uses it.
control_socket_disable = True

# Heads of ordinary size: an attacker's cost nothing to refuse.
limit_request_line = 8190
limit_request_fields = 64

# Heartbeats as a file: in memory where the system has such a place, since a slow disk would
# make the worker look hung.
worker_tmp_dir = "/dev/shm" if sys.platform == "linux" else None

certfile = settings.tls_cert
keyfile = settings.tls_key


def on_starting(server):  # type: ignore[no-untyped-def]
    """Refuse what the command line may have set and the memory store can't bear."""
    if server.cfg.workers > 1:
        sys.exit(
            f"orchestrator: {server.cfg.workers} workers asked for, but the memory store lives in "
            "one process. Start with one worker."
        )
    if server.cfg.preload_app:
        sys.exit("orchestrator: --preload loads the app before gevent is in place. Leave it out.")
