"""Any server that speaks OpenAI's chat completions, streamed."""

import json
from collections.abc import Mapping, Sequence
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
from orchestrator.backends.reasons import reason_of
from orchestrator.backends.refusals import quoted, refusal, reported
from orchestrator.backends.upstream import Limits, Upstream
from orchestrator.errors import UpstreamRejected, UpstreamTruncated
from orchestrator.events import FinishReason, Usage
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

# OpenAI's newer models refuse max_tokens; most other servers know nothing else.
_OPENAI = "api.openai.com"

# Of what a model says in place of an answer, all that may be quoted.
_REFUSAL_CHARACTERS = 1000

_REJECTION_TYPES = ("invalid_request_error", "BadRequestError")


class OpenAIBackend:
    """Asks ``model`` of the server at ``base_url``, such as ``https://api.openai.com/v1``.

    ``extra_body`` goes into each request as it is. There is one attempt: a request that met an
    error may have been processed, so it isn't sent again here.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None,
        *,
        extra_body: Mapping[str, Any] | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        self._model = model
        self._api_key = api_key
        self._extra_body = extra_body or {}
        self._upstream = Upstream(base_url, **limits)

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        """Yield the answer as it comes.

        Raises UpstreamTimeout, UpstreamRejected, UpstreamTruncated, UpstreamError or Stopped.
        """
        limit = "max_completion_tokens" if self._upstream.host == _OPENAI else "max_tokens"
        said = _body(self._model, limit, request, messages)
        body = json.dumps({**said, **self._extra_body}).encode()
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        with self._upstream.post("/chat/completions", headers, body, stop) as call:
            if call.status != 200:
                raise refusal(call, self._api_key)
            yield from answered(call, _Completion(self._api_key), stop)


class _Completion(Answer):
    def __init__(self, api_key: str | None) -> None:
        super().__init__(api_key)
        self._refusal = ""

    def add(self, data: str | bytes) -> str:
        if data.strip() == "[DONE]":
            self.done = True
            return ""
        payload = parsed(data)
        self._raise_error(payload)
        usage = _usage(payload.get("usage"))
        self.usage = usage or self.usage
        choices = payload.get("choices")
        if not isinstance(choices, list) or not choices:
            self.closing = self.closing or (self.ended and usage is not None)
            return ""
        choice = an_object(choices[0])
        text = self._said(an_object(choice.get("delta") or choice.get("message") or {}))
        self.end(choice.get("finish_reason"))
        return text

    def finish_reason(self) -> FinishReason:
        if self._refusal:
            raise UpstreamRejected(quoted(self._refusal, self.api_key), reason="content_policy")
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
            case "tool_calls" | "function_call":
                raise wants_a_tool()
        return FinishReason.STOP

    def _said(self, part: Mapping[str, Any]) -> str:
        text, refused = part.get("content"), part.get("refusal")
        if not isinstance(text, str | None):
            raise no_answer()
        if isinstance(refused, str):
            self._refusal = (self._refusal + refused)[:_REFUSAL_CHARACTERS]
        thought = refused or part.get("reasoning_content") or part.get("reasoning")
        return self.hear(text or "", bool(thought))

    def _raise_error(self, payload: Mapping[str, Any]) -> None:
        error = payload.get("error") or (payload if payload.get("object") == "error" else None)
        if not error:
            return
        known = error if isinstance(error, dict) else {}
        raise reported(payload, _status(known), self.api_key)


def _status(error: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error object has or means; None where it says nothing.

    A number counts more than words: OpenAI calls a wrong key an ``invalid_request_error`` too.
    """
    for value in (error.get("status"), error.get("code")):
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if is_count(number) and 400 <= number < 600:
            return number
    means_input = error.get("type") in _REJECTION_TYPES or reason_of(error, "")
    return 400 if means_input else None


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


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    sent, generated = value.get("prompt_tokens"), value.get("completion_tokens")
    return Usage(sent, generated) if is_count(sent) and is_count(generated) else None
