"""The openai backend against a real server that does what servers do, and worse."""

import json
import logging
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from gevent.monkey import get_original

from orchestrator.backends.base import Finish, Message, may_pass
from orchestrator.backends.openai import OpenAIBackend
from orchestrator.errors import (
    DeadlineExceeded,
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
from tests.needs import lacking, needs
from tests.served import BUSY

KEY = "sk-0123456789abcdef"
TOKENS = [f"w{number} " for number in range(5)]

# Far longer than anything here takes: what waits for this hangs.
LONG_S = 30.0
AT_ONCE_S = 1.0 * BUSY

start_native_thread = get_original("_thread", "start_new_thread")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as upstream:
        yield upstream


@pytest.fixture
def backend(upstream: Upstream) -> OpenAIBackend:
    return backend_for(upstream.url)


def backend_for(url: str, api_key: str | None = KEY, **seconds: float) -> OpenAIBackend:
    return OpenAIBackend(
        url,
        "big-model",
        api_key,
        connect_timeout_s=seconds.get("connect", LONG_S),
        first_token_timeout_s=seconds.get("first_token", LONG_S),
        idle_timeout_s=seconds.get("idle", LONG_S),
        max_connections=4,
    )


def failure(backend: OpenAIBackend, prompt: str) -> RunError:
    with pytest.raises(RunError) as caught:
        ask(backend, prompt)
    assert KEY not in caught.value.message
    return caught.value


class TestWholeAnswers:
    @pytest.mark.parametrize(
        "prompt",
        [
            "fault:ok",
            "fault:crlf",
            "fault:cr",
            "fault:bom",
            "fault:comments",
            "fault:multiline",
            "fault:packed",
            "fault:reasoning",
            "fault:http10",
            "fault:closing",
        ],
    )
    def test_every_form_of_a_stream_gives_the_same_pieces(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        said = ask(backend, prompt)

        assert said.pieces == TOKENS
        assert said.finish == Finish(FinishReason.STOP, Usage(7, 5))

    @pytest.mark.parametrize("hints", ["1 100", "1 102", "1 103", "3 103", "30 199"])
    def test_what_comes_before_the_answer_itself_is_read_past(
        self, backend: OpenAIBackend, hints: str
    ) -> None:
        for number in range(3):
            said = ask(backend, f"fault:hints {hints} {number + 4}")
            assert said.text == "".join(f"w{word} " for word in range(number + 4))

    @pytest.mark.parametrize("prompt", ["fault:json", "fault:gzip"])
    def test_an_answer_that_is_no_stream_is_read_too(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        said = ask(backend, prompt)

        assert said.pieces == ["".join(TOKENS)]
        assert said.finish == Finish(FinishReason.STOP, Usage(7, 5))

    @pytest.mark.parametrize(
        ("prompt", "text"), [("fault:utf8", "aé€😀"), ("fault:surrogates", "a😀b")]
    )
    def test_characters_that_are_cut_on_the_way_arrive_whole(
        self, backend: OpenAIBackend, prompt: str, text: str
    ) -> None:
        assert ask(backend, prompt).text == text

    @pytest.mark.parametrize("fault", ["early 1 8 0.3", "early 3 4 2", "twice 3 5", "twice 3 4 2"])
    def test_text_after_the_finish_reason_belongs_to_the_answer(
        self, backend: OpenAIBackend, fault: str
    ) -> None:
        said = ask(backend, f"fault:{fault}")

        assert said.pieces == [f"w{number} " for number in range(int(fault.split()[2]))]

    @pytest.mark.parametrize(
        ("fault", "idle", "longest"), [("used_no_end", LONG_S, 1.0), ("no_end", 0.5, 0.5)]
    )
    def test_an_answer_without_an_end_is_not_waited_for_long(
        self, upstream: Upstream, fault: str, idle: float, longest: float
    ) -> None:
        began = time.monotonic()

        assert ask(backend_for(upstream.url, idle=idle), f"fault:{fault}").pieces == TOKENS
        assert time.monotonic() - began < longest + AT_ONCE_S

    @pytest.mark.parametrize("fault", ["early_cut", "empty"])
    def test_what_may_not_be_whole_is_no_answer(self, upstream: Upstream, fault: str) -> None:
        assert (
            type(failure(backend_for(upstream.url, idle=5), f"fault:{fault}")) is UpstreamTruncated
        )

    @pytest.mark.parametrize("prompt", ["fault:no_done", "fault:no_finish"])
    def test_either_a_finish_reason_or_the_end_mark_makes_an_answer_whole(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        assert ask(backend, prompt).finish == Finish(FinishReason.STOP, Usage(7, 5))

    @pytest.mark.parametrize("prompt", ["fault:no_usage", "fault:no_end", "fault:cut_end"])
    def test_an_answer_with_a_finish_reason_is_whole_without_its_usage(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        began = time.monotonic()
        said = ask(backend, prompt)

        assert said.text == "".join(TOKENS)
        assert said.finish == Finish(FinishReason.STOP)
        assert time.monotonic() - began < LONG_S / 2

    def test_an_answer_that_met_its_limit_says_so(self, backend: OpenAIBackend) -> None:
        finish = ask(backend, "fault:length").finish

        assert finish == Finish(FinishReason.LENGTH, Usage(7, 5))


class TestRequests:
    def test_the_conversation_and_the_sampling_parameters_are_sent(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        earlier = [Message("system", "Be brief."), Message("user", "é"), Message("assistant", "b")]
        parameters: dict[str, Any] = {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "seed": 0}
        ask(backend, "everything", earlier=earlier, stop=("\n", "END"), **parameters)

        seen = upstream.seen("everything")
        assert seen["body"] == {
            "model": "big-model",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "é"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "everything"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "stop": ["\n", "END"],
            **parameters,
        }
        assert seen["headers"]["authorization"] == f"Bearer {KEY}"
        assert seen["headers"]["accept-encoding"] == "identity"

    def test_what_is_not_set_is_not_sent(self, upstream: Upstream) -> None:
        ask(backend_for(upstream.url, api_key=None), "nothing")

        seen = upstream.seen("nothing")
        assert seen["body"].keys() == {"model", "messages", "stream", "stream_options"}
        assert "authorization" not in seen["headers"]

    def test_a_base_url_may_have_a_host_name(self, upstream: Upstream) -> None:
        url = upstream.url.replace("127.0.0.1", "localhost")

        assert ask(backend_for(url), "fault:ok").pieces == TOKENS

    def test_a_base_url_may_end_in_a_slash(self, upstream: Upstream) -> None:
        assert ask(backend_for(f"{upstream.url}/"), "fault:ok").pieces == TOKENS


class TestConnections:
    @pytest.mark.parametrize(
        "prompt", ["fault:ok kept", "fault:json kept", "fault:status 500 kept", "fault:gzip kept"]
    )
    def test_a_connection_whose_answer_was_read_to_its_end_is_used_again(
        self, backend: OpenAIBackend, upstream: Upstream, prompt: str
    ) -> None:
        for _ in range(3):
            if "status" in prompt:
                failure(backend, prompt)
            else:
                ask(backend, prompt)

        connections = upstream.seen(prompt)["connections"]
        assert len(connections) == 3
        assert len(set(connections)) == 1

    @pytest.mark.parametrize(
        "prompt",
        ["fault:endless", "fault:bad_json", "fault:error", "fault:stuck_error", "fault:cut_end"],
    )
    def test_a_connection_with_an_unread_answer_is_closed_and_never_used_again(
        self, upstream: Upstream, prompt: str
    ) -> None:
        prompt, backend = f"{prompt} unread", backend_for(upstream.url, first_token=5)
        if "cut_end" in prompt:
            ask(backend, prompt)
        elif "endless" in prompt:
            with closing(backend.stream(a_request(prompt), turns(prompt), StopSignal())) as stream:
                next(stream)
        else:
            backend = backend_for(upstream.url, first_token=0.3)
            failure(backend, prompt)
        eventually(lambda: upstream.seen(prompt)["open"] == 0, AT_ONCE_S)

        after = f"fault:ok after {prompt}"
        assert ask(backend, after).pieces == TOKENS
        assert upstream.seen(after)["connections"] != upstream.seen(prompt)["connections"]

    @pytest.mark.parametrize("hints", ["1 101", "1000 103", "1000 100"])
    def test_a_connection_that_leads_to_no_answer_is_given_up(
        self, backend: OpenAIBackend, upstream: Upstream, hints: str
    ) -> None:
        prompt = f"fault:hints {hints}"
        assert "no HTTP answer" in failure(backend, prompt).message
        eventually(lambda: upstream.seen(prompt)["open"] == 0, AT_ONCE_S)

        after = f"fault:ok after {prompt}"
        assert ask(backend, after).pieces == TOKENS
        assert upstream.seen(after)["connections"] != upstream.seen(prompt)["connections"]

    def test_a_kept_connection_that_the_server_closed_fails_no_request(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        for _ in range(20):
            assert ask(backend, "fault:closing often").pieces == TOKENS

        assert len(set(upstream.seen("fault:closing often")["connections"])) == 20

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_a_kept_connection_that_ends_without_a_word_is_replaced_once(
        self, backend: OpenAIBackend, upstream: Upstream, end: str
    ) -> None:
        once, ever = f"fault:first 1 {end} once", f"fault:{end} ever"
        ask(backend, "fault:ok")
        assert ask(backend, once).pieces == TOKENS
        failure(backend, ever)

        for prompt in (once, ever):
            kept, fresh = upstream.seen(prompt)["connections"]
            assert kept != fresh

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_however_many_are_kept_a_request_is_sent_once_more_at_most(
        self, backend: OpenAIBackend, upstream: Upstream, end: str
    ) -> None:
        streams = [backend.stream(a_request(), turns("fault:ok"), StopSignal()) for _ in range(4)]
        for stream in [*streams, *streams]:
            next(stream)
        for stream in streams:
            list(stream)

        prompt = f"fault:{end} after a crowd"
        for _ in range(3):
            failure(backend, prompt)

        assert upstream.seen(prompt)["calls"] == 3 + 1

    @pytest.mark.parametrize("prompt", ["fault:close", "fault:reset"])
    def test_a_fresh_connection_that_breaks_fails_the_call(
        self, backend: OpenAIBackend, upstream: Upstream, prompt: str
    ) -> None:
        assert isinstance(failure(backend, prompt), UpstreamError)
        assert len(upstream.seen(prompt)["connections"]) == 1

    def test_no_more_connections_are_kept_than_allowed(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        prompt = "fault:ok 2 crowd"
        for _ in range(2):
            streams = [
                backend.stream(a_request(prompt), turns(prompt), StopSignal()) for _ in range(8)
            ]
            assert [next(stream) for stream in streams] == ["w0 "] * 8
            for stream in streams:
                assert isinstance(list(stream)[-1], Finish)

        assert len(set(upstream.seen(prompt)["connections"])) == 8 + 4

    def test_many_answers_at_once_are_kept_apart(self, backend: OpenAIBackend) -> None:
        askings = [Asking(backend, f"fault:ok {n} 0.002") for n in range(1, 41)]

        for n, asking in enumerate(askings, start=1):
            asking.join()
            assert asking.error is None
            assert asking.said.pieces == [f"w{number} " for number in range(n)]


class TestRejections:
    @pytest.mark.parametrize(
        ("prompt", "text", "status"),
        [
            ("fault:status 400", "upstream says no", 400),
            ("fault:status 404", "upstream says no", 404),
            ("fault:status 422", "upstream says no", 422),
            ("fault:detail 422", "top_p is too large", 422),
            ("fault:error 3 400", "upstream says no", 400),
        ],
    )
    def test_a_rejected_input_quotes_the_provider_and_says_so(
        self, backend: OpenAIBackend, prompt: str, text: str, status: int
    ) -> None:
        error = failure(backend, prompt)

        assert type(error) is UpstreamRejected
        assert error.message == f"The provider rejected the request and says: {text}"
        assert error.details == {"status": status}

    @pytest.mark.parametrize(
        ("prompt", "details"),
        [
            ("fault:status 413", {"status": 413, "reason": "context_length"}),
            ("fault:html 413", {"status": 413, "reason": "context_length"}),
            ("fault:html 400", {"status": 400}),
            ("fault:html 422", {"status": 422}),
            ("fault:endless_error 400", {"status": 400}),
            ("fault:stuck_error 400", {"status": 400}),
        ],
    )
    def test_an_input_that_is_rejected_without_a_word_is_so_in_ours(
        self, upstream: Upstream, prompt: str, details: dict[str, Any]
    ) -> None:
        error = failure(backend_for(upstream.url, first_token=1), prompt)

        assert type(error) is UpstreamRejected
        assert error.details == details
        assert "prompt" in error.message or "says: upstream says no" in error.message
        assert "secret" not in error.message

    @pytest.mark.parametrize("prompt", ["fault:moderated", "fault:policy", "fault:explained 0"])
    def test_what_the_provider_refuses_on_principle_is_told(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        error = failure(backend, prompt)

        assert type(error) is UpstreamRejected
        assert error.details["reason"] == "content_policy"
        assert error.message.startswith("The provider rejected the request and says: ")

    def test_a_refusal_is_whole_in_its_error(self, backend: OpenAIBackend) -> None:
        assert failure(backend, "fault:explained 0").message.endswith(": This could do harm.")

    def test_a_quote_is_bounded_and_free_of_control_characters(
        self, backend: OpenAIBackend
    ) -> None:
        message = failure(backend, "fault:long_error").message

        quote = message.partition(": ")[2]
        assert quote.startswith("bad [31m input yyy")
        assert len(quote) == 500
        assert message.isprintable()

    def test_a_quote_never_holds_the_key(self, backend: OpenAIBackend) -> None:
        assert failure(backend, "fault:leak").message.endswith("can't read Bearer ***")

    def test_a_content_filter_is_a_rejection(self, backend: OpenAIBackend) -> None:
        assert type(failure(backend, "fault:filter")) is UpstreamRejected


class TestErrors:
    @pytest.mark.parametrize("status", [408, 409, 418, 425, 429, 500, 502, 503, 529])
    def test_other_statuses_are_errors_without_the_providers_text(
        self, backend: OpenAIBackend, status: int
    ) -> None:
        error = failure(backend, f"fault:status {status}")

        assert type(error) is UpstreamError
        assert error.details == {"status": status}
        assert "says no" not in error.message

    @pytest.mark.parametrize("fault", ["status 401", "status 403", "html 403"])
    def test_refused_credentials_are_the_operators_business(
        self, backend: OpenAIBackend, fault: str
    ) -> None:
        error = failure(backend, f"fault:{fault}")

        assert type(error) is UpstreamError
        assert error.details == {"status": int(fault.split()[1])}
        assert "credentials" in error.message
        assert "says no" not in error.message

    def test_an_empty_account_is_the_operators_business_and_passes_by_no_waiting(
        self, backend: OpenAIBackend
    ) -> None:
        error = failure(backend, "fault:spent")

        assert type(error) is UpstreamError
        assert error.details == {"status": 402}
        assert not may_pass(402)
        assert "quota" not in error.message

    @pytest.mark.parametrize(
        "prompt",
        [
            "fault:detail 404",
            "fault:html 404",
            "fault:broke",
            "fault:redirect",
        ],
    )
    def test_a_status_without_a_reason_for_the_client_is_an_error(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        error = failure(backend, prompt)

        assert type(error) is UpstreamError
        assert str(error.details["status"]) in error.message
        assert "secret" not in error.message

    @pytest.mark.parametrize(
        ("prompt", "low", "high"),
        [
            ("fault:status 429 7", 7, 7),
            ("fault:status 503 0.5", 0.5, 0.5),
            ("fault:busy_ms", 1.5, 1.5),
            ("fault:busy_until", 20, 30),
        ],
    )
    def test_when_to_come_again_is_passed_on(
        self, backend: OpenAIBackend, prompt: str, low: float, high: float
    ) -> None:
        assert low <= failure(backend, prompt).details["retry_after"] <= high

    @pytest.mark.parametrize(
        "prompt",
        [
            "fault:reset",
            "fault:close",
            "fault:junk",
            "fault:page",
            "fault:empty_json",
            "fault:bad_json",
            "fault:deep_json",
            "fault:wrong_json",
            "fault:odd_error",
        ],
    )
    def test_what_is_no_answer_is_an_error(self, backend: OpenAIBackend, prompt: str) -> None:
        assert type(failure(backend, prompt)) is UpstreamError

    def test_an_error_object_in_the_stream_is_an_error_without_its_text(
        self, backend: OpenAIBackend
    ) -> None:
        error = failure(backend, "fault:error 3 503")

        assert type(error) is UpstreamError
        assert error.details == {"status": 503}
        assert "says no" not in error.message

    @pytest.mark.parametrize(
        ("error", "kind", "details"),
        [
            ({"type": "invalid_request_error"}, UpstreamRejected, {"status": 400}),
            (
                {"type": "invalid_request_error", "code": "context_length_exceeded"},
                UpstreamRejected,
                {"status": 400, "reason": "context_length"},
            ),
            (
                {"code": "content_filter"},
                UpstreamRejected,
                {"status": 400, "reason": "content_policy"},
            ),
            ({"type": "BadRequestError", "code": 400}, UpstreamRejected, {"status": 400}),
            ({"type": "invalid_request_error", "code": 20015}, UpstreamRejected, {"status": 400}),
            ({"type": "invalid_request_error", "code": 401}, UpstreamError, {"status": 401}),
            ({"type": "invalid_request_error", "code": 500}, UpstreamError, {"status": 500}),
            ({"type": "whatever", "code": "429"}, UpstreamError, {"status": 429}),
            ({"type": "server_error", "code": 20015}, UpstreamError, {}),
        ],
    )
    def test_an_error_in_the_stream_is_what_its_status_or_else_its_type_says(
        self,
        backend: OpenAIBackend,
        error: dict[str, Any],
        kind: type[RunError],
        details: dict[str, Any],
    ) -> None:
        said = json.dumps({"message": "no", **error}, separators=(",", ":"))
        caught = failure(backend, f"fault:said_error {said}")

        assert (type(caught), caught.details) == (kind, details)

    @pytest.mark.parametrize(
        "prompt",
        ["fault:cut", "fault:cut_reset", "fault:cut_clean", "fault:cut_json", "fault:abort"],
    )
    def test_a_cut_answer_is_never_a_success(self, backend: OpenAIBackend, prompt: str) -> None:
        assert type(failure(backend, prompt)) is UpstreamTruncated

    @pytest.mark.parametrize(
        ("prompt", "spent"),
        [
            ("fault:counted 3", Usage(7, 3)),
            ("fault:filter 3", Usage(7, 3)),
            ("fault:cut", None),
            ("fault:status 500", None),
        ],
    )
    def test_what_a_failure_cost_is_told_where_the_provider_says_it(
        self, backend: OpenAIBackend, prompt: str, spent: Usage | None
    ) -> None:
        said = Said()
        with pytest.raises(RunError):
            ask(backend, prompt, said=said)

        assert (said.spent, said.finish) == (spent, None)

    @pytest.mark.parametrize("prompt", ["fault:cut 0", "fault:cut_reset 0", "fault:cut_clean 0"])
    def test_an_answer_that_is_cut_before_its_first_token_is_no_empty_one(
        self, backend: OpenAIBackend, prompt: str
    ) -> None:
        assert type(failure(backend, prompt)) is UpstreamTruncated

    @pytest.mark.parametrize(
        ("prompt", "limit"),
        [
            ("fault:endless", "8 MiB"),
            ("fault:long_line", "1,048,576 bytes"),
            ("fault:long_event", "1,048,576 bytes"),
            ("fault:gzip_bomb", "1,048,576 bytes"),
            ("fault:gzip_json_bomb", "8,388,608 bytes"),
        ],
    )
    def test_an_answer_without_end_is_left_at_a_limit(
        self, backend: OpenAIBackend, upstream: Upstream, prompt: str, limit: str
    ) -> None:
        assert limit in failure(backend, prompt).message
        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    def test_an_upstream_that_outpaces_us_lets_others_run(self, backend: OpenAIBackend) -> None:
        asking = Asking(backend, "fault:endless beside others")
        eventually(lambda: asking.said.pieces)
        turns = 0
        while not asking.error:
            time.sleep(0)
            turns += 1

        assert turns > 20

    def test_a_server_that_is_not_there_is_an_error(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            url = f"http://127.0.0.1:{gone.getsockname()[1]}/v1"

        assert "connection refused" in failure(backend_for(url), "hello").message

    def test_a_host_that_no_name_server_could_know_is_an_error(self) -> None:
        message = failure(backend_for(f"http://{'x' * 64}.example/v1"), "hello").message

        assert "host name can't be resolved" in message


class TestTimeouts:
    @pytest.mark.parametrize(
        "prompt",
        [
            "fault:silent",
            "fault:drip_head",
            "fault:headers",
            "fault:ping",
            "fault:drip",
            "fault:role",
        ],
    )
    def test_nothing_but_a_token_meets_the_first_token_timeout(
        self, upstream: Upstream, prompt: str
    ) -> None:
        prompt = f"{prompt} impatient" if prompt[-1].isalpha() else prompt
        error = failure(backend_for(upstream.url, first_token=0.2), prompt)

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "first_token"}
        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    @pytest.mark.parametrize("prompt", ["fault:stall", "fault:alive_drip"])
    def test_a_stream_without_a_token_is_idle(self, upstream: Upstream, prompt: str) -> None:
        error = failure(backend_for(upstream.url, idle=0.2), prompt)

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "idle"}

    def test_signs_of_life_between_tokens_are_no_tokens(self, upstream: Upstream) -> None:
        error = failure(backend_for(upstream.url, idle=0.3), "fault:alive 3 0.05 20")

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "idle"}

    def test_reasoning_is_no_answer_but_a_sign_of_life(self, upstream: Upstream) -> None:
        said = ask(backend_for(upstream.url, first_token=0.3, idle=0.3), "fault:reasoning 10 0.05")

        assert len(said.pieces) == 10
        assert said.thought

    def test_a_slow_reader_is_not_the_providers_silence(self, upstream: Upstream) -> None:
        backend, prompt = backend_for(upstream.url, idle=0.05), "fault:ok 3"
        pieces = []
        for item in backend.stream(a_request(prompt), turns(prompt), StopSignal()):
            time.sleep(0.1)
            pieces.append(item)

        assert pieces[:3] == TOKENS[:3]

    def test_connecting_has_its_own_timeout(self) -> None:
        with full_server() as port:
            error = failure(backend_for(f"http://127.0.0.1:{port}/v1", connect=0.2), "hello")

        assert type(error) is UpstreamTimeout
        assert error.details == {"stage": "connect"}

    def test_a_tls_handshake_is_part_of_connecting(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}/v1"
            error = failure(backend_for(url, connect=0.2), "hello")

        assert error.details == {"stage": "connect"}

    def test_a_name_look_up_is_part_of_connecting(self, slow_look_up: Event) -> None:
        error = failure(backend_for("http://slow.example/v1", connect=0.2), "hello")

        assert error.details == {"stage": "connect"}


class TestStopping:
    @pytest.mark.parametrize("from_native_thread", [False, True])
    @pytest.mark.parametrize(
        "prompt", ["fault:silent", "fault:drip_head 0.02", "fault:headers", "fault:stall"]
    )
    def test_a_stop_ends_every_wait_for_the_upstream(
        self, backend: OpenAIBackend, upstream: Upstream, prompt: str, from_native_thread: bool
    ) -> None:
        prompt += f" {from_native_thread}"
        asking = Asking(backend, prompt)
        eventually(lambda: upstream.seen(prompt)["open"] == 1)
        if "stall" in prompt:
            eventually(lambda: len(asking.said.pieces) == 3)
        request_stop(asking, from_native_thread)

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped
        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    @pytest.mark.parametrize("from_native_thread", [False, True])
    def test_a_stop_ends_a_wait_for_the_connection(self, from_native_thread: bool) -> None:
        with full_server() as port:
            asking = Asking(backend_for(f"http://127.0.0.1:{port}/v1"), "hello")
            eventually(lambda: is_connecting_to(port))
            request_stop(asking, from_native_thread)

            assert asking.join() < AT_ONCE_S
            assert type(asking.error) is Stopped
            assert not is_connecting_to(port)

    def test_a_stop_ends_a_wait_for_the_tls_handshake(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}/v1"
            asking = Asking(backend_for(url), "hello")
            with mute.accept()[0] as accepted:
                assert accepted.recv(1)
                asking.signal.request()

                assert asking.join() < AT_ONCE_S
                assert type(asking.error) is Stopped

    def test_a_stop_ends_a_wait_for_the_name_look_up(self, slow_look_up: Event) -> None:
        asking = Asking(backend_for("http://slow.example/v1"), "hello")
        assert slow_look_up.wait(LONG_S)
        asking.signal.request()

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped

    def test_a_stop_ends_the_sending_of_a_request_that_nobody_reads(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
            asking = Asking(backend_for(url), "x" * 16 * 1024 * 1024)
            with mute.accept()[0] as accepted:
                assert accepted.recv(1)
                asking.signal.request()

                assert asking.join() < AT_ONCE_S
                assert type(asking.error) is Stopped

    def test_a_stop_with_a_reason_is_still_a_stop(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        asking = Asking(backend, "fault:silent with a reason")
        eventually(lambda: upstream.seen("fault:silent with a reason")["open"] == 1)
        asking.signal.request(DeadlineExceeded("too late", stage="run"))
        asking.join()

        assert type(asking.error) is Stopped

    def test_a_stop_takes_effect_between_two_tokens_that_are_there(
        self, backend: OpenAIBackend
    ) -> None:
        signal = StopSignal()
        stream = backend.stream(a_request("fault:packed"), turns("fault:packed"), signal)
        assert next(stream) == "w0 "
        signal.request()

        with pytest.raises(Stopped):
            next(stream)

    def test_a_stop_that_came_first_calls_nobody(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        signal = StopSignal()
        signal.request()

        with pytest.raises(Stopped):
            ask(backend, "too early", signal=signal)
        assert upstream.seen("too early")["calls"] == 0

    def test_closing_the_generator_closes_the_upstream_socket(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        prompt = "fault:stall 1 closed"
        with closing(backend.stream(a_request(prompt), turns(prompt), StopSignal())) as stream:
            assert next(stream) == "w0 "

        eventually(lambda: upstream.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    def test_stops_at_any_moment_leave_no_socket_behind(
        self, backend: OpenAIBackend, upstream: Upstream
    ) -> None:
        ask(backend, "fault:ok")
        before = open_files()
        prompt = "fault:ok 20 0.002 any moment"
        for moment in range(40):
            asking = Asking(backend, prompt)
            time.sleep(moment / 1500)
            asking.signal.request()
            asking.join()
            assert asking.error is None or type(asking.error) is Stopped

        eventually(lambda: upstream.seen(prompt)["open"] == 0)
        # Two descriptors for each connection that may be kept.
        eventually(lambda: open_files() <= before + 2 * 4)


class TestTLS:
    def test_answers_come_over_tls_on_one_connection(
        self, trusting: OpenAIBackend, secure: Upstream
    ) -> None:
        for _ in range(3):
            assert ask(trusting, "fault:ok").pieces == TOKENS

        assert len(set(secure.seen("fault:ok")["connections"])) == 1

    @pytest.mark.parametrize("from_native_thread", [False, True])
    @pytest.mark.parametrize("prompt", ["fault:silent", "fault:headers", "fault:stall"])
    def test_a_stop_works_under_tls(
        self, trusting: OpenAIBackend, secure: Upstream, prompt: str, from_native_thread: bool
    ) -> None:
        prompt += f" {from_native_thread}"
        asking = Asking(trusting, prompt)
        eventually(lambda: secure.seen(prompt)["open"] == 1)
        request_stop(asking, from_native_thread)

        assert asking.join() < AT_ONCE_S
        assert type(asking.error) is Stopped
        eventually(lambda: secure.seen(prompt)["client_closed"] == 1, AT_ONCE_S)

    @pytest.mark.parametrize("prompt", ["fault:ping", "fault:stall"])
    def test_timeouts_work_under_tls(
        self, trusting: OpenAIBackend, secure: Upstream, prompt: str
    ) -> None:
        backend = backend_for(secure.url, first_token=0.5, idle=0.2)

        assert type(failure(backend, prompt)) is UpstreamTimeout

    def test_a_cut_under_tls_is_a_cut(self, trusting: OpenAIBackend) -> None:
        for prompt in ("fault:cut", "fault:cut_reset", "fault:cut_clean"):
            assert type(failure(trusting, prompt)) is UpstreamTruncated

    def test_a_certificate_that_nobody_vouches_for_is_refused(self, secure: Upstream) -> None:
        message = failure(backend_for(secure.url), "hello").message

        assert "certificate isn't valid" in message


class TestSecrets:
    def test_the_key_is_in_no_representation_and_no_log(
        self, backend: OpenAIBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            ask(backend, "fault:ok")
            failure(backend, "fault:status 401")
            failure(backend, "fault:reset")

        assert KEY not in caplog.text
        assert KEY not in repr(backend)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [needs("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def secure(certificate: tuple[Path, Path]) -> Iterator[Upstream]:
    with start_upstream(*certificate) as upstream:
        yield upstream


@pytest.fixture
def trusting(
    secure: Upstream, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> OpenAIBackend:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    return backend_for(secure.url)


@pytest.fixture
def slow_look_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Make look-ups of real names wait; the event says that one does."""
    begun, enough = Event(), Event()
    look_up = socket.getaddrinfo

    def slow(host: str, port: int, *, type: int, flags: int = 0) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            begun.set()
            enough.wait(LONG_S)
            raise socket.gaierror
        return look_up(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    yield begun
    enough.set()


def turns(prompt: str) -> list[Message]:
    return [Message("user", prompt)]


def request_stop(asking: Asking, from_native_thread: bool) -> None:
    if from_native_thread:
        start_native_thread(asking.signal.request, ())
    else:
        asking.signal.request()


@contextmanager
def full_server() -> Iterator[int]:
    """Give the port of a server that takes no more connections: the next one waits for ever."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = server.getsockname()[1]
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def is_connecting_to(port: int) -> bool:
    """Return whether a connection of more than the server's own two is being opened."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        lacking("There is no /proc/net/tcp to see connections in.")
    waiting = [
        line
        for line in table.read_text().splitlines()[1:]
        if line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "02"
    ]
    return len(waiting) > CONNECTING_ALREADY


# Of full_server's own two connections the first is taken and the second is not.
CONNECTING_ALREADY = 1


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))
