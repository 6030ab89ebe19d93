"""Server-sent events: a request's log as a stream that can be resumed anywhere."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, request

from orchestrator import wire
from orchestrator.errors import OrchestratorError
from orchestrator.service import BATCH, Service
from orchestrator.web.connections import LOOK_S, Connections, client_socket, is_gone
from orchestrator.web.json_io import PIECE, ApiResponse

logger = logging.getLogger("orchestrator")

PING_EVERY = 2
"""Looks at the log without a new event between two pings: 5 seconds."""


def stream(
    service: Service,
    connections: Connections,
    job_id: str,
    after: int,
    tenant: str,
    may_stay: Callable[[], bool],
) -> Response:
    """Answer with the events of a tenant's request after a cursor.

    Nothing is read before the answer has begun, and what is out of reach then is waited for. It
    ends without an end of the request where the reader ``may_stay`` no longer.
    """
    frames = _frames(service, connections, job_id, after, tenant, request.environ, may_stay)
    response = ApiResponse(frames, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _frames(
    service: Service,
    connections: Connections,
    job_id: str,
    after: int,
    tenant: str,
    environ: dict[str, Any],
    may_stay: Callable[[], bool],
) -> Iterator[bytes]:
    sock = client_socket(environ)
    silent = 0
    try:
        with connections.opened(is_busy=lambda: True, close=lambda: None):
            yield wire.SSE_RETRY
            for page in service.follow(job_id, after, LOOK_S, tenant):
                if not may_stay():
                    return
                if page and page.events:
                    silent = 0
                    yield from _chunks(wire.sse(seq, event, job_id) for seq, event in page.events)
                    if len(page.events) == BATCH:
                        # A long log is read without ever waiting: others have their turn.
                        time.sleep(0)
                    if connections.is_finished and not page.job.status.is_terminal:
                        # It goes on in another process, and so may its readers.
                        return
                    continue
                silent += 1
                if connections.is_finished or is_gone(sock):
                    return
                if silent % PING_EVERY == 0:
                    yield wire.SSE_PING
    except (OSError, OrchestratorError):
        # The reader left, or the request was deleted: who comes back is told so.
        return
    except Exception:
        logger.exception("the stream of request %s broke", job_id)


def _chunks(frames: Iterator[bytes]) -> Iterator[bytes]:
    buffer: list[bytes] = []
    size = 0
    for frame in frames:
        if buffer and size + len(frame) > PIECE:
            yield b"".join(buffer)
            buffer, size = [], 0
        buffer.append(frame)
        size += len(frame)
    yield b"".join(buffer)
