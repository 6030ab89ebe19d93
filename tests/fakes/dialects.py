"""The two ways in which the fake upstream says the same: OpenAI's and Anthropic's.

A dialect serves one answer and knows how far it is. What it gives are events of a stream, each a
name (empty where the dialect has none) and its data, or whole JSON bodies.
"""

import json
import re
from typing import Any

Event = tuple[str, str]

INPUT_TOKENS = 7


def words(n: float) -> list[str]:
    return [f"w{number} " for number in range(int(n))]


class OpenAI:
    """Chat completions."""

    path = "/v1/chat/completions"
    key_header = "authorization"
    reasons = {"filter": "content_filter"}

    def __init__(self) -> None:
        self._opened = False

    def text(self, text: str) -> list[Event]:
        opening = [] if self._opened else self.nothing()
        self._opened = True
        return [*opening, self._delta({"content": text})]

    def thought(self, text: str) -> list[Event]:
        return [self._delta({"reasoning_content": text})]

    def nothing(self) -> list[Event]:
        """Events without text, as before the first token."""
        return [self._delta({"role": "assistant", "content": ""})]

    def ping(self) -> list[str]:
        """Lines that say nothing but that the server lives."""
        return [": ping"]

    def ending(self, reason: str | None, n: float | None) -> list[Event]:
        """Why the answer ended, and the usage for ``n`` tokens; either may be left out."""
        events = [self._delta({}, self.reasons.get(reason, reason))] if reason else []
        if n is not None:
            events += self.count(n)
        return events

    def count(self, n: float) -> list[Event]:
        """The usage so far, as vLLM's continuous_usage_stats have it."""
        return [("", json.dumps({**self._completion(), "usage": self._usage(n)}))]

    def refusal(self, explanation: str) -> list[Event]:
        """What the model says in place of an answer, and the end."""
        said = [self._delta({"refusal": word}) for word in re.split(r"(?<= )", explanation)]
        return [*said, *self.ending("stop", 3), self.done()]

    def done(self) -> Event:
        return ("", "[DONE]")

    def whole(self, n: float) -> bytes:
        message = {"role": "assistant", "content": "".join(words(n))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({**self._completion(choice), "usage": self._usage(n)}).encode()

    def wrong(self) -> Event:
        """An event of a wrong shape."""
        return ("", json.dumps({"choices": [{"delta": {"content": 7}}]}))

    def error(self, code: float) -> Event:
        error = {"message": "upstream says no", "type": "Whatever", "code": int(code)}
        return ("", json.dumps({"error": error}))

    def error_body(self, code: float, text: str = "upstream says no") -> bytes:
        kind = "invalid_request_error" if code == 400 else "server_error"
        return json.dumps({"error": {"message": text, "type": kind, "code": None}}).encode()

    def _delta(self, delta: dict[str, str], reason: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return ("", json.dumps(self._completion(choice)))

    def _completion(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {"id": "c1", "object": "chat.completion.chunk", "choices": list(choices)}

    def _usage(self, n: float) -> dict[str, int]:
        total = INPUT_TOKENS + int(n)
        return {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": int(n),
            "total_tokens": total,
        }


class Anthropic:
    """Messages."""

    path = "/v1/messages"
    key_header = "x-api-key"
    reasons = {
        "stop": "end_turn",
        "length": "max_tokens",
        "filter": "refusal",
        "abort": "pause_turn",
    }
    errors = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        500: "api_error",
        504: "timeout_error",
        529: "overloaded_error",
    }

    def __init__(self) -> None:
        self._opened = False
        self._block: str | None = None
        self._blocks = 0

    def text(self, text: str) -> list[Event]:
        delta = {"type": "text_delta", "text": text}
        return [*self._in_block("text", text=""), self._delta(delta)]

    def thought(self, text: str) -> list[Event]:
        delta = {"type": "thinking_delta", "thinking": text}
        return [*self._in_block("thinking", thinking="", signature=""), self._delta(delta)]

    def nothing(self) -> list[Event]:
        return self.text("")

    def ping(self) -> list[str]:
        return ["event: ping", 'data: {"type": "ping"}']

    def ending(self, reason: str | None, n: float | None) -> list[Event]:
        delta = {"stop_reason": self.reasons.get(reason or "", reason), "stop_sequence": None}
        usage = {} if n is None else {"usage": {"output_tokens": int(n)}}
        return [*self._in_block(None), event("message_delta", delta=delta, **usage)]

    def refusal(self, explanation: str) -> list[Event]:
        """The end of an answer that the model's safety rules forbid."""
        details = {"type": "refusal", "category": "bio", "explanation": explanation}
        delta = {"stop_reason": "refusal", "stop_details": details}
        ending = event("message_delta", delta=delta, usage={"output_tokens": 3})
        return [*self._in_block(None), ending, self.done()]

    def done(self) -> Event:
        return event("message_stop")

    def whole(self, n: float) -> bytes:
        content = [{"type": "thinking", "thinking": "so"}]
        content.append({"type": "text", "text": "".join(words(n))})
        usage = {**self._input(), "output_tokens": int(n)}
        message = {"type": "message", "content": content, "stop_reason": "end_turn"}
        return json.dumps({**message, "usage": usage}).encode()

    def wrong(self) -> Event:
        return self._delta({"type": "text_delta", "text": 7})

    def error(self, code: float) -> Event:
        return ("error", self.error_body(code).decode())

    def error_body(self, code: float, text: str = "upstream says no") -> bytes:
        error = {"type": self.errors.get(int(code), "some_newer_error"), "message": text}
        return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()

    def _in_block(self, kind: str | None, **first: str) -> list[Event]:
        """Open the message, end a block of another kind, and begin one of this kind."""
        events = []
        if not self._opened:
            self._opened = True
            usage = {**self._input(), "output_tokens": 1}
            message = {"type": "message", "role": "assistant", "content": [], "usage": usage}
            events.append(event("message_start", message={**message, "stop_reason": None}))
        if kind == self._block:
            return events
        if self._block:
            events.append(event("content_block_stop", index=self._blocks - 1))
        if kind:
            block = {"type": kind, **first}
            events.append(event("content_block_start", index=self._blocks, content_block=block))
            self._blocks += 1
        self._block = kind
        return events

    def _delta(self, delta: dict[str, Any]) -> Event:
        return event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _input(self) -> dict[str, int]:
        cached = {"cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
        return {"input_tokens": INPUT_TOKENS - 3, **cached}


Dialect = OpenAI | Anthropic
DIALECTS: dict[str, type[Dialect]] = {kind.path: kind for kind in (OpenAI, Anthropic)}


def event(kind: str, **fields: Any) -> Event:
    """One of Anthropic's events, which says its kind twice."""
    return (kind, json.dumps({"type": kind, **fields}))
