"""Query parameters and headers of a request, read strictly."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flask import Request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_list_header

from orchestrator.errors import NotAcceptable
from orchestrator.job import Reuse
from orchestrator.schemas import MAX_WAIT_S, invalid

SSE = "text/event-stream"
RESPOND_ASYNC = "respond-async"

_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,20})?([eE][+-]?\d{1,3})?", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Wait:
    """How long the client wants to wait, in seconds, and which preference of its was applied."""

    seconds: float = 0.0
    applied: str | None = None


NO_WAIT = Wait()


def wait(request: Request, *others: str) -> Wait:
    """Return what ``Prefer`` (RFC 7240) and ``?wait=`` ask for; the header wins.

    ``others`` are preferences that mean something at this address too. Of one that comes twice the
    first counts, and unknown ones are ignored, as the RFC wants. Raises InvalidRequest.
    """
    if "HTTP_PREFER" not in request.environ and not request.query_string:
        return NO_WAIT
    seconds = number(request, "wait", 0.0, MAX_WAIT_S, default=0.0)
    preferred: dict[str, str] = {}
    for item in parse_list_header(request.headers.get("Prefer", "")):
        name, _, value = item.partition(";")[0].partition("=")
        preferred.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "wait" in preferred:
        if not re.fullmatch(r"\d+", preferred["wait"]):
            raise invalid({"Prefer": ["wait must be whole seconds, as in: wait=30"]})
        seconds = min(float(preferred["wait"]), MAX_WAIT_S)
        return Wait(seconds, f"wait={seconds:g}")
    return Wait(seconds, next((name for name in others if name in preferred), None))


def number(request: Request, name: str, low: float, high: float, default: float) -> float:
    """Return a number from the query. Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or not low <= float(text) <= high:
        raise invalid({name: [f"Must be a number from {low:g} to {high:g}."]})
    return float(text)


def integer(request: Request, name: str, low: int, high: int, default: int) -> int:
    """Return a whole number from the query. Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,15}", text) or not low <= int(text) <= high:
        raise invalid({name: [f"Must be a whole number from {low} to {high}."]})
    return int(text)


def cursor(request: Request, is_one: Callable[[str], bool]) -> str | None:
    """Return where in a list to go on. Raises InvalidRequest where it is no cursor of ours."""
    text = request.args.get("cursor")
    if text is not None and not is_one(text):
        raise invalid({"cursor": ["Must be the next_cursor of the page before."]})
    return text


def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key, with the path it is scoped to. Raises InvalidRequest."""
    key = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise invalid({"Idempotency-Key": ["Must be 1 to 255 visible ASCII characters."]})
    return f"{request.path.rstrip('/')} {key}"


def reuse(request: Request) -> Reuse:
    """Return what ``Cache-Control`` (RFC 9111) says of other answers; no more than that counts."""
    text = request.environ.get("HTTP_CACHE_CONTROL")
    if text is None:
        return Reuse.ALLOWED
    directives = {item.strip().lower() for item in text.split(",")}
    if "no-store" in directives:
        return Reuse.NEVER
    return Reuse.REFRESH if directives & {"no-cache", "max-age=0"} else Reuse.ALLOWED


def accepted(request: Request, *forms: str) -> str:
    """Return the media type among ``forms`` that the client likes best, the first on a tie.

    Its parameters, such as a charset, are passed over. Raises NotAcceptable.
    """
    if request.environ.get("HTTP_ACCEPT", "").strip() in ("", "*/*", forms[0]):
        return forms[0]
    liked = [
        (kind.partition(";")[0].strip(), quality) for kind, quality in request.accept_mimetypes
    ]
    best: str | None = MIMEAccept(liked).best_match(forms)
    if best is None:
        raise NotAcceptable(
            f"This address answers with {' or '.join(forms)}. Send an Accept header that allows it."
        )
    return best
