"""What a provider refuses, in our words; its own only where the client's input is at fault."""

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.backends.answer import parsed
from orchestrator.backends.base import may_pass
from orchestrator.backends.reasons import reason_of
from orchestrator.backends.upstream import Call
from orchestrator.errors import RunError, UpstreamError, UpstreamRejected

_ABOUT_THE_INPUT = frozenset({400, 413, 422})
_REJECTIONS = _ABOUT_THE_INPUT | {404}
_TOO_LARGE = 413
_TOO_MANY = 429
_UNPAID = 402
_SETTINGS_ADVICE = "the service's operator should check its base URL, model and account"
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_S = 5.0
_QUOTE_CHARACTERS = 500

# Some providers answer with 400 once the account is empty, which is no business of the client.
_ABOUT_THE_ACCOUNT = re.compile(
    "credit balance|API usage limits|(your|this) (account|organi[sz]ation)", re.IGNORECASE
)


def refusal(call: Call, api_key: str | None) -> RunError:
    """Turn an answer that isn't 200 into an error, quoting rejections of the input alone."""
    status = call.status
    payload = _error_body(call) if status in _REJECTIONS | {403, _TOO_MANY} else {}
    if rejection := _rejection(payload, status, api_key):
        return rejection
    if _is_spent(payload):
        # OpenAI says 429 here too, but this doesn't pass by itself.
        return UpstreamError(
            "The provider says that this service's account has nothing left; its operator must "
            "see to it.",
            status=_UNPAID,
        )
    if status in (401, 403):
        return UpstreamError(
            "The provider refused this service's credentials; its operator must correct them.",
            status=status,
        )
    call.drain()
    details: dict[str, Any] = {"status": status}
    if call.retry_after is not None:
        details["retry_after"] = call.retry_after
    advice = "try again later" if may_pass(status) else _SETTINGS_ADVICE
    return UpstreamError(f"The provider answered with HTTP status {status}; {advice}.", **details)


def reported(payload: Mapping[str, Any], status: int | None, api_key: str | None) -> RunError:
    """Turn an error object in the middle of an answer, of a known ``status``, into an error."""
    if status and (rejection := _rejection(payload, status, api_key)):
        return rejection
    return UpstreamError(
        "The provider reported an error in the middle of its answer; try again later.",
        **({"status": status} if status else {}),
    )


def quoted(text: str, api_key: str | None) -> str:
    """Label the provider's text as such; take out the key, control characters and all excess."""
    text = " ".join(without_key(text, api_key).split())
    text = "".join(filter(str.isprintable, text))
    if len(text) > _QUOTE_CHARACTERS:
        text = text[: _QUOTE_CHARACTERS - 1] + "…"
    return f"The provider rejected the request and says: {text}"


def _rejection(
    payload: Mapping[str, Any], status: int, api_key: str | None
) -> UpstreamRejected | None:
    """Return the error for what the client's own input brought about; None for anything else.

    A proxy before the provider refuses without a word of its own: then these are ours. A 403 is
    about credentials, but where it speaks of moderation.
    """
    text = _provider_text(payload, status)
    if text and _ABOUT_THE_ACCOUNT.search(text):
        return None
    reason = reason_of(payload.get("error") or payload, text or "")
    moderated = status == 403 and reason == "content_policy"
    if not (moderated or status in _ABOUT_THE_INPUT or (text and status in _REJECTIONS)):
        return None
    if status == _TOO_LARGE:
        reason = reason or "context_length"
    message = quoted(text, api_key) if text else _in_our_words(status)
    return UpstreamRejected(message, status=status, **({"reason": reason} if reason else {}))


def _is_spent(payload: Mapping[str, Any]) -> bool:
    error = payload.get("error")
    known = error if isinstance(error, dict) else {}
    return "insufficient_quota" in (known.get("code"), known.get("type"))


def _in_our_words(status: int) -> str:
    if status == _TOO_LARGE:
        return (
            "The provider takes no request that large; shorten the prompt or begin a new session."
        )
    return (
        f"The provider rejected the request with HTTP status {status} and says no reason; change "
        "the prompt or the parameters."
    )


def _error_body(call: Call) -> dict[str, Any]:
    call.allow(_ERROR_BODY_S)
    try:
        return parsed(call.read_all(_ERROR_BODY_BYTES))
    except RunError:
        return {}


def _provider_text(payload: Mapping[str, Any], status: int) -> str | None:
    """Return what an error object says, in the shapes of OpenAI, Anthropic, vLLM and FastAPI.

    A 404 with FastAPI's ``detail`` is about the path, which is no input of the client.
    """
    error = payload.get("error")
    texts = [error, payload.get("message")]
    if isinstance(error, dict):
        texts = [error.get("message")]
    if status != 404:
        detail = payload.get("detail")
        texts += [detail] if isinstance(detail, str) else _messages(detail)
    return next((text for text in texts if isinstance(text, str) and text.strip()), None)


def _messages(detail: Any) -> list[Any]:
    if not isinstance(detail, list):
        return []
    return [entry.get("msg") for entry in detail if isinstance(entry, dict)]


def without_key(text: str, key: str | None) -> str:
    """Return ``text`` with stars for the provider's key: it is in no text that goes out."""
    return text.replace(key, "***") if key else text
