"""Which pages may call: the service's own, and the origins that the settings name."""

from collections.abc import Sequence

from flask import Flask, Response, request

METHODS = "GET, POST, DELETE, OPTIONS"
REQUEST_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, "
    "X-API-Key"
)
RESPONSE_HEADERS = (
    "Content-Location, Idempotent-Replayed, Location, Preference-Applied, Retry-After, X-Cache, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)


def is_allowed(origin: str | None, host: str, is_secure: bool, allowed: Sequence[str]) -> bool:
    """Whether a page of ``origin`` may use ``host``; None is no page at all.

    A page that came without TLS is none of a host that ``is_secure``. The other way round it may
    be one: a proxy may have had the TLS.
    """
    if origin is None or origin in allowed:
        return True
    scheme, _, own = origin.partition("://")
    return scheme in (("https",) if is_secure else ("http", "https")) and own != "" and own == host


def register(app: Flask, allowed: Sequence[str]) -> None:
    """Answer the CORS protocol for exactly the ``allowed`` origins."""
    if not allowed:
        return

    @app.after_request
    def _cors(response: Response) -> Response:
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = METHODS
                response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
                response.headers["Access-Control-Max-Age"] = "600"
        return response
