"""How long an address, a header and a head may be: what is larger is refused before it is read."""

import socket

import pytest

from tests.served import Served

LINE = 8190
FIELDS = 64


def answered(server: Served, head: str) -> str:
    """The status line for a head, and that the refusal is in the API's own form."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(head.encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    text = answer.decode()
    assert text.startswith("HTTP/1.1 200 ") or '"code":"INVALID_REQUEST"' in text
    return text.partition("\r\n")[0].split(" ")[1]


def of_line(length: int) -> str:
    begin, end = "GET /health?a=", " HTTP/1.1"
    padding = "a" * (length - len(begin) - len(end))
    return f"{begin}{padding}{end}\r\nHost: x\r\nConnection: close\r\n\r\n"


def of_fields(count: int) -> str:
    more = "".join(f"X-{number}: x\r\n" for number in range(count - 2))
    return f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"


def of_field(length: int) -> str:
    return f"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {'x' * length}\r\n\r\n"


@pytest.mark.parametrize(
    "head", [of_line(LINE - 2), of_fields(FIELDS), of_field(8000)], ids=["line", "fields", "field"]
)
def test_a_head_up_to_the_limits_is_read(server: Served, head: str) -> None:
    assert answered(server, head) == "200"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(of_line(LINE + 3), "414", id="line"),
        pytest.param(of_fields(FIELDS + 1), "431", id="fields"),
        pytest.param(of_field(LINE + 3), "431", id="field"),
        pytest.param(of_field(200_000), "431", id="a large field"),
    ],
)
def test_a_head_past_a_limit_is_refused(server: Served, head: str, status: str) -> None:
    assert answered(server, head) == status


def test_a_head_without_end_is_refused_long_before_it_fills_the_memory(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX: ")
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                sent += client.send(b"x" * 65536)
        except OSError:
            pass
    assert sent < 32 * 1024 * 1024
