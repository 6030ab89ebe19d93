"""The REST door, field by field and code by code, as a client sees it."""

import re
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.e2e.client import (
    LONG,
    answer_of,
    call,
    connected,
    dialled,
    ended,
    frames,
    get,
    holds,
    occupied,
    peer_of,
    post,
    refused,
    request_head,
    status,
    stream,
    submit,
    until,
)
from tests.served import BUSY, Served, free_port, serve

FIVE = ["request_id", "session_id", "status", "result", "error"]
ADDED = [
    "model",
    "backend",
    "priority",
    "metadata",
    "attempts",
    "cached",
    "finish_reason",
    "error_code",
    "queue_position",
    "usage",
    "failed_usage",
    "metrics",
    "created_at",
    "started_at",
    "first_token_at",
    "completed_at",
    "expires_at",
    "cancel_requested_at",
]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
LONG_AGO = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """One request at a time, twenty words a second."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05", ORCHESTRATOR_CONCURRENCY="1") as served:
        yield served


@pytest.fixture(scope="module")
def broken() -> Iterator[Served]:
    """A server whose model can't be reached."""
    address = f"http://127.0.0.1:{free_port()}/v1"
    with serve(
        ORCHESTRATOR_BACKEND="openai", ORCHESTRATOR_MODEL="some-model", OPENAI_BASE_URL=address
    ) as served:
        yield served


@pytest.fixture(scope="module")
def expired() -> Iterator[tuple[Served, str]]:
    """A server that keeps a request for a second after its end, and one that it kept so long."""
    with serve(ORCHESTRATOR_RETENTION_S="1") as served:
        request_id = submit(served)
        ended(served, request_id)
        until(lambda: get(served, f"/status/{request_id}").status_code == 404)
        yield served, request_id


@pytest.fixture(scope="module")
def full() -> Iterator[Served]:
    """A server that runs one request and lets one wait, both taken."""
    with (
        serve(
            ORCHESTRATOR_ECHO_DELAY_S="0.05",
            ORCHESTRATOR_CONCURRENCY="1",
            ORCHESTRATOR_QUEUE_LIMIT="1",
        ) as served,
        occupied(served),
    ):
        waiting = submit(served)
        yield served
        post(served, f"/cancel/{waiting}")


# Submit and poll


def test_a_submit_answers_with_exactly_the_five_fields(server: Served) -> None:
    answer = post(server, "/infer", {"prompt": "hello", "session_id": "abc-123"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert sorted(body) == sorted(FIVE)
    assert uuid.UUID(body["request_id"]).version == 7
    assert body["session_id"] == "abc-123"
    assert (body["status"], body["result"], body["error"]) == ("processing", None, None)
    assert answer.headers["Location"] == f"/api/v1/status/{body['request_id']}"


def test_a_submit_without_a_session_gets_a_new_one(server: Served) -> None:
    first, second = (post(server, "/infer", {"prompt": "hello"}).json() for _ in range(2))
    assert uuid.UUID(first["session_id"])
    assert first["session_id"] != second["session_id"]


def test_the_body_of_the_specification_is_taken_as_it_stands(server: Served) -> None:
    body = {
        "prompt": "Explain quantum computing",
        "session_id": "550e8400-e29b-41d4-a716-446655440000",
        "metadata": {"user_id": "user-1", "priority": "high"},
        "stream": False,
    }
    answer = post(server, "/infer", body)
    assert answer.status_code == 200
    now = ended(server, answer.json()["request_id"])
    assert now["metadata"] == body["metadata"]
    assert now["priority"] == "high"


def test_a_result_is_202_until_it_is_there_and_then_200(slow: Served) -> None:
    request_id = submit(slow, "one two three", session_id="poll")
    answer = get(slow, f"/result/{request_id}")
    assert answer.status_code == 202
    assert int(answer.headers["Retry-After"]) >= 1
    assert sorted(answer.json()) == sorted(FIVE)
    assert answer.json()["status"] in ("pending", "processing")
    assert (answer.json()["result"], answer.json()["error"]) == (None, None)

    done = until(lambda: (now := get(slow, f"/result/{request_id}")).status_code == 200 and now)
    assert "Retry-After" not in done.headers
    assert done.json() == {
        "request_id": request_id,
        "session_id": "poll",
        "status": "completed",
        "result": "Echo: one two three",
        "error": None,
    }


def test_a_status_says_all_that_is_known(server: Served) -> None:
    request_id = submit(server, "one two three", metadata={"a": 1, "b": None, "c": "ü", "d": 0.5})
    now = ended(server, request_id)
    assert sorted(now) == sorted(FIVE + ADDED)
    assert now["status"] == "completed"
    assert now["result"] == "Echo: one two three"
    assert (now["model"], now["backend"], now["priority"]) == ("echo", "echo", "normal")
    assert now["metadata"] == {"a": 1, "b": None, "c": "ü", "d": 0.5}
    assert (now["attempts"], now["finish_reason"], now["error_code"]) == (1, "stop", None)
    assert now["queue_position"] is None
    assert now["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert sorted(now["metrics"]) == ["queue_ms", "run_ms", "ttft_ms"]
    assert all(isinstance(value, int) and value >= 0 for value in now["metrics"].values())
    times = [now[name] for name in ADDED if name.endswith("_at") and not name.startswith("cancel")]
    assert all(RFC_3339.fullmatch(moment) for moment in times)
    assert times == sorted(times)
    assert now["cancel_requested_at"] is None


def test_a_queued_request_says_how_many_are_ahead(slow: Served) -> None:
    with occupied(slow):
        first, second = submit(slow), submit(slow)
        now = status(slow, second)
        assert now["status"] == "pending"
        assert now["queue_position"] == status(slow, first)["queue_position"] + 1
        assert [now[name] for name in ("backend", "started_at", "usage", "expires_at")] == [
            None
        ] * 4
        assert now["attempts"] == 0
        assert now["metrics"] == {"queue_ms": None, "ttft_ms": None, "run_ms": None}
        assert get(slow, f"/result/{second}").status_code == 202
    assert ended(slow, second)["queue_position"] is None


def test_a_length_limit_is_the_finish_reason(server: Served) -> None:
    now = ended(server, submit(server, "one two three", max_tokens=2))
    assert (now["result"], now["finish_reason"]) == ("Echo: one ", "length")


@pytest.mark.parametrize(
    "prompt",
    [
        "naïve – “quotes” — ‰",
        "👩‍👩‍👧‍👦 family 🇩🇪 flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "語学 مرحبا שלום नमस्ते",
        "e\u0301 is not \u00e9, \u2028 and \u2029 end no line",
        'quotes " back\\slash <script>&amp;</script>',
        "nul \u0000 bell \u0007 end",
        "\ud7ff \ue000 \ufeff \uffff \U0010ffff",
    ],
)
def test_text_comes_back_as_it_went_in(server: Served, prompt: str) -> None:
    request_id = submit(server, prompt, metadata={"text": prompt})
    now = ended(server, request_id)
    assert now["result"] == f"Echo: {prompt}"
    assert now["metadata"] == {"text": prompt}
    events = get(server, f"/events/{request_id}").json()["events"]
    assert "".join(event["data"].get("data", "") for event in events) == f"Echo: {prompt}"


def test_an_escaped_surrogate_pair_is_one_character(server: Served) -> None:
    answer = call(
        server,
        "POST",
        "/infer",
        data=b'{"prompt": "\\ud83d\\ude00"}',
        headers={"Content-Type": "application/json"},
    )
    assert ended(server, answer.json()["request_id"])["result"] == "Echo: \U0001f600"


def test_a_request_of_the_full_megabyte_is_taken(server: Served) -> None:
    words = "word" * 1000 + " "
    frame = len('{"prompt": ""}')
    prompt = (words * (1024 * 1024 // len(words) + 1))[: 1024 * 1024 - frame - 1] + "x"
    answer = call(
        server,
        "POST",
        "/infer",
        data=f'{{"prompt": "{prompt}"}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200
    assert ended(server, answer.json()["request_id"])["result"] == f"Echo: {prompt}"


def test_null_means_the_same_as_leaving_a_field_out(server: Served) -> None:
    names = "session_id metadata priority stream model system max_tokens temperature top_p stop"
    names += " seed timeout_s queue_timeout_s on_busy"
    request_id = submit(server, "one", **dict.fromkeys(names.split()))
    assert ended(server, request_id)["result"] == "Echo: one"


def test_a_json_type_with_a_charset_is_json(server: Served) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        answer = call(
            server, "POST", "/infer", data=b'{"prompt": "x"}', headers={"Content-Type": kind}
        )
        assert answer.status_code == 200, kind


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_health_is_what_the_specification_says(server: Served, path: str) -> None:
    answer = requests.get(f"{server.url}{path}", timeout=10)
    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    assert answer.json()["service"] == "web-api"


def test_a_server_that_serves_is_live_and_ready(server: Served) -> None:
    for path in ("/health/live", "/health/ready"):
        assert requests.get(f"{server.url}{path}", timeout=10).status_code == 200


def test_models_lists_what_a_submit_may_name(server: Served) -> None:
    models = get(server, "/models").json()["data"]
    assert models == [{"id": "echo", "backend": "echo", "default": True}]
    assert ended(server, submit(server, "one", model="echo"))["model"] == "echo"


# Ends other than success


def test_a_failed_request_is_500_with_its_cause(broken: Served) -> None:
    request_id = submit(broken, session_id="failing")
    now = ended(broken, request_id)
    assert (now["status"], now["error_code"]) == ("failed", "UPSTREAM_ERROR")
    assert now["finish_reason"] == "error"
    assert now["result"] is None
    error = refused(get(broken, f"/result/{request_id}"), 500, "PROCESSING_FAILED")
    assert error["details"] == {"request_id": request_id, "cause": "UPSTREAM_ERROR"}
    assert error["message"] == now["error"]
    waited = post(broken, "/infer", {"prompt": "x"}, headers={"Prefer": "wait=10"})
    assert waited.status_code == 200
    assert sorted(waited.json()) == sorted(FIVE)
    assert waited.json()["status"] == "failed"


def test_the_address_of_the_upstream_reaches_no_client(broken: Served) -> None:
    assert "127.0.0.1" not in str(ended(broken, submit(broken)))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status/{id}"),
        ("GET", "/result/{id}"),
        ("GET", "/stream/{id}"),
        ("GET", "/events/{id}"),
        ("POST", "/cancel/{id}"),
        ("DELETE", "/requests/{id}"),
    ],
)
def test_an_id_that_never_was_is_told_from_one_that_expired(
    expired: tuple[Served, str], method: str, path: str
) -> None:
    server, request_id = expired
    refused(call(server, method, path.format(id=uuid.uuid4())), 404, "NOT_FOUND")
    refused(call(server, method, path.format(id=request_id)), 404, "RESULT_EXPIRED")
    refused(call(server, method, path.format(id=LONG_AGO)), 404, "RESULT_EXPIRED")


def test_the_deadline_of_a_run_ends_it(slow: Served) -> None:
    request_id = submit(slow, LONG, timeout_s=0.3)
    now = ended(slow, request_id)
    assert (now["status"], now["error_code"]) == ("failed", "DEADLINE_EXCEEDED")
    assert now["metrics"]["run_ms"] < 2000
    error = refused(get(slow, f"/result/{request_id}"), 500, "PROCESSING_FAILED")
    assert error["details"] == {
        "request_id": request_id,
        "cause": "DEADLINE_EXCEEDED",
        "stage": "run",
    }
    assert stream(slow, f"/stream/{request_id}")[-1].data["error"]["details"] == {"stage": "run"}


def test_the_deadline_of_the_queue_ends_what_waits(slow: Served) -> None:
    with occupied(slow):
        request_id = submit(slow, queue_timeout_s=0.2)
        now = ended(slow, request_id)
    assert (now["status"], now["error_code"]) == ("failed", "DEADLINE_EXCEEDED")
    assert now["started_at"] is None
    error = refused(get(slow, f"/result/{request_id}"), 500, "PROCESSING_FAILED")
    assert error["details"]["stage"] == "queue"
    (only,) = stream(slow, f"/stream/{request_id}")
    assert (only.id, only.event) == (0, "complete")
    assert only.data["error"]["details"] == {"stage": "queue"}


def test_a_full_queue_is_503_and_says_when_to_come_back(full: Served) -> None:
    answer = post(full, "/infer", {"prompt": "one more"})
    refused(answer, 503, "PIPELINE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1
    streamed = post(full, "/infer", {"prompt": "x"}, headers={"Accept": "text/event-stream"})
    refused(streamed, 503, "PIPELINE_UNAVAILABLE")
    assert requests.get(f"{full.url}/health", timeout=10).status_code == 200


# Waiting


def test_prefer_wait_answers_with_the_finished_request(slow: Served) -> None:
    answer = post(slow, "/infer", {"prompt": "one two"}, headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert sorted(answer.json()) == sorted(FIVE)
    assert (answer.json()["status"], answer.json()["result"]) == ("completed", "Echo: one two")
    assert answer.headers["Preference-Applied"] == "wait=10"
    assert answer.headers["Location"].endswith(answer.json()["request_id"])


@pytest.mark.parametrize("preference", ["wait=1", "respond-async, wait=0", 'wait="0"'])
def test_prefer_wait_answers_202_with_what_still_runs(slow: Served, preference: str) -> None:
    answer = post(slow, "/infer", {"prompt": LONG}, headers={"Prefer": preference})
    post(slow, f"/cancel/{answer.json()['request_id']}?wait=10")
    assert answer.status_code == 202
    assert sorted(answer.json()) == sorted(FIVE)
    assert answer.json()["status"] == "processing"
    assert answer.headers["Preference-Applied"] == f"wait={preference.strip(chr(34))[-1]}"


def test_prefer_respond_async_is_202_at_once(server: Served) -> None:
    answer = post(server, "/infer", {"prompt": "one"}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.json()["status"] == "processing"


def test_a_preference_that_changes_nothing_is_not_said_to_be_applied(server: Served) -> None:
    request_id = submit(server)
    for method, path in (
        ("GET", f"/status/{request_id}"),
        ("GET", f"/result/{request_id}"),
        ("GET", f"/events/{request_id}"),
        ("POST", f"/cancel/{request_id}"),
    ):
        answer = call(server, method, path, headers={"Prefer": "respond-async"})
        assert "Preference-Applied" not in answer.headers, path


@pytest.mark.parametrize("asked", ["60", "61", "9999999999", "9" * 400])
def test_a_longer_wait_than_there_is_is_the_longest(server: Served, asked: str) -> None:
    request_id = submit(server)
    ended(server, request_id)
    answer = get(server, f"/status/{request_id}", headers={"Prefer": f"wait={asked}"})
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_of_a_preference_that_comes_twice_the_first_counts(server: Served) -> None:
    request_id = submit(server)
    for preferred in (
        "wait=3, wait=x",
        'foo="a, wait=9", WAIT = 3; x=y',
        "handling=lenient,wait=3",
    ):
        answer = get(server, f"/status/{request_id}", headers={"Prefer": preferred})
        assert answer.status_code == 200
        assert answer.headers["Preference-Applied"] == "wait=3"


def test_an_unknown_preference_is_ignored(server: Served) -> None:
    answer = post(server, "/infer", {"prompt": "x"}, headers={"Prefer": "return=minimal, ,=;"})
    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("door", ["status", "result"])
def test_a_long_poll_answers_the_moment_the_request_ends(slow: Served, door: str) -> None:
    for asked in ({"params": {"wait": "15"}}, {"headers": {"Prefer": "wait=15"}}):
        request_id = submit(slow, "one two three four")
        began = time.monotonic()
        answer = get(slow, f"/{door}/{request_id}", **asked)
        assert answer.status_code == 200
        assert answer.json()["result"] == "Echo: one two three four"
        assert time.monotonic() - began < 5
    assert answer.headers["Preference-Applied"] == "wait=15"


def test_a_long_poll_answers_when_the_request_is_cancelled_meanwhile(slow: Served) -> None:
    with occupied(slow) as (running,), ThreadPoolExecutor(2) as pool:
        pending = submit(slow)
        polls = [pool.submit(get, slow, f"/result/{id_}?wait=15") for id_ in (running, pending)]
        time.sleep(0.2)
        began = time.monotonic()
        post(slow, f"/cancel/{pending}")
        post(slow, f"/cancel/{running}")
        for poll in polls:
            refused(poll.result(), 409, "CANCELLED")
        assert time.monotonic() - began < BUSY


def test_a_long_poll_that_runs_out_answers_with_what_there_is(slow: Served) -> None:
    with occupied(slow) as (request_id,):
        began = time.monotonic()
        answer = get(slow, f"/result/{request_id}?wait=0.3")
        assert 0.3 <= time.monotonic() - began < BUSY
        assert answer.status_code == 202
        assert get(slow, f"/status/{request_id}?wait=0").json()["status"] == "processing"


def test_who_leaves_a_long_poll_is_noticed_within_five_seconds(slow: Served) -> None:
    with occupied(slow), dialled(slow) as one, dialled(slow) as other:
        request_id = submit(slow)
        one.sendall(request_head("GET", f"/api/v1/result/{request_id}?wait=60"))
        other.sendall(request_head("GET", f"/api/v1/events/{request_id}?wait=60"))
        peers = [peer_of(slow, one), peer_of(slow, other)]
        until(lambda: all(holds(slow, peer) for peer in peers))
        one.close()
        other.close()
        until(lambda: not any(holds(slow, peer) for peer in peers), timeout=5)
        assert status(slow, request_id)["status"] == "pending"
        post(slow, f"/cancel/{request_id}")


def test_a_client_that_leaves_while_waiting_cancels_nothing(slow: Served) -> None:
    body = b'{"prompt": "one two three", "session_id": "left"}'
    with dialled(slow) as sock:
        head = [f"Content-Length: {len(body)}", "Content-Type: application/json", "Prefer: wait=9"]
        sock.sendall(request_head("POST", "/api/v1/infer", *head) + body)
        (listed,) = until(lambda: get(slow, "/requests?session_id=left").json()["data"])
    assert ended(slow, listed["request_id"])["result"] == "Echo: one two three"


# Ids


def test_an_id_is_read_in_either_case(server: Served) -> None:
    request_id = submit(server)
    shouted = request_id.upper()
    assert get(server, f"/result/{shouted}?wait=10").json()["request_id"] == request_id
    assert status(server, shouted)["request_id"] == request_id
    assert stream(server, f"/stream/{shouted}")[-1].event == "complete"
    assert get(server, f"/events/{shouted}").json()["done"]
    assert post(server, f"/cancel/{shouted}").json()["request_id"] == request_id
    with connected(server) as socket:
        socket.send({"type": "subscribe", "request_id": shouted})
        assert socket.until("result")[-1]["request_id"] == request_id
    assert call(server, "DELETE", f"/requests/{shouted}").status_code == 204
    refused(get(server, f"/status/{request_id}"), 404, "NOT_FOUND")


# The stream as the answer


@pytest.mark.parametrize("accept", ["text/event-stream", "text/event-stream;charset=utf-8"])
def test_a_submit_that_accepts_a_stream_gets_it(server: Served, accept: str) -> None:
    with requests.post(
        f"{server.api}/infer",
        json={"prompt": "one two three"},
        headers={"Accept": accept},
        stream=True,
        timeout=10,
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = list(frames(answer))
    request_id = events[0].data["request_id"]
    assert answer.headers["Content-Location"] == f"/api/v1/stream/{request_id}"
    assert answer_of(events) == "Echo: one two three"
    assert events == stream(server, f"/stream/{request_id}")


@pytest.mark.parametrize(
    "accept",
    [
        *("*/*", "application/json", "application/json, text/plain, */*", "", "text/*;q=0,*/*"),
        *("application/json; charset=utf-8", "text/event-stream;q=0.1, application/json;odata=v"),
    ],
)
def test_a_submit_that_accepts_anything_gets_json(server: Served, accept: str) -> None:
    answer = post(server, "/infer", {"prompt": "x"}, headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["status"] == "processing"


def test_a_submit_that_accepts_neither_form_is_refused(server: Served) -> None:
    answer = post(server, "/infer", {"prompt": "x"}, headers={"Accept": "image/png"})
    refused(answer, 406, "NOT_ACCEPTABLE")


# Idempotency


def test_a_key_with_the_same_body_is_one_request(server: Served) -> None:
    key = {"Idempotency-Key": f"same-{uuid.uuid4()}"}
    first = post(server, "/infer", {"prompt": "one", "metadata": {"a": 1, "b": 2}}, headers=key)
    assert "Idempotent-Replayed" not in first.headers
    again = post(server, "/infer", {"metadata": {"b": 2, "a": 1}, "prompt": "one"}, headers=key)
    assert again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    waited = post(
        server,
        "/infer",
        {"prompt": "one", "metadata": {"a": 1, "b": 2}},
        headers=key | {"Prefer": "wait=10"},
    )
    assert waited.json()["result"] == "Echo: one"
    assert waited.headers["Idempotent-Replayed"] == "true"


def test_a_key_stands_for_its_request_also_once_the_result_has_expired(
    expired: tuple[Served, str],
) -> None:
    server, _ = expired
    body, key = {"prompt": "one"}, {"Idempotency-Key": f"late-{uuid.uuid4()}"}
    first = post(server, "/infer", body, headers=key).json()
    path = f"/status/{first['request_id']}"
    until(lambda: get(server, path).status_code == 404)
    again = post(server, "/infer", body, headers=key)
    assert (again.status_code, again.json()) == (200, first)
    assert again.headers["Idempotent-Replayed"] == "true"
    # Who wants the result at once is told that there is none, and of which request.
    for wanted in ({"Prefer": "wait=10"}, {"Accept": "text/event-stream"}):
        answer = post(server, "/infer", body, headers=key | wanted)
        refused(answer, 404, "RESULT_EXPIRED")
        assert first["request_id"] in answer.json()["error"]["message"]


def test_a_key_with_another_body_is_refused(server: Served) -> None:
    key = {"Idempotency-Key": f"other-{uuid.uuid4()}"}
    first = post(server, "/infer", {"prompt": "one"}, headers=key)
    refused(post(server, "/infer", {"prompt": "two"}, headers=key), 422, "IDEMPOTENCY_KEY_REUSED")
    assert post(server, "/infer", {"prompt": "one"}, headers=key).json() == first.json()


def test_a_refused_submit_does_not_use_up_its_key(server: Served) -> None:
    key = {"Idempotency-Key": f"refused-{uuid.uuid4()}"}
    refused(post(server, "/infer", {"prompt": " "}, headers=key), 400, "INVALID_REQUEST")
    answer = post(server, "/infer", {"prompt": "one"}, headers=key)
    assert answer.status_code == 200
    assert "Idempotent-Replayed" not in answer.headers


def test_a_submit_refused_for_want_of_room_does_not_use_up_its_key(full: Served) -> None:
    key = {"Idempotency-Key": "no-room"}
    for _ in range(2):
        answer = post(full, "/infer", {"prompt": "one more"}, headers=key)
        refused(answer, 503, "PIPELINE_UNAVAILABLE")


def test_twenty_racing_submits_with_one_key_are_one_request(server: Served) -> None:
    key = {"Idempotency-Key": f"race-{uuid.uuid4()}"}
    body = {"prompt": "one", "session_id": f"race-{uuid.uuid4()}"}
    together = threading.Barrier(20)

    def race() -> requests.Response:
        together.wait(20)
        return post(server, "/infer", body, headers=key)

    with ThreadPoolExecutor(20) as pool:
        answers = [racer.result() for racer in [pool.submit(race) for _ in range(20)]]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["request_id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    listed = get(server, f"/requests?session_id={body['session_id']}").json()["data"]
    assert len(listed) == 1


# Cancel


def test_cancelling_what_waits_ends_it_at_once(slow: Served) -> None:
    with occupied(slow):
        request_id = submit(slow)
        answer = post(slow, f"/cancel/{request_id}")
        assert answer.status_code == 200
        assert sorted(answer.json()) == sorted(FIVE)
        assert (answer.json()["status"], answer.json()["result"]) == ("cancelled", None)
        now = status(slow, request_id)
        assert (now["started_at"], now["finish_reason"]) == (None, "cancelled")
        assert RFC_3339.fullmatch(now["cancel_requested_at"])
        (only,) = stream(slow, f"/stream/{request_id}")
        assert (only.event, only.data) == ("complete", {"status": "cancelled"})


def test_cancelling_what_runs_keeps_what_there_is(slow: Served) -> None:
    with occupied(slow) as (request_id,):
        answer = post(slow, f"/cancel/{request_id}")
        assert answer.status_code == 202
        until(lambda: status(slow, request_id)["status"] == "cancelled", timeout=BUSY)
        now = status(slow, request_id)
        assert now["result"].startswith("Echo: ")
        assert now["finish_reason"] == "cancelled"
        error = refused(get(slow, f"/result/{request_id}"), 409, "CANCELLED")
        assert error["details"]["request_id"] == request_id
        *_, last = events = stream(slow, f"/stream/{request_id}")
        assert (last.event, last.data) == ("complete", {"status": "cancelled"})
        assert answer_of(events) == now["result"]
        assert ended(slow, submit(slow))["status"] == "completed", "the slot is free again"


def test_cancel_can_wait_for_the_end(slow: Served) -> None:
    with occupied(slow) as (request_id,):
        answer = post(slow, f"/cancel/{request_id}?wait=10")
        assert answer.status_code == 200
        assert answer.json()["status"] == "cancelled"


def test_cancelling_what_has_ended_changes_nothing(server: Served) -> None:
    request_id = submit(server)
    before = ended(server, request_id)
    answer = post(server, f"/cancel/{request_id}")
    assert answer.status_code == 200
    assert answer.json() == {name: before[name] for name in FIVE}
    assert status(server, request_id) == before


def test_cancelling_twice_is_cancelling_once(slow: Served) -> None:
    with occupied(slow) as (request_id,):
        codes = [post(slow, f"/cancel/{request_id}").status_code for _ in range(2)]
        assert codes[0] == 202
        assert post(slow, f"/cancel/{request_id}?wait=10").json()["status"] == "cancelled"


# The events page


def test_the_events_page_is_the_stream_as_json(server: Served) -> None:
    request_id = submit(server, "one two")
    ended(server, request_id)
    page = get(server, f"/events/{request_id}").json()
    assert sorted(page) == ["done", "events", "next"]
    as_stream = [
        (frame.id, frame.event, frame.data) for frame in stream(server, f"/stream/{request_id}")
    ]
    assert [(one["seq"], one["event"], one["data"]) for one in page["events"]] == as_stream
    assert (page["next"], page["done"]) == (len(as_stream) - 1, True)


def test_the_events_page_goes_on_where_it_stopped(server: Served) -> None:
    request_id = submit(server, "one two")
    ended(server, request_id)
    whole = get(server, f"/events/{request_id}").json()
    for limit in (1, 2, 3):
        after, seen, done = -1, [], False
        while not done:
            page = get(server, f"/events/{request_id}?after={after}&limit={limit}").json()
            assert len(page["events"]) <= limit
            seen, after, done = seen + page["events"], page["next"], page["done"]
        assert seen == whole["events"]
    past = get(server, f"/events/{request_id}?after={whole['next']}").json()
    assert past == {"events": [], "next": whole["next"], "done": True}


def test_the_events_page_waits_for_the_next_event(slow: Served) -> None:
    with occupied(slow):
        request_id = submit(slow, "one")
        began = time.monotonic()
        nothing = get(slow, f"/events/{request_id}?wait=0.3").json()
        assert nothing == {"events": [], "next": -1, "done": False}
        assert time.monotonic() - began >= 0.3
        with ThreadPoolExecutor(1) as pool:
            page = pool.submit(get, slow, f"/events/{request_id}?wait=15")
            time.sleep(0.1)
            post(slow, f"/cancel/{request_id}")
            events = page.result().json()
        assert events["done"]
        assert events["events"][-1]["data"] == {"status": "cancelled"}


# Lists


def test_requests_are_listed_newest_first_page_by_page(server: Served) -> None:
    session_id = f"list-{uuid.uuid4()}"
    ids = [submit(server, session_id=session_id) for _ in range(5)]
    for request_id in ids:
        ended(server, request_id)
    listed: list[str] = []
    path = more = f"/requests?session_id={session_id}&limit=2"
    while more:
        page = get(server, more).json()
        assert sorted(page) == ["data", "has_more", "next_cursor"]
        assert len(page["data"]) <= 2
        assert page["has_more"] == (page["next_cursor"] is not None)
        listed += [one["request_id"] for one in page["data"]]
        more = f"{path}&cursor={page['next_cursor']}" if page["has_more"] else ""
    assert listed == ids[::-1]
    whole = get(server, f"/requests?session_id={session_id}").json()["data"]
    assert whole == [status(server, request_id) for request_id in ids[::-1]]


def test_requests_are_listed_by_status(slow: Served) -> None:
    with occupied(slow, session_id="by-status") as (running,):
        waiting = submit(slow, session_id="by-status")
        gone = submit(slow, session_id="by-status")
        post(slow, f"/cancel/{gone}")
        for name, request_id in (
            ("processing", running),
            ("pending", waiting),
            ("cancelled", gone),
        ):
            page = get(slow, f"/requests?session_id=by-status&status={name}").json()
            assert [one["request_id"] for one in page["data"]] == [request_id]
        page = get(slow, "/requests?session_id=by-status&status=completed").json()
        assert page["data"] == []


def test_a_deleted_request_is_gone(server: Served) -> None:
    session_id = f"delete-{uuid.uuid4()}"
    request_id = submit(server, session_id=session_id)
    ended(server, request_id)
    with requests.Session() as session:
        answer = session.delete(f"{server.api}/requests/{request_id}", timeout=10)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "Content-Type" not in answer.headers
        again = session.delete(f"{server.api}/requests/{request_id}", timeout=10)
        refused(again, 404, "NOT_FOUND")
    for path in (f"/status/{request_id}", f"/result/{request_id}", f"/stream/{request_id}"):
        refused(get(server, path), 404, "NOT_FOUND")
    assert get(server, f"/requests?session_id={session_id}").json()["data"] == []


def test_a_live_request_is_not_deleted(slow: Served) -> None:
    with occupied(slow) as (running,):
        waiting = submit(slow)
        for request_id in (running, waiting):
            refused(call(slow, "DELETE", f"/requests/{request_id}"), 409, "IN_PROGRESS")
        post(slow, f"/cancel/{waiting}")
    assert call(slow, "DELETE", f"/requests/{waiting}").status_code == 204


# Priorities


def test_what_is_more_urgent_runs_first(slow: Served) -> None:
    with occupied(slow):
        ids = {
            "low": submit(slow, "x", priority="low"),
            "normal": submit(slow, "x"),
            "high": submit(slow, "x", metadata={"priority": "high"}),
            "high too": submit(slow, "x", priority="high", metadata={"priority": "low"}),
        }
        assert status(slow, ids["high too"])["priority"] == "high"
        assert status(slow, ids["low"])["queue_position"] == 3
        assert status(slow, ids["high"])["queue_position"] == 0
    times = {name: ended(slow, request_id)["started_at"] for name, request_id in ids.items()}
    assert sorted(times, key=lambda name: times[name]) == ["high", "high too", "normal", "low"]
