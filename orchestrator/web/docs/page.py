"""The documentation at /docs: the OpenAPI document as one page, without any script."""

from collections.abc import Sequence
from functools import lru_cache

from flask import Blueprint, Response, current_app, request
from markupsafe import escape

from orchestrator.headers import of_page
from orchestrator.web import dates
from orchestrator.web.docs.view import View
from orchestrator.web.json_io import PageResponse, pieces_of
from orchestrator.web.openapi.document import document, models

HERE = "localhost:8080"
"""The address in the examples, replaced by the one at which the reader found the page."""

bp = Blueprint("docs", __name__)
dates.register(bp)


class _Page(PageResponse):
    standing = of_page(style="'self'", img="'self'")


@bp.get("/docs")
def page() -> Response:
    """Answer with the page, or with 304 for a browser that has it."""
    html = _html(request.script_root, models())
    secure = "s" if request.is_secure else ""
    for scheme in ("http", "ws"):
        html = html.replace(f"{scheme}://{HERE}", f"{scheme}{secure}://{escape(request.host)}")
    response = _Page(pieces_of(html.encode()))
    response.add_etag()
    response.make_conditional(request)
    return response


@lru_cache(maxsize=1)
def _html(root: str, names: Sequence[str]) -> str:
    """Return the page for where the app is mounted and the models that it has.

    Made once: it takes as long as hundreds of submits.
    """
    described = document()
    view = View(described, f"http://{HERE}")
    environment = current_app.jinja_env.overlay(trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("docs.html").render(
        base=f"http://{HERE}",
        version=described["info"]["version"],
        about=view.opening(),
        groups=view.groups(),
        chapters=view.chapters(),
        schemas=view.schemas(),
    )
