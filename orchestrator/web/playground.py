"""The playground: one page at / that uses the API as any other client would."""

from flask import Blueprint, Response, render_template, request

from orchestrator.web import dates

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

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
    response = Response(render_template("playground.html"), mimetype="text/html", headers=HEADERS)
    response.add_etag()
    response.make_conditional(request)
    return response
