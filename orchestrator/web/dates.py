"""Dates in request headers that Werkzeug can't take, although a client may send them."""

from flask import Blueprint, request
from werkzeug.http import parse_date

HEADERS = ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE")


def register(bp: Blueprint) -> None:
    """Ignore a date out of all range, as HTTP wants it, instead of failing over it."""
    bp.before_request(_drop_impossible)


def _drop_impossible() -> None:
    environ = request.environ
    for name in HEADERS:
        if name in environ:
            try:
                parse_date(environ[name])
            except OverflowError:
                del environ[name]
