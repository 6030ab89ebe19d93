"""What is wrong with a WebSocket connection or its frames, and what comes back."""

import contextlib
import json
import socket as sockets
import struct
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import websocket

from tests.e2e.client import (
    PATIENCE_S,
    Socket,
    answered,
    connected,
    dialled,
    exchange,
    holds,
    peer_of,
    read_answer,
    request_head,
    status,
    until,
)
from tests.served import Served, serve

MIB = 1024 * 1024
ABNF = websocket.ABNF


@pytest.fixture(autouse=True)
def _unharmed(server: Served) -> Iterator[None]:
    """After each test, the shared server works and has logged no fault."""
    logged = len(server.log)
    yield
    assert answered(server, "still here") == "Echo: still here"
    with connected(server) as socket:
        assert socket.lives()
    assert "Traceback" not in server.log[logged:], server.log[logged:]


# The handshake


def handshake(**changed: str | None) -> bytes:
    """A good handshake, but for the headers that are given; None leaves one out."""
    headers: dict[str, str | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return request_head("GET", "/api/v1/ws", *lines)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Sec_WebSocket_Key": None}, 400),
        ({"Sec_WebSocket_Key": ""}, 400),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Sec_WebSocket_Key": "YWJj"}, 400),
        ({"Sec_WebSocket_Key": "ü" * 24}, 400),
        ({"Sec_WebSocket_Version": None}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": "14"}, 426),
        ({"Sec_WebSocket_Version": "thirteen"}, 426),
        ({"Upgrade": None, "Connection": None}, 426),
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "keep-alive"}, 426),
    ],
)
def test_a_bad_handshake_is_refused_as_http(
    server: Served, changed: dict[str, str | None], code: int
) -> None:
    data = handshake(**changed).decode().encode("latin-1")
    answer = exchange(server, data)
    answer.refused(code, "INVALID_REQUEST")
    if code == 426:
        assert answer.headers["Upgrade"] == "websocket"
    if code == 426 and "Sec_WebSocket_Version" in changed:
        assert answer.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST"])
def test_a_handshake_is_a_get(server: Served, method: str) -> None:
    with dialled(server) as sock:
        sock.sendall(handshake().replace(b"GET", method.encode()))
        assert read_answer(sock, method).status in (400, 405)


def test_a_handshake_is_http_1_1(server: Served) -> None:
    answer = exchange(server, handshake().replace(b"HTTP/1.1", b"HTTP/1.0"))
    answer.refused(400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "null",
        "",
        "here",
        "http://",
        "http://[",
        "http://here.evil.example",
        "http://here@evil.example",
        "file://",
        "\xfc",
    ],
)
def test_a_page_of_another_origin_is_refused(server: Served, origin: str) -> None:
    answer = exchange(server, handshake(Origin=origin))
    answer.refused(403, "FORBIDDEN")


def test_a_page_of_the_same_origin_and_a_client_without_one_are_let_in(server: Served) -> None:
    with connected(server, origin=f"http://127.0.0.1:{server.port}") as socket:
        assert socket.lives()
    with connected(server, suppress_origin=True) as socket:
        assert socket.lives()


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
        {"Sec_WebSocket_Extensions": ";;=,"},
        {"Sec_WebSocket_Protocol": "chat, superchat"},
        {"Sec_WebSocket_Protocol": "\xfc"},
        {"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket"},
        {"Cookie": "x" * 8_000},
        {"X_Odd": "\xff\xfe"},
        {"Transfer_Encoding": "chunked"},
    ],
)
def test_a_handshake_with_more_in_it_is_a_handshake(
    server: Served, changed: dict[str, str | None]
) -> None:
    with dialled(server) as sock:
        sock.sendall(handshake(**changed).decode().encode("latin-1"))
        answer = read_answer(sock)
    assert answer.status == 101
    assert answer.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert "Sec-WebSocket-Extensions" not in answer.headers, "compression costs too much memory"
    assert "Sec-WebSocket-Protocol" not in answer.headers


def test_a_host_that_is_no_name_makes_no_fault(server: Served) -> None:
    for host in ("", "Host: \xff\r\n", "Host: a b\r\n", "Host: xn--zz\r\n", "Host: [\r\n"):
        data = handshake().decode().replace("Host: here\r\n", host)
        assert exchange(server, data.encode("latin-1")).status in (101, 400)


@pytest.mark.parametrize(
    ("path", "code", "name"),
    [
        ("/health", 426, "INVALID_REQUEST"),
        ("/api/v1/models", 426, "INVALID_REQUEST"),
        ("/api/v1/infer", 405, "METHOD_NOT_ALLOWED"),
        ("/nope", 404, "NOT_FOUND"),
    ],
)
def test_every_other_address_takes_no_websocket(
    server: Served, path: str, code: int, name: str
) -> None:
    answer = exchange(server, handshake().replace(b"/api/v1/ws", path.encode()))
    answer.refused(code, name)


def test_sockets_past_the_limit_are_refused_as_http() -> None:
    with serve(ORCHESTRATOR_MAX_CONNECTIONS="16") as small, contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(small))
        answer = exchange(small, handshake())
        answer.refused(503, "PIPELINE_UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) >= 1


def test_of_sockets_that_come_at_once_no_more_are_let_in() -> None:
    places, crowd = 96, 120
    all_have_come = threading.Barrier(crowd, timeout=3 * PATIENCE_S)

    def come(small: Served) -> int:
        """Return 0 where one is let in, or how it is sent away."""
        with contextlib.ExitStack() as stack:
            try:
                socket = stack.enter_context(connected(small))
                socket.send({"type": "ping"})
                opcode, data = socket.inner.recv_data()
                return 0 if opcode == ABNF.OPCODE_TEXT else int.from_bytes(data[:2])
            except websocket.WebSocketBadStatusException as refusal:
                return int(refusal.status_code)
            finally:
                all_have_come.wait()

    with (
        serve(ORCHESTRATOR_MAX_CONNECTIONS=str(places * 4 // 3)) as small,
        ThreadPoolExecutor(crowd) as pool,
    ):
        ends = list(pool.map(lambda _: come(small), range(crowd)))
        assert ends.count(0) == places
        assert set(ends) <= {0, 503, 1013}


# Frames that can't be read


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "hello",
        "{",
        "[]",
        "null",
        '"x"',
        '{"prompt": NaN}',
        '{"prompt": "x", "temperature": 1e999}',
        '{"prompt": "x", "prompt": "y"}',
        '{"prompt": "\\ud800"}',
        "[" * 100_000,
        '{"a":' * 40 + "1" + "}" * 40,
        "{}",
        '{"prompt": ""}',
        '{"prompt": 7}',
        '{"prompt": "x", "colour": "red"}',
        '{"prompt": "x", "stream": "yes"}',
        '{"prompt": "x", "session_id": "a b"}',
        '{"prompt": "x", "ref": {}}',
        '{"prompt": "x", "ref": 1.5}',
        '{"prompt": "x", "ref": true}',
        '{"prompt": "x", "ref": 9007199254740992}',
        '{"prompt": "x", "after": 1}',
        '{"type": "shout", "prompt": "x"}',
        '{"type": ["submit"], "prompt": "x"}',
        '{"type": "ack", "request_id": "x"}',
        '{"type": "cancel"}',
        '{"type": "cancel", "request_id": 7}',
        '{"type": "cancel", "request_id": null}',
        '{"type": "subscribe"}',
        '{"type": "subscribe", "request_id": ["x"]}',
        '{"type": "subscribe", "request_id": "x", "after": "1"}',
        '{"type": "subscribe", "request_id": "x", "after": 1.5}',
        '{"type": "subscribe", "request_id": "x", "after": true}',
        '{"type": "unsubscribe"}',
        '{"type": "ping", "ref": []}',
        '{"type": "ping", "ref": false}',
        '{"type": "ping", "ref": 1.5}',
    ],
    ids=lambda text: text[:40],
)
def test_a_frame_that_can_not_be_read_is_an_error_and_the_socket_lives_on(
    server: Served, text: str
) -> None:
    with connected(server) as socket:
        socket.send(text)
        error = socket.receive()
        assert (error["type"], error["code"]) == ("error", "INVALID_REQUEST")
        assert isinstance(error["message"], str)
        assert error["message"]
        assert socket.lives()


def test_an_error_names_the_field_and_the_frame_that_it_is_about(server: Served) -> None:
    with connected(server) as socket:
        socket.send({"prompt": "x", "colour": "red", "ref": 3})
        error = socket.receive()
        assert list(error["fields"]) == ["colour"]
        assert error["ref"] == 3
        assert "request_id" not in error


@pytest.mark.parametrize("kind", ["submit", "cancel", "subscribe", "unsubscribe", "ping"])
def test_a_field_that_there_is_not_is_refused_by_name(server: Served, kind: str) -> None:
    needed = {"submit": {"prompt": "x"}, "ping": {}}.get(kind, {"request_id": str(uuid.uuid4())})
    with connected(server) as socket:
        socket.send({"type": kind, "colour": "red", "ref": kind} | needed)
        error = socket.receive()
        assert (error["type"], error["code"]) == ("error", "INVALID_REQUEST")
        assert list(error["fields"]) == ["colour"]
        assert error["ref"] == kind
        assert error.get("request_id") == needed.get("request_id")
        assert socket.lives()


@pytest.mark.parametrize("kind", ["cancel", "subscribe"])
@pytest.mark.parametrize("request_id", ["", "nope", "\x00", "x" * 10_000])
def test_an_id_that_is_none_is_an_error(server: Served, kind: str, request_id: str) -> None:
    with connected(server) as socket:
        socket.send({"type": kind, "request_id": request_id})
        error = socket.receive()
        assert (error["code"], error["request_id"]) == ("NOT_FOUND", request_id)
        assert socket.lives()


def test_unsubscribing_from_what_never_was_is_nothing(server: Served) -> None:
    with connected(server) as socket:
        socket.send({"type": "unsubscribe", "request_id": str(uuid.uuid4())})
        assert socket.lives()


def test_an_expired_request_is_told_from_one_that_never_was() -> None:
    with serve(ORCHESTRATOR_RETENTION_S="1") as forgetful, connected(forgetful) as socket:
        request_id = socket.submit("x")
        socket.until("result")

        def error() -> str | None:
            socket.send({"type": "subscribe", "request_id": request_id, "after": 10})
            return socket.receive().get("code")

        until(lambda: error() == "RESULT_EXPIRED")
        assert socket.lives()


def test_a_full_queue_is_an_error_and_the_socket_lives_on() -> None:
    with (
        serve(
            ORCHESTRATOR_ECHO_DELAY_S="60",
            ORCHESTRATOR_CONCURRENCY="1",
            ORCHESTRATOR_QUEUE_LIMIT="1",
        ) as full,
        connected(full) as socket,
    ):
        running = socket.submit("one")
        until(lambda: status(full, running)["started_at"])
        socket.submit("two")
        socket.send({"prompt": "three", "ref": "full"})
        error = socket.receive()
        assert (error["code"], error["ref"]) == ("PIPELINE_UNAVAILABLE", "full")
        assert error["retry_after"] >= 1
        assert socket.lives()


def test_a_binary_frame_is_an_error_and_the_socket_lives_on(server: Served) -> None:
    with connected(server) as socket:
        for data in (b"", b"\x00\xff", b'{"prompt": "x"}'):
            socket.inner.send_binary(data)
            error = socket.receive()
            assert (error["type"], error["code"]) == ("error", "INVALID_REQUEST")
        assert socket.lives()


# Frames that end the connection


def raw(socket: Socket, data: bytes) -> None:
    """Send bytes past the library, which would refuse to."""
    socket.inner.sock.sendall(data)


def masked(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """A client's frame of any content."""
    size = len(data)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([(0x80 if fin else 0) | opcode]) + length + b"\0\0\0\0" + data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(1, b"\xff\xfe"), 1007),
        (masked(1, b"ok \xed\xa0\x80"), 1007),
        (masked(1, b"\xf0\x9f", fin=False) + masked(0, b"\x28"), 1007),
        (masked(3, b"x"), 1002),
        (masked(0, b"x"), 1002),
        (masked(1, b"x", fin=False) + masked(1, b"y"), 1002),
        (masked(9, b"x" * 126), 1002),
        (masked(9, b"x", fin=False), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x81\x01x", 1002),
        (masked(8, b"x"), 1002),
        (masked(8, struct.pack("!H", 999)), 1002),
        (masked(8, struct.pack("!H", 1005)), 1002),
        (masked(8, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
    ids=[
        "invalid UTF-8",
        "a surrogate",
        "a cut character",
        "an unknown opcode",
        "a rest without a beginning",
        "a beginning inside another",
        "a long ping",
        "a ping in pieces",
        "a reserved bit",
        "no mask",
        "half a close code",
        "a close code too small",
        "a close code not to be sent",
        "a close reason in no UTF-8",
    ],
)
def test_a_frame_against_the_protocol_ends_the_connection(
    server: Served, data: bytes, code: int
) -> None:
    with connected(server) as socket:
        raw(socket, data)
        assert socket.close_code() == code


def test_a_close_is_answered_with_its_code(server: Served) -> None:
    for data, code in (
        (masked(8, struct.pack("!H", 1000) + b"bye"), 1000),
        (masked(8, struct.pack("!H", 4321)), 4321),
    ):
        with connected(server) as socket:
            raw(socket, data + masked(1, b'{"prompt": "after the end"}'))
            assert socket.close_code() == code


@pytest.mark.parametrize("size", [MIB + 1, 3 * MIB, 20 * MIB])
def test_a_message_past_the_limit_ends_the_connection_with_its_reason(
    server: Served, size: int
) -> None:
    frame = len(b'{"prompt": ""}')
    message = b'{"prompt": "%s"}' % (b"x" * (size - frame))
    with connected(server) as socket:
        raw(socket, masked(1, message))
        assert socket.close_code() == 1009
    with connected(server) as socket:
        half = size // 2
        raw(socket, masked(1, message[:half], fin=False) + masked(0, message[half:]))
        assert socket.close_code() == 1009


def test_a_message_is_measured_in_bytes(server: Served) -> None:
    with connected(server) as socket:
        socket.send(json.dumps({"prompt": "😀" * (MIB // 4)}, ensure_ascii=False))
        assert socket.close_code() == 1009


def test_a_message_that_only_says_it_is_too_large_is_not_believed(server: Served) -> None:
    with connected(server) as socket:
        raw(socket, b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0" + b"x" * MIB + b"x")
        assert socket.close_code() == 1009
    with connected(server) as socket:
        raw(socket, b"\x81\xff" + struct.pack("!Q", 2**63) + b"\0\0\0\0")
        assert socket.close_code() == 1002


def test_a_message_of_the_full_megabyte_is_taken(server: Served) -> None:
    words = "word" * 1000 + " "
    frame = len('{"prompt": ""}')
    prompt = (words * (MIB // len(words) + 1))[: MIB - frame - 1] + "x"
    with connected(server) as socket:
        assert socket.submit(prompt)
        assert socket.receive()["result"] == f"Echo: {prompt}"


def test_a_burst_of_frames_is_answered_frame_by_frame(server: Served) -> None:
    with connected(server) as socket:
        raw(socket, b"".join(masked(1, b'{"type":"ping","ref":%d}' % ref) for ref in range(500)))
        assert [socket.receive()["ref"] for _ in range(500)] == list(range(500))


def test_a_client_that_floods_and_takes_nothing_is_sent_away(server: Served) -> None:
    pings = masked(1, b'{"type":"ping","ref":"%s"}' % (b"x" * 128)) * 100
    with connected(server) as socket:
        peer = peer_of(server, socket.inner.sock)
        socket.inner.settimeout(1.5)
        with pytest.raises(TimeoutError):
            while True:
                raw(socket, pings)
        assert socket.close_code() == 1008
        until(lambda: not holds(server, peer), timeout=5)


def test_bytes_that_are_no_frames_end_the_connection(server: Served) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"\xff" * 64):
        with connected(server) as socket:
            raw(socket, data)
            assert socket.close_code() == 1002


def test_a_client_that_vanishes_inside_a_frame_leaves_nothing_behind(server: Served) -> None:
    whole = masked(1, b'{"prompt": "never whole", "session_id": "inside-a-frame"}')
    for data in (whole[:1], whole[:4], whole[:-1], masked(1, b'{"prompt"', fin=False)):
        with connected(server) as socket:
            peer = peer_of(server, socket.inner.sock)
            raw(socket, data)
            socket.inner.sock.close()
            until(lambda peer=peer: not holds(server, peer), timeout=5)  # type: ignore[misc]


def test_a_client_that_closes_only_its_half_is_let_go(server: Served) -> None:
    with connected(server) as socket:
        peer = peer_of(server, socket.inner.sock)
        socket.inner.sock.shutdown(sockets.SHUT_WR)
        until(lambda: not holds(server, peer), timeout=5)
