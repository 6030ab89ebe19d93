"""Any server that speaks OpenAI's chat completions, streamed."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from orchestrator.backends.base import Finish, Message
from orchestrator.backends.rejections import reason_of
from orchestrator.backends.sse_reader import SSEReader
from orchestrator.backends.text import MAX_ANSWER_BYTES, AnswerText
from orchestrator.backends.upstream import Call, Upstream
from orchestrator.errors import (
    ConfigError,
    RunError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
)
from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

_ERROR_BODY_BYTES = 64 * 1024
_QUOTE_CHARACTERS = 500

# How long the usage and the end mark may take after the last token.
_END_S = 1.0

# OpenAI's newer models refuse max_tokens; most other servers know nothing else.
_OPENAI = "api.openai.com"

_REJECTIONS = frozenset({400, 404, 413, 422})
_PASSING = frozenset({408, 409, 425, 429})
_SETTINGS_ADVICE = "the service's operator should check its base URL and model"
_REJECTION_TYPES = frozenset({"invalid_request_error", "BadRequestError"})


class OpenAIBackend:
    """Asks ``model`` of the server at ``base_url``, such as ``https://api.openai.com/v1``.

    Times are in seconds. The first-token timeout runs from the connection being there to the
    first text or reasoning text; nothing else counts. From then on each whole line is a sign of
    life and renews the idle timeout, keep-alive comments included; mere bytes don't.
    ``max_connections`` idle connections are kept for reuse. There is one attempt: a request that
    met an error may have been processed, so it isn't sent again here.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None,
        *,
        connect_timeout_s: float,
        first_token_timeout_s: float,
        idle_timeout_s: float,
        max_connections: int,
    ) -> None:
        """Raises ConfigError where no header can carry the key."""
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("OPENAI_API_KEY has characters that no key has; set it again.")
        self._model = model
        self._api_key = api_key
        self._upstream = Upstream(
            base_url,
            connect_timeout_s=connect_timeout_s,
            first_token_timeout_s=first_token_timeout_s,
            idle_timeout_s=idle_timeout_s,
            max_connections=max_connections,
        )

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Generator[str | Finish, None, None]:
        """Yield the answer as it comes.

        Raises UpstreamTimeout, UpstreamRejected, UpstreamTruncated, UpstreamError or Stopped.
        """
        limit = "max_completion_tokens" if self._upstream.host == _OPENAI else "max_tokens"
        body = json.dumps(_body(self._model, limit, request, messages)).encode()
        with self._upstream.post("/chat/completions", self._headers(), body, stop) as call:
            if call.status != 200:
                raise self._refusal(call)
            answer = _Answer(self._api_key)
            if call.media_type.endswith("json"):
                pieces = _whole(call, answer)
            elif call.media_type == "text/html":
                raise UpstreamError(
                    "The provider answered with a web page; the base URL must be wrong."
                )
            else:
                pieces = _streamed(call, answer)
            for text in pieces:
                yield text
                stop.check()
            if rest := answer.text.rest():
                yield rest
            yield Finish(answer.finish_reason(), answer.usage)

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "orchestrator",
        }
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        return headers

    def _refusal(self, call: Call) -> RunError:
        """Turn an answer that isn't 200 into an error, quoting rejections of the input alone."""
        status = call.status
        payload = _error_body(call) if status in _REJECTIONS else {}
        if text := _provider_text(payload, status):
            return _rejection(payload, text, self._api_key, status)
        if status in (401, 403):
            return UpstreamError(
                "The provider refused this service's credentials; its operator must correct them.",
                status=status,
            )
        call.drain()
        details: dict[str, Any] = {"status": status}
        if call.retry_after is not None:
            details["retry_after"] = call.retry_after
        advice = "try again later" if status in _PASSING or status >= 500 else _SETTINGS_ADVICE
        return UpstreamError(
            f"The provider answered with HTTP status {status}; {advice}.", **details
        )


class _Answer:
    """What is known of an answer so far."""

    def __init__(self, api_key: str | None) -> None:
        self.text = AnswerText()
        self.usage: Usage | None = None
        self.reason: str | None = None
        self.done = False
        self.begun = False
        self._api_key = api_key

    def add(self, data: str | bytes) -> str:
        """Take one completion object, or the end mark, and return the text in it.

        Raises UpstreamError where it's neither, and what an error object asks for.
        """
        if data.strip() == "[DONE]":
            self.done = True
            return ""
        payload = _parsed(data)
        self._raise_error(payload)
        self.usage = _usage(payload.get("usage")) or self.usage
        choices = payload.get("choices")
        if not isinstance(choices, list) or not choices:
            return ""
        choice = _object(choices[0])
        reason = choice.get("finish_reason")
        self.reason = reason if isinstance(reason, str) and reason else self.reason
        said = _object(choice.get("delta") or choice.get("message") or {})
        text = said.get("content")
        if not isinstance(text, str | None):
            raise _no_completion()
        if text or said.get("reasoning_content") or said.get("reasoning"):
            self.begun = True
        return self.text.add(text or "")

    def finish_reason(self) -> FinishReason:
        """Return why the answer ended. Raises a RunError where that makes it no answer."""
        match self.reason:
            case "length":
                return FinishReason.LENGTH
            case "content_filter":
                raise UpstreamRejected(
                    "The provider's content filter ended the answer; change the prompt.",
                    reason="content_policy",
                )
            case "error" | "abort":
                raise UpstreamTruncated("The provider broke the answer off; try again.")
            case None if not self.done:
                raise UpstreamTruncated("The provider's answer ended too early; try again.")
        return FinishReason.STOP

    def _raise_error(self, payload: Mapping[str, Any]) -> None:
        error = payload.get("error") or (payload if payload.get("object") == "error" else None)
        if not error:
            return
        known = error if isinstance(error, dict) else {}
        status = next((known[key] for key in ("status", "code") if _is_count(known.get(key))), None)
        text = _provider_text(payload, 400)
        if text and (status in _REJECTIONS or known.get("type") in _REJECTION_TYPES):
            raise _rejection(payload, text, self._api_key, status or 400)
        raise UpstreamError(
            "The provider reported an error in the middle of its answer; try again later.",
            **({"status": status} if status else {}),
        )


def _streamed(call: Call, answer: _Answer) -> Iterator[str]:
    """Yield the text of an event stream."""
    reader = SSEReader()
    while data := _read(call, answer):
        lines, ending = reader.lines, answer.reason is not None
        for event in reader.feed(data):
            if text := answer.add(event.data):
                yield text
            if answer.done:
                call.drain()
                return
        if answer.reason is None and answer.begun and reader.lines > lines:
            call.lives()
        elif answer.reason is not None and not ending:
            call.allow(_END_S)


def _read(call: Call, answer: _Answer) -> bytes:
    """Read on. Once the finish reason is there, the answer is whole, whatever comes after it."""
    try:
        return call.read()
    except (UpstreamTimeout, UpstreamTruncated):
        if answer.reason is None:
            raise
        return b""


def _whole(call: Call, answer: _Answer) -> Iterator[str]:
    """Yield the text of an answer in one piece: some servers know no streams."""
    text = answer.add(call.read_all(MAX_ANSWER_BYTES))
    if not text and answer.reason is None:
        raise _no_completion()
    answer.done = True
    if text:
        yield text


def _body(
    model: str, limit: str, request: GenerateRequest, messages: Sequence[Message]
) -> dict[str, Any]:
    sampling = {
        limit: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
    }
    return {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in sampling.items() if value is not None},
    }


def _no_completion() -> UpstreamError:
    return UpstreamError("The provider sent what is no chat completion.")


def _parsed(data: str | bytes) -> dict[str, Any]:
    try:
        return _object(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise _no_completion() from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _no_completion()
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    sent, generated = value.get("prompt_tokens"), value.get("completion_tokens")
    return Usage(sent, generated) if _is_count(sent) and _is_count(generated) else None


def _error_body(call: Call) -> dict[str, Any]:
    try:
        return _parsed(call.read_all(_ERROR_BODY_BYTES))
    except RunError:
        return {}


def _provider_text(payload: Mapping[str, Any], status: int) -> str | None:
    """Return what an error object says, in the shapes of OpenAI, vLLM, Ollama and FastAPI.

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


def _rejection(
    payload: Mapping[str, Any], text: str, api_key: str | None, status: int
) -> UpstreamRejected:
    reason = reason_of(payload.get("error") or payload, text)
    details = {"reason": reason} if reason else {}
    return UpstreamRejected(_quoted(text, api_key), status=status, **details)


def _messages(detail: Any) -> list[Any]:
    if not isinstance(detail, list):
        return []
    return [entry.get("msg") for entry in detail if isinstance(entry, dict)]


def _quoted(text: str, api_key: str | None) -> str:
    """Label the provider's text as such; take out the key, control characters and all excess."""
    if api_key:
        text = text.replace(api_key, "***")
    text = "".join(filter(str.isprintable, " ".join(text.split())))
    if len(text) > _QUOTE_CHARACTERS:
        text = text[: _QUOTE_CHARACTERS - 1] + "…"
    return f"The provider rejected the request and says: {text}"
