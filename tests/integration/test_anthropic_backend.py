"""The anthropic backend against a real server that speaks the Messages API, well and badly."""

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from gevent.monkey import get_original

from orchestrator.backends.anthropic import DEFAULT_MAX_TOKENS, AnthropicBackend
from orchestrator.backends.base import Finish, Message
from orchestrator.errors import (
    RunError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamTruncated,
)
from orchestrator.events import FinishReason, Usage
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import Asking, Said, a_request, ask, eventually
from tests.fakes.upstream import Upstream, start_upstream
from tests.served import BUSY

KEY = "sk-ant-0123456789abcdef"
TOKENS = [f"w{number} " for number in range(5)]
WHOLE = Finish(FinishReason.STOP, Usage(7, 5))

# Far longer than anything here takes: what waits for this hangs.
LONG_S = 30.0
AT_ONCE_S = 1.0 * BUSY

start_native_thread = get_original("_thread", "start_new_thread")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture
def backend(upstream: Upstream) -> AnthropicBackend:
    return backend_for(upstream)


def backend_for(upstream: Upstream, key: str = KEY, **seconds: float) -> AnthropicBackend:
    return AnthropicBackend(
        "big-model",
        key,
        base_url=upstream.url.removesuffix("/v1"),
        connect_timeout_s=seconds.get("connect", LONG_S),
        first_token_timeout_s=seconds.get("first_token", LONG_S),
        idle_timeout_s=seconds.get("idle", LONG_S),
        max_connections=4,
    )


def failure(backend: AnthropicBackend, prompt: str, **fields: Any) -> RunError:
    with pytest.raises(RunError) as caught:
        ask(backend, prompt, **fields)
    assert KEY not in caught.value.message
    return caught.value


class TestWholeAnswers:
    @pytest.mark.parametrize(
        "form",
        ["ok", "crlf", "cr", "bom", "comments", "multiline", "packed", "reasoning", "http10"],
    )
    def test_every_form_of_a_stream_gives_the_same_pieces(
        self, backend: AnthropicBackend, form: str
    ) -> None:
        said = ask(backend, f"fault:{form}")

        assert said.pieces == TOKENS
        assert said.finish == WHOLE

    @pytest.mark.parametrize("form", ["json", "gzip"])
    def test_an_answer_that_is_no_stream_is_read_too(
        self, backend: AnthropicBackend, form: str
    ) -> None:
        said = ask(backend, f"fault:{form}")

        assert said.pieces == ["".join(TOKENS)]
        assert said.finish == WHOLE

    @pytest.mark.parametrize(("fault", "text"), [("utf8", "aé€😀"), ("surrogates", "a😀b")])
    def test_characters_that_are_cut_on_the_way_arrive_whole(
        self, backend: AnthropicBackend, fault: str, text: str
    ) -> None:
        assert ask(backend, f"fault:{fault}").text == text

    @pytest.mark.parametrize("fault", ["early 1 8 0.3", "early 3 4 2", "twice 3 5"])
    def test_text_after_the_finish_reason_belongs_to_the_answer(
        self, backend: AnthropicBackend, fault: str
    ) -> None:
        said = ask(backend, f"fault:{fault}")

        assert said.pieces == [f"w{number} " for number in range(int(fault.split()[2]))]

    @pytest.mark.parametrize("fault", ["early_cut", "empty"])
    def test_what_may_not_be_whole_is_no_answer(self, upstream: Upstream, fault: str) -> None:
        assert type(failure(backend_for(upstream, idle=5), f"fault:{fault}")) is UpstreamTruncated

    @pytest.mark.parametrize("fault", ["no_done", "no_finish"])
    def test_either_a_stop_reason_or_the_end_mark_makes_an_answer_whole(
        self, backend: AnthropicBackend, fault: str
    ) -> None:
        assert ask(backend, f"fault:{fault}").finish == WHOLE

    @pytest.mark.parametrize("fault", ["no_usage", "no_end", "cut_end"])
    def test_an_answer_with_a_stop_reason_is_whole_without_its_usage(
        self, backend: AnthropicBackend, fault: str
    ) -> None:
        began = time.monotonic()
        said = ask(backend, f"fault:{fault}")

        assert said.pieces == TOKENS
        assert said.finish == Finish(FinishReason.STOP)
        assert time.monotonic() - began < LONG_S / 2

    def test_what_a_cache_read_or_kept_counts_as_input(self, backend: AnthropicBackend) -> None:
        finish = ask(backend, "a b c").finish

        assert finish
        assert finish.usage == Usage(4 + 2 + 1, 3)


class TestStopReasons:
    @pytest.mark.parametrize(
        ("told", "reason"),
        [
            ("end_turn", FinishReason.STOP),
            ("stop_sequence", FinishReason.STOP),
            ("something_newer", FinishReason.STOP),
            ("max_tokens", FinishReason.LENGTH),
            ("model_context_window_exceeded", FinishReason.LENGTH),
        ],
    )
    def test_an_answer_says_why_it_ended(
        self, backend: AnthropicBackend, told: str, reason: FinishReason
    ) -> None:
        said = ask(backend, f"fault:reason {told}")

        assert said.pieces == TOKENS
        assert said.finish == Finish(reason, Usage(7, 5))

    def test_a_refusal_is_a_rejection_and_says_what_to_do(self, backend: AnthropicBackend) -> None:
        error = failure(backend, "fault:filter")

        assert type(error) is UpstreamRejected
        assert "refused" in error.message
        assert "change the prompt" in error.message
        assert error.details == {"reason": "content_policy"}

    def test_a_refusal_that_explains_itself_is_quoted(self, backend: AnthropicBackend) -> None:
        error = failure(backend, "fault:explained")

        assert type(error) is UpstreamRejected
        assert error.message.endswith("says: This could do harm.")
        assert error.details == {"reason": "content_policy"}

    @pytest.mark.parametrize(
        ("told", "kind"), [("pause_turn", UpstreamTruncated), ("tool_use", UpstreamError)]
    )
    def test_an_answer_that_only_a_next_call_could_end_is_no_success(
        self, backend: AnthropicBackend, told: str, kind: type[RunError]
    ) -> None:
        assert type(failure(backend, f"fault:reason {told}")) is kind


class TestRequests:
    def test_the_conversation_and_the_sampling_parameters_are_sent(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        earlier = [Message("system", "Be brief."), Message("user", "é"), Message("assistant", "b")]
        parameters: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5}
        ask(backend, "everything", earlier=earlier, stop=("\n", "END"), seed=0, **parameters)

        seen = upstream.seen("everything")
        assert seen["body"] == {
            "model": "big-model",
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "é"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "everything"},
            ],
            "stream": True,
            "stop_sequences": ["\n", "END"],
            **parameters,
        }
        assert seen["headers"]["x-api-key"] == KEY
        assert seen["headers"]["anthropic-version"] == "2023-06-01"
        assert seen["headers"]["accept-encoding"] == "identity"
        assert "authorization" not in seen["headers"]

    def test_what_is_not_set_is_not_sent_but_for_the_limit_that_the_api_demands(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        ask(backend, "nothing")

        body = upstream.seen("nothing")["body"]
        assert body.keys() == {"model", "messages", "stream", "max_tokens"}
        assert body["max_tokens"] == DEFAULT_MAX_TOKENS

    @pytest.mark.parametrize(
        ("earlier", "sent"),
        [
            (
                [Message("user", "a"), Message("user", "b"), Message("assistant", "c")],
                [("user", "a\n\nb"), ("assistant", "c")],
            ),
            (
                [Message("user", "a"), Message("assistant", "c"), Message("assistant", "d")],
                [("user", "a"), ("assistant", "c\n\nd")],
            ),
        ],
    )
    def test_roles_alternate(
        self,
        backend: AnthropicBackend,
        upstream: Upstream,
        earlier: Sequence[Message],
        sent: list[tuple[str, str]],
    ) -> None:
        prompt = f"alternate {len(sent[0][1])}"
        ask(backend, prompt, earlier=earlier)

        said = [
            (turn["role"], turn["content"]) for turn in upstream.seen(prompt)["body"]["messages"]
        ]
        assert said == [*sent, ("user", prompt)]

    def test_an_empty_answer_does_not_end_a_session(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        earlier = [Message("system", " "), Message("user", "a"), Message("assistant", " \n")]
        ask(backend, "go on", earlier=earlier)

        # The prompt is the last turn's text, so that is where the fake counts it.
        body = upstream.seen("a\n\ngo on")["body"]
        assert body["messages"] == [{"role": "user", "content": "a\n\ngo on"}]
        assert "system" not in body

    def test_a_temperature_that_the_api_does_not_know_is_rejected_before_a_call(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        error = failure(backend, "too hot", temperature=1.5)

        assert type(error) is UpstreamRejected
        assert "from 0 to 1" in error.message
        assert error.details == {"status": 400}
        assert upstream.seen("too hot")["calls"] == 0

    def test_the_highest_temperature_is_taken(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        ask(backend, "just hot", temperature=1.0)

        assert upstream.seen("just hot")["body"]["temperature"] == 1.0


class TestConnections:
    @pytest.mark.parametrize("fault", ["ok", "json", "status 529"])
    def test_a_connection_whose_answer_was_read_to_its_end_is_used_again(
        self, backend: AnthropicBackend, upstream: Upstream, fault: str
    ) -> None:
        prompt = f"fault:{fault} kept"
        for _ in range(3):
            if "status" in prompt:
                failure(backend, prompt)
            else:
                ask(backend, prompt)

        connections = upstream.seen(prompt)["connections"]
        assert len(connections) == 3
        assert len(set(connections)) == 1

    @pytest.mark.parametrize("fault", ["bad_json", "error 3 529", "cut_end"])
    def test_a_connection_with_an_unread_answer_is_never_used_again(
        self, backend: AnthropicBackend, upstream: Upstream, fault: str
    ) -> None:
        prompt, after = f"fault:{fault} unread", f"fault:ok after {fault}"
        if fault == "cut_end":
            ask(backend, prompt)
        else:
            failure(backend, prompt)
        eventually(lambda: upstream.seen(prompt)["open"] == 0, AT_ONCE_S)

        assert ask(backend, after).pieces == TOKENS
        assert upstream.seen(after)["connections"] != upstream.seen(prompt)["connections"]

    def test_many_answers_at_once_are_kept_apart(self, backend: AnthropicBackend) -> None:
        askings = [Asking(backend, f"fault:ok {n} 0.002") for n in range(1, 31)]

        for n, asking in enumerate(askings, start=1):
            asking.join()
            assert asking.error is None
            assert asking.said.pieces == [f"w{number} " for number in range(n)]


class TestRejections:
    @pytest.mark.parametrize(
        ("status", "more"), [(400, {}), (404, {}), (413, {"reason": "context_length"}), (422, {})]
    )
    def test_a_rejected_input_quotes_the_provider_and_says_so(
        self, backend: AnthropicBackend, status: int, more: dict[str, str]
    ) -> None:
        error = failure(backend, f"fault:status {status}")

        assert type(error) is UpstreamRejected
        assert error.message == "The provider rejected the request and says: upstream says no"
        assert error.details == {"status": status, **more}

    def test_so_it_is_in_the_middle_of_an_answer(self, backend: AnthropicBackend) -> None:
        error = failure(backend, "fault:error 3 400")

        assert type(error) is UpstreamRejected
        assert error.message.endswith("says: upstream says no")
        assert error.details == {"status": 400}

    def test_a_quote_is_bounded_and_free_of_control_characters(
        self, backend: AnthropicBackend
    ) -> None:
        message = failure(backend, "fault:long_error").message

        assert len(message.partition(": ")[2]) == 500
        assert message.isprintable()

    def test_a_quote_never_holds_the_key(self, backend: AnthropicBackend) -> None:
        assert failure(backend, "fault:leak").message.endswith("can't read ***")

    def test_an_empty_account_is_no_business_of_the_client(self, backend: AnthropicBackend) -> None:
        error = failure(backend, "fault:broke")

        assert type(error) is UpstreamError
        assert error.details == {"status": 400}
        assert "balance" not in error.message
        assert "operator should check" in error.message


class TestErrors:
    @pytest.mark.parametrize("status", [402, 408, 409, 418, 429, 500, 502, 503, 504, 529])
    def test_other_statuses_are_errors_without_the_providers_text(
        self, backend: AnthropicBackend, status: int
    ) -> None:
        error = failure(backend, f"fault:status {status}")

        assert type(error) is UpstreamError
        assert error.details == {"status": status}
        assert "says no" not in error.message

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials_are_the_operators_business(
        self, backend: AnthropicBackend, status: int
    ) -> None:
        error = failure(backend, f"fault:status {status}")

        assert type(error) is UpstreamError
        assert error.details == {"status": status}
        assert "credentials" in error.message
        assert "says no" not in error.message

    @pytest.mark.parametrize(
        ("prompt", "spent"),
        [
            ("fault:cut 3", Usage(7, 1)),
            ("fault:error 3 529", Usage(7, 1)),
            ("fault:filter 3", Usage(7, 3)),
            ("fault:cut 0", None),
            ("fault:status 529", None),
        ],
    )
    def test_what_a_failure_cost_is_told_where_the_provider_says_it(
        self, backend: AnthropicBackend, prompt: str, spent: Usage | None
    ) -> None:
        said = Said()
        with pytest.raises(RunError):
            ask(backend, prompt, said=said)

        assert (said.spent, said.finish) == (spent, None)

    def test_when_to_come_again_is_passed_on(self, backend: AnthropicBackend) -> None:
        assert failure(backend, "fault:status 529 7").details["retry_after"] == 7

    @pytest.mark.parametrize("status", [401, 403, 429, 500, 504, 529])
    @pytest.mark.parametrize("tokens", [0, 3])
    def test_an_error_in_the_stream_has_the_status_that_it_would_have_had_before(
        self, backend: AnthropicBackend, tokens: int, status: int
    ) -> None:
        error = failure(backend, f"fault:error {tokens} {status}")

        assert type(error) is UpstreamError
        assert error.details == {"status": status}
        assert "says no" not in error.message

    def test_an_error_of_a_newer_type_is_an_error(self, backend: AnthropicBackend) -> None:
        error = failure(backend, "fault:error 3 599")

        assert type(error) is UpstreamError
        assert error.details == {}

    @pytest.mark.parametrize(
        "fault",
        [
            "reset",
            "close",
            "junk",
            "page",
            "empty_json",
            "bad_json",
            "deep_json",
            "wrong_json",
            "odd_error",
            "html 404",
            "redirect",
        ],
    )
    def test_what_is_no_answer_is_an_error(self, backend: AnthropicBackend, fault: str) -> None:
        error = failure(backend, f"fault:{fault}")

        assert type(error) is UpstreamError
        assert "secret" not in error.message

    @pytest.mark.parametrize("tokens", [0, 3])
    @pytest.mark.parametrize("fault", ["cut", "cut_reset", "cut_clean"])
    def test_a_cut_answer_is_never_a_success(
        self, backend: AnthropicBackend, fault: str, tokens: int
    ) -> None:
        assert type(failure(backend, f"fault:{fault} {tokens}")) is UpstreamTruncated

    @pytest.mark.parametrize("fault", ["cut_json", "abort"])
    def test_nor_is_half_an_object_or_a_pause(self, backend: AnthropicBackend, fault: str) -> None:
        assert type(failure(backend, f"fault:{fault}")) is UpstreamTruncated

    @pytest.mark.parametrize(
        ("fault", "limit"), [("endless", "8 MiB"), ("long_line", "1,048,576 bytes")]
    )
    def test_an_answer_without_end_is_left_at_a_limit(
        self, backend: AnthropicBackend, upstream: Upstream, fault: str, limit: str
    ) -> None:
        assert limit in failure(backend, f"fault:{fault}").message
        eventually(lambda: upstream.seen(f"fault:{fault}")["client_closed"] == 1, AT_ONCE_S)

    def test_a_server_that_is_not_there_is_an_error(self, upstream: Upstream) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            url = f"http://127.0.0.1:{gone.getsockname()[1]}"

        assert "refused" in failure(backend_for(Upstream(url, 0)), "hello").message


class TestTimeouts:
    @pytest.mark.parametrize("fault", ["silent", "headers", "ping", "role"])
    def test_nothing_but_a_token_meets_the_first_token_timeout(
        self, upstream: Upstream, fault: str
    ) -> None:
        prompt = f"fault:{fault} impatient"
        error = failure(backend_for(upstream, first_token=0.2), prompt)

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "first_token"}
        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    @pytest.mark.parametrize("fault", ["stall", "alive_drip"])
    def test_a_stream_without_a_token_is_idle(self, upstream: Upstream, fault: str) -> None:
        error = failure(backend_for(upstream, idle=0.2), f"fault:{fault}")

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "idle"}

    def test_signs_of_life_between_tokens_are_no_tokens(self, upstream: Upstream) -> None:
        error = failure(backend_for(upstream, idle=0.3), "fault:alive 3 0.05 20")

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "idle"}

    @pytest.mark.parametrize("fault", ["reasoning", "hidden"])
    def test_thinking_is_no_answer_but_a_sign_of_life(self, upstream: Upstream, fault: str) -> None:
        said = ask(backend_for(upstream, first_token=0.3, idle=0.3), f"fault:{fault} 10 0.05")

        assert len(said.pieces) == 10


class TestStopping:
    @pytest.mark.parametrize("from_native_thread", [False, True])
    @pytest.mark.parametrize("fault", ["silent", "headers", "stall"])
    def test_a_stop_ends_every_wait_and_closes_the_socket(
        self, backend: AnthropicBackend, upstream: Upstream, fault: str, from_native_thread: bool
    ) -> None:
        prompt = f"fault:{fault} {from_native_thread}"
        asking = Asking(backend, prompt)
        eventually(lambda: upstream.seen(prompt)["open"] == 1)
        if fault == "stall":
            eventually(lambda: len(asking.said.pieces) == 3)
        if from_native_thread:
            start_native_thread(asking.signal.request, ())
        else:
            asking.signal.request()

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped
        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    def test_a_stop_takes_effect_between_two_tokens_that_are_there(
        self, backend: AnthropicBackend
    ) -> None:
        signal = StopSignal()
        stream = backend.stream(a_request(), [Message("user", "fault:packed")], signal)
        assert [next(stream), next(stream)] == [Usage(7, 1), "w0 "]
        signal.request()

        with pytest.raises(Stopped):
            next(stream)

    def test_closing_the_generator_closes_the_upstream_socket(
        self, backend: AnthropicBackend, upstream: Upstream
    ) -> None:
        prompt = "fault:stall 1 closed"
        messages = [Message("user", prompt)]
        with closing(backend.stream(a_request(), messages, StopSignal())) as stream:
            assert [next(stream), next(stream)] == [Usage(7, 1), "w0 "]

        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)


class TestSecrets:
    def test_the_key_is_in_no_representation_and_no_log(
        self, backend: AnthropicBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            ask(backend, "fault:ok")
            failure(backend, "fault:status 401")
            failure(backend, "fault:reset")

        assert KEY not in caplog.text
        assert KEY not in repr(backend)
