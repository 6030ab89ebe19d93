"""Asks a provider for its list of models: whether it answers, at no cost."""

import json
import threading
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError

from orchestrator.errors import UpstreamError

PROBE_S = 5.0
"""How long an answer may take in all."""
_BODY_BYTES = 4 * 1024 * 1024
_MOST_PAGES = 50


def list_models(base_url: str, headers: Mapping[str, str]) -> Sequence[str]:
    """Return the models that ``GET {base_url}/models`` names; none where it has no such list.

    Anthropic gives its list in pages; all of them are read.

    Raises UpstreamError, whose message is for the operator, after PROBE_S at the latest.
    """
    found: list[Sequence[str] | UpstreamError] = []

    def work() -> None:
        try:
            found.append(_ask_for_all(base_url, headers))
        except UpstreamError as error:
            found.append(error)

    # A thread of its own: a server that sends byte after byte outlasts every timeout of a read.
    thread = threading.Thread(target=work, name="probe", daemon=True)
    thread.start()
    thread.join(PROBE_S)
    if not found:
        raise UpstreamError(f"it did not answer within {PROBE_S:g} s")
    if isinstance(found[0], UpstreamError):
        raise found[0]
    return found[0]


def _ask_for_all(base_url: str, headers: Mapping[str, str]) -> Sequence[str]:
    base = urlsplit(base_url)
    path, names, last = f"{base.path.rstrip('/')}/models", list[str](), None
    with urllib3.PoolManager(timeout=PROBE_S, retries=False) as pool:
        for _ in range(_MOST_PAGES):
            query = [base.query, urlencode({"after_id": last}) if last else ""]
            url = base._replace(path=path, query="&".join(filter(None, query))).geturl()
            more, last = _ask(pool, url, headers)
            names += more
            if not last:
                break
    return names


def _ask(
    pool: urllib3.PoolManager, url: str, headers: Mapping[str, str]
) -> tuple[Sequence[str], str | None]:
    """Return a page of the list, and the id that the next one begins after, if there is one."""
    try:
        answer = pool.request("GET", url, headers=headers, preload_content=False)
        body = answer.read(_BODY_BYTES)
        answer.close()
    except (HTTPError, OSError, ValueError) as error:
        raise UpstreamError(f"it can't be reached ({_cause(error)})") from error
    if answer.status in (401, 403):
        raise UpstreamError(f"it refuses the API key (HTTP status {answer.status})")
    if answer.status in (404, 405):
        return (), None
    if answer.status != 200:
        raise UpstreamError(f"it answers with HTTP status {answer.status}")
    return _names(body)


def _names(body: bytes) -> tuple[Sequence[str], str | None]:
    try:
        answer: Any = json.loads(body)
        names = [str(model["id"]) for model in answer["data"]]
        return names, str(answer["last_id"]) if answer.get("has_more") else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpstreamError("what it answers is no list of models: is base_url right?") from error


def _cause(error: BaseException) -> str:
    """Return what the system says, beneath what libraries wrap it in."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    match error:
        case OSError(strerror=str(reason)):
            return reason.lower()
        case TimeoutError():
            return "no answer came in time"
        case ConnectionError():
            return "it closed the connection without an answer"
        case UnicodeError() | LocationValueError():
            return "its host is no proper name"
        case HTTPException():
            return "what is there does not speak HTTP"
    return "the connection broke"
