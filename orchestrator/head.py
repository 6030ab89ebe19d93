"""The head of an answer as gunicorn writes it."""

from gunicorn.http import wsgi

from orchestrator import headers

_ALWAYS_GOOD = frozenset((*headers.DATA, headers.NO_STORE, ("Content-Type", "application/json")))


class Response(wsgi.Response):
    """gunicorn's response, but for its check of every header against two patterns.

    Those that nearly every answer has are ours and never change: they need no look.
    """

    def process_headers(self, given: list[tuple[str, str]]) -> None:
        """Take the headers of an answer. Raises InvalidResponseHeader."""
        super().process_headers([header for header in given if header not in _ALWAYS_GOOD])
        self.headers += [header for header in given if header in _ALWAYS_GOOD]
