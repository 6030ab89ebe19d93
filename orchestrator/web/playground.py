"""The playground: one page at / that uses the API as any other client would."""

from flask import Blueprint, Response, render_template, request

from orchestrator.headers import of_page
from orchestrator.web import dates
from orchestrator.web.json_io import PageResponse


class _Page(PageResponse):
    standing = of_page(script="'self'", style="'self'", connect="'self'", img="'self' data:")


bp = Blueprint(
    "playground",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)
"""The page, and the files it is made of: kept by browsers, and asked about each time."""
dates.register(bp)


@bp.get("/")
def page() -> Response:
    """Answer with the page, or with 304 for a browser that has it."""
    response = _Page(render_template("playground.html"))
    response.add_etag()
    response.make_conditional(request)
    return response
