"""What is wrong with a request over HTTP, from its JSON down to its bytes, and what comes back.

Always the envelope, never a 500, and the service goes on as if nothing had been.
"""

import contextlib
import gzip
import socket
from collections.abc import Iterator

import pytest
import requests

from tests.e2e.client import (
    Json,
    answered,
    call,
    close,
    dialled,
    ended,
    exchange,
    get,
    post,
    read_answer,
    refused,
    request_head,
    submit,
)
from tests.served import Served, serve

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _unharmed(server: Served) -> Iterator[None]:
    """After each test, the shared server works and has logged no fault."""
    logged = len(server.log)
    yield
    assert answered(server, "still here") == "Echo: still here"
    assert "Traceback" not in server.log[logged:], server.log[logged:]


def post_bytes(
    server: Served, data: bytes, kind: str | None = "application/json"
) -> requests.Response:
    headers = {"Content-Type": kind} if kind else {}
    return call(server, "POST", "/infer", data=data, headers=headers)


def nested(depth: int) -> bytes:
    """A body of this many levels, the object itself included."""
    return b'{"prompt": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


# The body as JSON


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"{",
        b'{"prompt": "x"',
        b"{'prompt': 'x'}",
        b'{"prompt": "x",}',
        b'{"prompt": "x"} {"prompt": "y"}',
        b'{"prompt": "x\n"}',
        b'{"prompt": "\\x"}',
        b'{"prompt": 01}',
        b"\xff\xfe{\x00}\x00",
        b'{"prompt": "\xc3\x28"}',
        b'\xef\xbb\xbf{"prompt": "x"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b"prompt=x",
    ],
)
def test_what_is_not_json_is_refused(server: Served, body: bytes) -> None:
    refused(post_bytes(server, body), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_an_empty_body_is_refused(server: Served, body: bytes) -> None:
    error = refused(post_bytes(server, body), 400, "INVALID_REQUEST")
    assert "empty" in error["message"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"prompt"', b"3", b"true", b'[{"prompt": "x"}]'])
def test_json_that_is_no_object_is_refused(server: Served, body: bytes) -> None:
    refused(post_bytes(server, body), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ","],
)
def test_another_content_type_is_refused(server: Served, kind: str | None) -> None:
    error = refused(post_bytes(server, b'{"prompt": "x"}', kind), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert "application/json" in error["message"]


def test_an_encoded_body_is_refused(server: Served) -> None:
    body = gzip.compress(b'{"prompt": "x"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = call(server, "POST", "/infer", data=body, headers=headers)
    error = refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert "uncompressed" in error["message"]


@pytest.mark.parametrize(
    ("depth", "said"),
    [(33, "32 levels"), (100, "32 levels"), (5_000, "1000 values"), (400_000, "1000 values")],
)
def test_json_nested_too_deeply_is_refused(server: Served, depth: int, said: str) -> None:
    error = refused(post_bytes(server, nested(depth)), 400, "INVALID_REQUEST")
    assert said in error["message"]


def test_json_nested_as_deeply_as_may_be_is_read(server: Served) -> None:
    error = refused(post_bytes(server, nested(32)), 400, "INVALID_REQUEST")
    assert list(error["details"]["fields"]) == ["prompt"]


@pytest.mark.parametrize("text", ["{}", "[{}]", '{"a": {}}', '{"a": [0]}'])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_no_number_may_be_other_than_finite(server: Served, text: str, number: str) -> None:
    for field in ("temperature", "timeout_s", "metadata"):
        value = f'{{"a": {number}}}' if field == "metadata" else number
        body = f'{{"prompt": "x", "{field}": {value}}}'
        refused(post_bytes(server, body.encode()), 400, "INVALID_REQUEST")


@pytest.mark.parametrize("digits", [25, 400, 4_000, 100_000])
def test_a_huge_integer_is_refused_wherever_it_stands(server: Served, digits: int) -> None:
    number = "1" * digits
    bodies = [f'{{"prompt": "x", "metadata": {{"a": {number}}}}}']
    for field in ("temperature", "top_p", "max_tokens", "seed", "timeout_s", "queue_timeout_s"):
        bodies.append(f'{{"prompt": "x", "{field}": {number}}}')
    for body in bodies:
        refused(post_bytes(server, body.encode()), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "x", "prompt": "y"}',
        b'{"prompt": "x", "\\u0070rompt": "y"}',
        b'{"prompt": "x", "metadata": {"a": 1, "a": 1}}',
    ],
)
def test_a_key_that_comes_twice_is_refused(server: Served, body: bytes) -> None:
    error = refused(post_bytes(server, body), 400, "INVALID_REQUEST")
    assert "twice" in error["message"]


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\uDC00", "a\\ud83d", "\\ude00\\ud83d", "\\ud83d\\u0041"]
)
def test_half_a_surrogate_pair_is_refused(server: Served, text: str) -> None:
    for body in (
        f'{{"prompt": "{text}"}}',
        f'{{"prompt": "x", "metadata": {{"a": "{text}"}}}}',
        f'{{"prompt": "x", "metadata": {{"{text}": 1}}}}',
        f'{{"prompt": "x", "{text}": 1}}',
    ):
        error = refused(post_bytes(server, body.encode()), 400, "INVALID_REQUEST")
        assert "surrogate" in error["message"]


# The body's fields


WRONG: list[tuple[str, list[object]]] = [
    ("prompt", [None, 1, True, ["x"], {"a": "x"}, "", " \t\n", "\u2003\u00a0"]),
    ("session_id", [1, "", "a b", "a/b", "ü", "a\n", "x" * 129, ["a"], "a\u0000"]),
    ("metadata", [1, "a", ["a"], True]),
    ("metadata", [{"a": []}, {"a": {}}, {"a": "x" * 1025}, {"k" * 129: 1}, {"a": 2**63}]),
    ("metadata", [{f"k{number}": number for number in range(51)}]),
    ("metadata", [{"priority": value} for value in ("urgent", 1, True, "HIGH", "")]),
    ("priority", [1, "urgent", "", "HIGH", ["high"]]),
    ("stream", [1, 0, "true", "yes", [], {}]),
    ("model", [1, "", "gpt-9", ["echo"]]),
    ("system", [1, ["x"], {}]),
    ("max_tokens", [0, -1, 1.5, "10", True, 10**8]),
    ("temperature", [-0.1, 2.1, "1", True, []]),
    ("top_p", [0, -1, 1.1, "1", False]),
    ("stop", [1, "", ["a", "b", "c", "d", "e"], [""], [1], {"a": 1}, "x" * 257]),
    ("seed", [1.5, "1", True, 2**63, -(2**63) - 1]),
    ("timeout_s", [0, -1, 3600.1, "1", True, []]),
    ("queue_timeout_s", [0, -1, 3601, "1", True, {}]),
    ("on_busy", [1, "", "wait", ["reject"], "ENQUEUE"]),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG for value in values],
    ids=lambda part: str(part)[:30].encode("unicode_escape").decode(),
)
def test_a_field_that_breaks_its_rule_is_named(server: Served, field: str, value: object) -> None:
    error = refused(
        post(server, "/infer", {"prompt": "x"} | {field: value}), 400, "INVALID_REQUEST"
    )
    assert list(error["details"]["fields"]) == [field]
    assert error["message"].startswith(f"{field}: ")
    messages = error["details"]["fields"][field]
    assert isinstance(messages, list), messages
    assert all(isinstance(message, str) and message for message in messages)


def test_all_that_is_wrong_is_named_at_once(server: Served) -> None:
    body = {"prompt": "", "stream": "yes", "colour": "red", "max_tokens": 0}
    error = refused(post(server, "/infer", body), 400, "INVALID_REQUEST")
    assert sorted(error["details"]["fields"]) == sorted(body)


@pytest.mark.parametrize(
    "field", ["colour", "Prompt", "", "prompt ", "__proto__", "x" * 500, "ü\u0000"]
)
def test_an_unknown_field_is_refused_by_name(server: Served, field: str) -> None:
    error = refused(post(server, "/infer", {"prompt": "x", field: 1}), 400, "INVALID_REQUEST")
    (named,) = error["details"]["fields"]
    assert named == field[:100]


def test_the_prompt_is_required(server: Served) -> None:
    error = refused(post(server, "/infer", {}), 400, "INVALID_REQUEST")
    assert list(error["details"]["fields"]) == ["prompt"]


def test_metadata_at_its_limits_is_kept(server: Served) -> None:
    metadata: Json = {f"{number:0>128}": "ü" * 1024 for number in range(48)}
    metadata |= {"number": 2**63 - 1, "small": -0.5}
    assert ended(server, submit(server, metadata=metadata))["metadata"] == metadata


# The size of the body


def test_a_body_past_the_limit_is_too_large(server: Served) -> None:
    frame = len(b'{"prompt": ""}')
    for size in (MIB + 1, 3 * MIB):
        body = b'{"prompt": "%s"}' % (b"x" * (size - frame))
        refused(post_bytes(server, body), 413, "PAYLOAD_TOO_LARGE")


def test_a_body_that_only_says_it_is_too_large_is_refused_unread(server: Served) -> None:
    head = ["Content-Type: application/json", "Content-Length: 99999999999999"]
    answer = exchange(server, request_head("POST", "/api/v1/infer", *head))
    answer.refused(413, "PAYLOAD_TOO_LARGE")


def pieces(size: int, end: bytes) -> Iterator[bytes]:
    """A body in pieces, so that it is sent chunked, without a length."""
    yield b'{"prompt": "x"'
    for _ in range(size // 4096):
        yield b" " * 4096
    yield end


def test_a_chunked_body_within_the_limit_is_taken(server: Served) -> None:
    answer = call(
        server,
        "POST",
        "/infer",
        data=pieces(MIB // 2, b"}"),
        headers={"Content-Type": "application/json"},
    )
    assert ended(server, answer.json()["request_id"])["result"] == "Echo: x"


@pytest.mark.parametrize("end", [b"}", b"", b"} junk"])
def test_a_chunked_body_past_the_limit_is_too_large(server: Served, end: bytes) -> None:
    answer = call(
        server,
        "POST",
        "/infer",
        data=pieces(2 * MIB, end),
        headers={"Content-Type": "application/json"},
    )
    refused(answer, 413, "PAYLOAD_TOO_LARGE")


# Ids, cursors, queries, headers


@pytest.mark.parametrize(
    "request_id",
    [
        "nope",
        "cc53ad49-5e62-4900-a027-66020fc2989b",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "%00",
        "%ff",
        "%ed%a0%80",
        "%zz",
        "..%2e",
        "x" * 4000,
        "%F0%9F%98%80",
        "a;b=c",
        "<script>",
    ],
)
def test_an_id_that_is_none_is_not_found(server: Served, request_id: str) -> None:
    for method, door in (
        ("GET", "status"),
        ("GET", "result"),
        ("GET", "stream"),
        ("GET", "events"),
        ("POST", "cancel"),
        ("DELETE", "requests"),
        ("GET", "sessions"),
        ("DELETE", "sessions"),
    ):
        answer = exchange(server, request_head(method, f"/api/v1/{door}/{request_id}"))
        answer.refused(404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/requests?cursor=nonsense", "cursor"),
        ("/requests?cursor=", "cursor"),
        ("/requests?cursor=%00%ff", "cursor"),
        ("/requests?limit=0", "limit"),
        ("/requests?limit=101", "limit"),
        ("/requests?limit=ten", "limit"),
        ("/requests?limit=", "limit"),
        ("/requests?limit=1e1", "limit"),
        ("/requests?limit=99999999999999999999", "limit"),
        ("/requests?status=done", "status"),
        ("/requests?status=", "status"),
        ("/requests?status=PENDING", "status"),
        ("/requests?session_id=a%20b", "session_id"),
        ("/requests?session_id=", "session_id"),
        ("/sessions?limit=-1", "limit"),
        ("/sessions?cursor=a%2Fb", "cursor"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(server: Served, path: str, field: str) -> None:
    error = refused(get(server, path), 400, "INVALID_REQUEST")
    assert list(error["details"]["fields"]) == [field]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=x", "after"),
        ("after=", "after"),
        ("after=-2", "after"),
        ("after=1.5", "after"),
        ("after=99999999999999999999", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("wait=-1", "wait"),
        ("wait=61", "wait"),
        ("wait=soon", "wait"),
        ("wait=nan", "wait"),
        ("wait=1e999", "wait"),
        ("wait=0x1", "wait"),
        ("wait=", "wait"),
    ],
)
def test_an_events_page_that_makes_no_sense_is_refused(
    server: Served, query: str, field: str
) -> None:
    error = refused(get(server, f"/events/{submit(server)}?{query}"), 400, "INVALID_REQUEST")
    assert list(error["details"]["fields"]) == [field]


@pytest.mark.parametrize("door", ["status", "result", "cancel", "infer"])
@pytest.mark.parametrize(
    "preference", ["wait", "wait=", "wait=soon", "wait=-1", "wait=1.5", "wait=1e3"]
)
def test_a_wait_that_is_no_number_is_refused(server: Served, door: str, preference: str) -> None:
    headers = {"Prefer": preference}
    if door == "infer":
        answer = post(server, "/infer", {"prompt": "x"}, headers=headers)
    else:
        method = "POST" if door == "cancel" else "GET"
        answer = call(server, method, f"/{door}/{submit(server)}", headers=headers)
    error = refused(answer, 400, "INVALID_REQUEST")
    assert list(error["details"]["fields"]) == ["Prefer"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xfc"])
def test_an_idempotency_key_that_is_none_is_refused(server: Served, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    error = refused(
        post(server, "/infer", {"prompt": "x"}, headers=headers), 400, "INVALID_REQUEST"
    )
    assert list(error["details"]["fields"]) == ["Idempotency-Key"]


# Addresses and methods


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/infer", {"POST", "OPTIONS"}),
        ("PUT", "/infer", {"POST", "OPTIONS"}),
        ("PURGE", "/infer", {"POST", "OPTIONS"}),
        ("TRACE", "/infer", {"POST", "OPTIONS"}),
        ("POST", "/status/x", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/result/x", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/stream/x", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/events/x", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/cancel/x", {"POST", "OPTIONS"}),
        ("GET", "/requests/x", {"DELETE", "OPTIONS"}),
        ("PATCH", "/sessions/x", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("POST", "/models", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_told_which_are_right(
    server: Served, method: str, path: str, allowed: set[str]
) -> None:
    answer = call(server, method, path)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/status",
        "/api/v1/status/",
        "/api/v2/health",
        "/api//v1/health",
        "/api/v1/status//x",
        "//evil.example/",
        "/api/v1/status/a/b",
        "/api/v1/status/a%2Fb",
        "/api/v1/%69nfe%72x",
        "/api/v1/../v1/nope",
        "/api/v1/\\status",
        "/static/../app.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/.env",
        "/nul%00",
    ],
)
def test_an_address_where_nothing_is_is_not_found(server: Served, path: str) -> None:
    answer = exchange(server, request_head("GET", path))
    answer.refused(404, "NOT_FOUND")


def test_a_trailing_slash_changes_nothing(server: Served) -> None:
    request_id = submit(server, "one")
    ended(server, request_id)
    for path in (f"/status/{request_id}", f"/result/{request_id}", "/models", "/health"):
        assert get(server, f"{path}/").json() == get(server, path).json()
    answer = post(server, "/infer/", {"prompt": "x"})
    assert answer.headers["Location"] == f"/api/v1/status/{answer.json()['request_id']}"


def test_a_percent_encoded_address_is_the_address(server: Served) -> None:
    answer = exchange(server, request_head("GET", "/api/v1/%68ealt%68"))
    assert answer.status == 200


def test_a_head_is_a_get_without_its_body(server: Served) -> None:
    request_id = submit(server)
    ended(server, request_id)
    for path in (f"/status/{request_id}", f"/stream/{request_id}", "/health", "/status/nope"):
        with get(server, path, stream=True) as whole, call(server, "HEAD", path) as head:
            assert (head.status_code, head.content) == (whole.status_code, b"")
            assert head.headers["Content-Type"] == whole.headers["Content-Type"]


# The bytes


GARBAGE = {
    "nothing like it": b"\x00\x01\x02\xff\r\n\r\n",
    "a TLS greeting": bytes.fromhex("16030100a5010000a10303") + b"a" * 100 + b"\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
    "a method in small letters": b"get /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a raw NUL": b"GET /api/v1/status/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw UTF-8": "GET /api/v1/status/é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n",
    "a NUL in a header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "a negative length": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length that is none": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n",
    "two lengths": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length and chunks": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: foo\r\n\r\n0\r\n\r\n",
    "an unknown expectation": b"POST /api/v1/infer HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 3\r\nExpect: wonders\r\n\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_not_http_gets_the_envelope_and_no_second_chance(
    server: Served, data: bytes
) -> None:
    with dialled(server) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        answer = read_answer(sock)
        answer.refused(400, "INVALID_REQUEST")
        assert answer.headers["Connection"] == "close"
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


CHUNKED = request_head(
    "POST", "/api/v1/infer", "Content-Type: application/json", "Transfer-Encoding: chunked"
)


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2;\x00=\r\n{}\r\n0\r\n\r\n",
        b"\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_badly_chunked_body_is_refused_and_its_connection_closed(
    server: Served, body: bytes
) -> None:
    with dialled(server) as sock:
        sock.sendall(CHUNKED + body)
        read_answer(sock).refused(400, "INVALID_REQUEST")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


WHOLE = b'{"prompt": "x", "session_id": "cut"}'


@pytest.mark.parametrize(
    "data",
    [
        request_head(
            "POST", "/api/v1/infer", "Content-Type: application/json", "Content-Length: 99"
        )
        + WHOLE,
        CHUNKED + b"50\r\n" + WHOLE,
        CHUNKED + b"%x\r\n%s\r\n" % (len(WHOLE), WHOLE),
    ],
    ids=["before its length", "inside a chunk", "before the last chunk"],
)
def test_a_body_that_is_cut_is_refused_even_where_it_seems_whole(
    server: Served, data: bytes
) -> None:
    with dialled(server) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        read_answer(sock).refused(400, "INVALID_REQUEST")
    assert get(server, "/requests?session_id=cut").json()["data"] == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        request_head("POST", "/api/v1/infer", "Content-Length: 99"),
        CHUNKED + b"f",
        request_head("GET", "/health") * 3,
        request_head("GET", "/api/v1/requests?limit=100") * 20,
    ],
)
def test_a_client_that_vanishes_leaves_nothing_behind(server: Served, data: bytes) -> None:
    for reset in (False, True):
        with dialled(server) as sock:
            sock.sendall(data)
            close(sock, reset=reset)


@pytest.fixture(scope="module")
def alone() -> Iterator[Served]:
    """A server that nobody else talks to."""
    with serve() as served:
        yield served


def test_half_a_request_does_not_hold_its_connection_for_ever(alone: Served) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(dialled(alone)) for _ in range(4)]
        socks[0].sendall(b"GET /health HTT")
        socks[1].sendall(CHUNKED + b"f")
        socks[2].sendall(request_head("POST", "/api/v1/infer", "Content-Length: 9"))
        socks[3].sendall(
            request_head(
                "POST", "/api/v1/infer", "Content-Type: application/json", "Content-Length: 99"
            )
        )
        for sock in socks:
            sock.settimeout(12)
        read_answer(socks[1]).refused(400, "INVALID_REQUEST")
        read_answer(socks[2]).refused(415, "UNSUPPORTED_MEDIA_TYPE")
        read_answer(socks[3]).refused(400, "INVALID_REQUEST")
        for sock in socks:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert "Traceback" not in alone.log


def test_requests_that_follow_each_other_at_once_are_answered_in_order(server: Served) -> None:
    paths = ["/health", "/api/v1/models", "/nope", "/health"]
    with dialled(server) as sock:
        sock.sendall(b"".join(request_head("GET", path) for path in paths))
        reader = sock.makefile("rb")
        codes = []
        for _ in paths:
            codes.append(int(reader.readline().split()[1]))
            length = 0
            while (line := reader.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            reader.read(length)
        reader.close()
    assert codes == [200, 200, 404, 200]


@pytest.mark.parametrize("path", ["/", "/docs", "/static/app.js", "/api/v1/openapi.json"])
@pytest.mark.parametrize("header", ["If-Modified-Since", "If-Unmodified-Since", "If-Range"])
def test_a_date_out_of_all_range_is_ignored(server: Served, path: str, header: str) -> None:
    date = "Mon, 23 Nov 99999999999999999999 18:51:56 GMT"
    answer = requests.get(f"{server.url}{path}", headers={header: date}, timeout=10)
    assert answer.status_code == 200


def test_a_misspelt_field_is_named_before_the_one_that_is_missing(server: Served) -> None:
    refusal = post(server, "/infer", {"promt": "hello"})
    assert refusal.json()["error"]["message"].startswith("promt: There is no such field.")
