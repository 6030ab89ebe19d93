"""The headers that protect what is answered, on every answer, and in one place."""

from typing import Final

Headers = tuple[tuple[str, str], ...]

SERVER: Final = "web-api"
"""What the Server header says: neither the program nor its version."""

NO_STORE: Final = ("Cache-Control", "no-store")
"""On every answer that sets no Cache-Control of its own: it is for one caller alone."""

STRICT_TRANSPORT: Final = ("Strict-Transport-Security", "max-age=31536000")
"""With TLS: browsers use https for a year. It says nothing about subdomains."""

_EVERYWHERE: Headers = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # Pages of origins that ORCHESTRATOR_CORS_ORIGINS names ask by CORS, which this leaves alone.
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_ALONE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NO_POWERS = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"

DATA: Headers = (
    *_EVERYWHERE,
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
)
"""For answers that are not pages: opened as one, they may do nothing."""


def of_page(**sources: str) -> Headers:
    """Return the headers of a page that loads only what ``sources`` name, as in script="'self'"."""
    loads = "".join(f" {kind}-src {places};" for kind, places in sources.items())
    return (
        *_EVERYWHERE,
        ("Content-Security-Policy", f"default-src 'none';{loads} {_ALONE}"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Permissions-Policy", _NO_POWERS),
    )
