"""The app as it is, and a view of what it holds: open connections and files at /held, and at
/inside its greenlets too, which takes the whole process a while."""

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
    if environ["PATH_INFO"] not in ("/held", "/inside"):
        return _wsgi(environ, start_response)
    held: dict[str, Any] = {}
    if environ["PATH_INFO"] == "/inside":
        gc.collect()
        found = (item for item in gc.get_objects() if isinstance(item, greenlet))
        held["greenlets"] = Counter(_place(item) for item in found if not item.dead)
    held |= {
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
