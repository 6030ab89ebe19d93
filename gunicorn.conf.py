"""How gunicorn serves this: settings only, each with its reason."""

import contextlib
import sys

from gunicorn import systemd

from orchestrator import greeting, listening, logs, tls
from orchestrator.config import environment, load
from orchestrator.errors import ConfigError
from orchestrator.server import files_for, raise_file_limit

try:
    settings = load()
except ConfigError as error:
    sys.exit(f"orchestrator: {error}")

# Before anything is logged, and in every worker, which is a fork of this.
logs.guard(settings.secrets, settings.log_messages)

wsgi_app = "app:app"
bind = f"{settings.url_host}:{settings.port}"

# One kind of worker: gevent, with the deadlines and the drain that gunicorn's own lacks.
worker_class = "orchestrator.server.Worker"
workers = settings.workers
worker_connections = settings.max_connections

# The gevent worker patches the standard library and then loads the app: a lock made before
# that would block the whole loop.
preload_app = False

# How long a connection is kept between requests; the worker has its own time for a head.
keepalive = settings.keepalive_s

# A loop that hangs for this long is killed and started anew. It is no limit on requests.
timeout = 30
graceful_timeout = settings.graceful_timeout_s

# Replacing a worker cuts its streams, all of them where it is the only one.
max_requests = 0

# A line per request costs a third of a request, and its query strings may hold tokens.
accesslog = None
# Where one is asked for with --access-logfile: no query, and nothing that clients say at will.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(B)s bytes %(M)s ms'
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


def ssl_context(config, default):  # type: ignore[no-untyped-def]
    """Speak no TLS older than 1.2, whatever the system's own settings allow."""
    context = default()
    context.minimum_version = tls.LEAST
    return context


def on_starting(server):  # type: ignore[no-untyped-def]
    """Refuse what can't work, before any process is started that would fail again and again."""
    reason = unworkable(server.cfg) or unreachable(server)
    if reason:
        sys.exit(f"orchestrator: {reason}")
    files = server.cfg.worker_connections + files_for(settings.concurrency)
    if warning := raise_file_limit(files):
        server.log.warning("%s", warning)


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """Greet where that is asked for, once: when the first worker has loaded the app."""
    if worker.age == 1 and greeting.is_asked(environment()):
        with contextlib.suppress(OSError):
            print(greeting.text(settings), end="", flush=True)


def pre_request(worker, req):  # type: ignore[no-untyped-def]
    """Log nothing for a request: by default its path is, for debugging."""


def when_ready(server):  # type: ignore[no-untyped-def]
    """Without Redis, refuse the signals that start another process beside the one that serves."""
    if not settings.redis_url:
        server.handle_hup = server.handle_usr2 = server.handle_ttin = lambda: server.log.warning(
            "HUP, USR2 and TTIN start a process beside this one, and the memory store lives in one "
            "alone: ignored. Stop the server and start it again, or set REDIS_URL."
        )


def unworkable(cfg):  # type: ignore[no-untyped-def]
    """Return what is wrong with the settings, those of the command line included, or None."""
    if cfg.workers > 1 and not settings.redis_url:
        return (
            f"{cfg.workers} workers asked for, but the memory store lives in one process. Start "
            "with one worker, or set REDIS_URL."
        )
    if cfg.preload_app:
        return "--preload loads the app before gevent is in place. Leave it out."
    if cfg.worker_class_str != worker_class:
        return f"Only the worker class {worker_class} serves this. Leave --worker-class out."
    return tls.fault(cfg.certfile, cfg.keyfile) if cfg.is_ssl else None


def unreachable(server):  # type: ignore[no-untyped-def]
    """Return why an address can't be listened on, or None. gunicorn itself tries for 5 seconds."""
    addresses = server.cfg.address
    # Sockets that are open already are handed down by the master before this one, or by systemd.
    is_handed_down = server.master_pid or systemd.listen_fds(unset_environment=False)
    if is_handed_down or server.cfg.reuse_port or any(isinstance(one, int) for one in addresses):
        return None
    own = (settings.host, settings.port)
    ports = [tuple(one[:2]) for one in addresses if not isinstance(one, str)]
    found = (listening.fault(*one, by_bind=one != own) for one in ports)
    return next(filter(None, found), None)
