"""The app as it is, and at /inside a view of what it holds: greenlets, files, open connections."""

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from greenlet import greenlet

from app import app as app

_wsgi = app.wsgi_app


def _inside(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/inside":
        return _wsgi(environ, start_response)
    gc.collect()
    greenlets = Counter(
        _place(item) for item in gc.get_objects() if isinstance(item, greenlet) and not item.dead
    )
    held = {
        "greenlets": greenlets,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "streams": len(app.extensions["orchestrator"].connections),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(held).encode()]


def _place(item: greenlet) -> str:
    """Where a greenlet stands: its functions, the innermost first."""
    frame, names = item.gr_frame, []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return " < ".join(names)


app.wsgi_app = _inside  # type: ignore[method-assign]
