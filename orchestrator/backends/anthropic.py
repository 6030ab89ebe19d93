"""Anthropic's Messages API, streamed, and any server that speaks it."""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Unpack

from orchestrator.backends.answer import (
    Answer,
    an_object,
    answered,
    is_count,
    no_answer,
    parsed,
    wants_a_tool,
)
from orchestrator.backends.base import Message, Pieces
from orchestrator.backends.refusals import quoted, refusal, reported
from orchestrator.backends.upstream import Limits, Upstream
from orchestrator.errors import RunError, UpstreamRejected, UpstreamTruncated
from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

# The API demands a limit. All its models allow this one.
DEFAULT_MAX_TOKENS = 4096

_VERSION = "2023-06-01"
_MOST_TEMPERATURE = 1.0
_INPUT_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_TEXT = ("text", "text_delta")
_THOUGHTS = ("thinking", "redacted_thinking", "thinking_delta", "signature_delta")

# In the middle of an answer an error has a type alone. These are their statuses before it.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBackend:
    """Asks ``model``, by default of Anthropic itself.

    The API knows no ``seed``, so that is left out. There is one attempt: a request that met an
    error may have been processed, so it isn't sent again here.
    """

    name = "anthropic"

    def __init__(
        self,
        model: str,
        api_key: str,
        *,
        base_url: str = "https://api.anthropic.com",
        **limits: Unpack[Limits],
    ) -> None:
        self._model = model
        self._api_key = api_key
        self._upstream = Upstream(base_url, **limits)

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        """Yield the answer as it comes.

        Raises UpstreamTimeout, UpstreamRejected, UpstreamTruncated, UpstreamError or Stopped.
        """
        body = json.dumps(_body(self._model, request, messages)).encode()
        headers = headers_of(self._api_key)
        with self._upstream.post("/v1/messages", headers, body, stop) as call:
            if call.status != 200:
                raise refusal(call, self._api_key)
            yield from answered(call, _Reply(self._api_key), stop)


def headers_of(api_key: str) -> dict[str, str]:
    """Return what each request to the API must carry."""
    return {"x-api-key": api_key, "anthropic-version": _VERSION}


class _Reply(Answer):
    def __init__(self, api_key: str | None) -> None:
        super().__init__(api_key)
        self._counts: dict[str, int] = {}
        self._first_output = 0
        self._explanation: str | None = None

    @property
    def spent(self) -> Usage | None:
        if self.usage or "input_tokens" not in self._counts:
            return self.usage
        return Usage(self._sent(), self._first_output)

    def add(self, data: str | bytes) -> str:
        payload = parsed(data)
        kind = payload.get("type")
        if kind == "error" or payload.get("error"):
            raise self._reported(payload)
        match kind:
            case "message_start":
                message = an_object(payload.get("message"))
                self._count(message, _INPUT_COUNTS)
                self._first_output = _output_of(message)
            case "content_block_start":
                return self._said(payload.get("content_block"))
            case "content_block_delta":
                return self._said(payload.get("delta"))
            case "message_delta":
                self._end(an_object(payload.get("delta")))
                self._count(payload, (*_INPUT_COUNTS, "output_tokens"))
                self.closing = self.ended and "usage" in payload
            case "message_stop":
                self.done = True
            case "message":
                return self._message(payload)
            case str():
                pass  # A ping, a block's end, or an event that is newer than this.
            case _:
                raise no_answer()
        return ""

    def finish_reason(self) -> FinishReason:
        match self.reason:
            case "max_tokens" | "model_context_window_exceeded":
                return FinishReason.LENGTH
            case "refusal" if self._explanation:
                raise UpstreamRejected(
                    quoted(self._explanation, self.api_key), reason="content_policy"
                )
            case "refusal":
                raise UpstreamRejected(
                    "The provider's model refused to answer, for its safety rules; change the "
                    "prompt or begin a new session.",
                    reason="content_policy",
                )
            case "tool_use":
                raise wants_a_tool()
            case "pause_turn":
                raise UpstreamTruncated("The provider paused in its answer; try again.")
        return FinishReason.STOP

    def _message(self, message: dict[str, Any]) -> str:
        """Take a whole answer: some servers know no streams."""
        content = message.get("content")
        if not isinstance(content, list):
            raise no_answer()
        text = "".join(self._said(block) for block in content)
        self._end(message)
        self._count(message, (*_INPUT_COUNTS, "output_tokens"))
        return text

    def _said(self, part: Any) -> str:
        """Return the text of a block or delta; note that thoughts came, which aren't shown."""
        part = an_object(part)
        kind, text = part.get("type"), part.get("text", "")
        if kind not in _TEXT:
            return self.hear("", kind in _THOUGHTS)
        if not isinstance(text, str):
            raise no_answer()
        return self.hear(text)

    def _end(self, said: dict[str, Any]) -> None:
        self.end(said.get("stop_reason"))
        details = said.get("stop_details")
        explanation = details.get("explanation") if isinstance(details, dict) else None
        if isinstance(explanation, str) and explanation.strip():
            self._explanation = explanation

    def _count(self, payload: dict[str, Any], names: Sequence[str]) -> None:
        """Take the counts so far. What was read from or written to a cache is input too."""
        usage = payload.get("usage")
        if not isinstance(usage, dict):
            return
        self._counts |= {name: usage[name] for name in names if is_count(usage.get(name))}
        if "input_tokens" in self._counts and "output_tokens" in self._counts:
            self.usage = Usage(self._sent(), self._counts["output_tokens"])

    def _sent(self) -> int:
        return sum(self._counts.get(name, 0) for name in _INPUT_COUNTS)

    def _reported(self, payload: dict[str, Any]) -> RunError:
        error = payload.get("error")
        kind = error.get("type") if isinstance(error, dict) else None
        status = _STATUSES.get(kind) if isinstance(kind, str) else None
        return reported(payload, status, self.api_key)


def _output_of(message: dict[str, Any]) -> int:
    """Return the output that the beginning of an answer counts: little, but paid for."""
    usage = message.get("usage")
    count = usage.get("output_tokens") if isinstance(usage, dict) else None
    return count if is_count(count) else 0


def _body(model: str, request: GenerateRequest, messages: Sequence[Message]) -> dict[str, Any]:
    if request.temperature is not None and request.temperature > _MOST_TEMPERATURE:
        raise UpstreamRejected(
            f"The model takes a temperature from 0 to {_MOST_TEMPERATURE:g}; send a lower one.",
            status=400,
        )
    # The API takes no blank text, which an empty answer leaves in a session.
    said = [turn for turn in messages if turn.content.strip()]
    optional = {
        "system": _joined(turn for turn in said if turn.role == "system") or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
    }
    return {
        "model": model,
        "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        "messages": _turns(turn for turn in said if turn.role != "system"),
        "stream": True,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _turns(said: Iterable[Message]) -> list[dict[str, str]]:
    """Return the conversation with the roles in turn."""
    groups = groupby(said, key=lambda turn: turn.role)
    return [{"role": role, "content": _joined(turns)} for role, turns in groups]


def _joined(turns: Iterable[Message]) -> str:
    return "\n\n".join(turn.content for turn in turns)
