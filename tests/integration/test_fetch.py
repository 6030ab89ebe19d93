"""Calls to addresses that others chose: where they go, what ends them, and what they bring."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.net import fetch as module
from orchestrator.net.fetch import Fetched, FetchFailed, fetch
from tests.certificates import self_signed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Reply = Callable[[socket.socket], None]


@contextlib.contextmanager
def answering(reply: Reply, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads what it is sent, then calls ``reply``; gives its port and what came."""
    heads: list[bytes] = []
    threads: list[threading.Thread] = []

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.settimeout(20)
            peer = tls.wrap_socket(client, server_side=True) if tls else client
            with peer:
                heads.append(peer.recv(65536))
                reply(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listener.getsockname()[1], heads
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join(10)
    for thread in threads:
        thread.join(10)


def here(port: int, path: str = "/", **options: object) -> Fetched:
    """Call a server of this machine, as nothing but a test may."""
    return fetch(f"http://127.0.0.1:{port}{path}", allowed=lambda _: True, **options)  # type: ignore[arg-type]


def test_what_may_be_called_answers() -> None:
    with answering(lambda peer: peer.sendall(OK)) as (port, heads):
        answer = here(port, "/keys?x=1")
    assert answer == Fetched(200, b"ok")
    assert heads[0].startswith(b"GET /keys?x=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}".encode() in heads[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_private_is_connected_to(scheme: str, host: str) -> None:
    with answering(lambda peer: peer.sendall(OK)) as (port, heads), pytest.raises(FetchFailed):
        fetch(f"{scheme}://{host}:{port}/")
    assert heads == []


def test_the_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer of a name server could be another one."""
    asked = []
    real = socket.getaddrinfo

    def counted(host: object, *arguments: object, **options: object) -> object:
        if host == "localhost":
            asked.append(host)
        return real(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    with answering(lambda peer: peer.sendall(OK)) as (port, _):
        fetch(f"http://localhost:{port}/", allowed=lambda address: address.version == 4)
    assert asked == ["localhost"]


def test_plain_http_goes_to_no_other_machine() -> None:
    with pytest.raises(FetchFailed, match="plain HTTP"):
        fetch("http://192.0.2.1/", allowed=lambda _: True)


def test_a_redirect_is_not_followed() -> None:
    with answering(lambda peer: peer.sendall(OK)) as (inner, heads):
        away = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner}/\r\n\r\n".encode()
        with (
            answering(lambda peer: peer.sendall(away)) as (port, _),
            pytest.raises(FetchFailed, match="redirects"),
        ):
            here(port)
    assert heads == []


def test_an_answer_has_a_size() -> None:
    def pour(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with (
        answering(pour) as (port, _),
        pytest.raises(FetchFailed, match="larger than 1000 bytes"),
    ):
        here(port, max_bytes=1000)


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server shows, and what a client of it trusts."""
    certificate, key = self_signed(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_call_ends_in_time_however_the_answer_drips(
    start: bytes, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = threading.BoundedSemaphore(1)
    monkeypatch.setattr(module, "_places", places)
    server, trusting = certified(tmp_path)

    def drip(peer: socket.socket) -> None:
        peer.sendall(start)
        while not ended.wait(0.05):
            if start:
                peer.sendall(b"x")

    ended = threading.Event()
    with answering(drip, server if scheme == "https" else None) as (port, _):
        url = f"{scheme}://127.0.0.1:{port}/"
        began = time.monotonic()
        with pytest.raises(FetchFailed, match=r"longer than 0\.5 s|took too long"):
            fetch(url, allowed=lambda _: True, timeout_s=0.5, tls=trusting)
        assert time.monotonic() - began < 5
        # The call has ended as well, though the other side goes on: its place is free again.
        assert places.acquire(timeout=10)
        ended.set()


def test_a_handshake_without_end_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = threading.BoundedSemaphore(1)
    monkeypatch.setattr(module, "_places", places)
    ended = threading.Event()

    def silent(peer: socket.socket) -> None:
        ended.wait(20)

    with answering(silent) as (port, _):
        with pytest.raises(FetchFailed, match=r"longer than 0\.5 s|took too long"):
            fetch(f"https://127.0.0.1:{port}/", allowed=lambda _: True, timeout_s=0.5)
        assert places.acquire(timeout=10)
        ended.set()


def test_a_slow_name_server_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(module, "resolve", lambda host, port: ended.wait(20) and [])
    with pytest.raises(FetchFailed, match="longer than"):
        fetch("https://slow.example/", timeout_s=0.2)
    ended.set()


def test_more_calls_than_there_are_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_places", threading.BoundedSemaphore(1))
    with module._places, pytest.raises(FetchFailed, match="under way"):
        fetch("https://busy.example/")


def test_a_cut_answer_is_none() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    with answering(lambda peer: peer.sendall(cut)) as (port, _), pytest.raises(FetchFailed):
        here(port)


def test_a_certificate_must_be_trusted_and_of_the_name(tmp_path: Path) -> None:
    server, trusting = certified(tmp_path)
    # It has no other name than its address; without names OpenSSL would take its subject for one.
    trusting.hostname_checks_common_name = False
    with answering(lambda peer: peer.sendall(OK), server) as (port, _):

        def call(host: str, tls: ssl.SSLContext | None) -> Fetched:
            return fetch(f"https://{host}:{port}/", allowed=lambda _: True, tls=tls)

        assert call("127.0.0.1", trusting).body == b"ok"
        with pytest.raises(FetchFailed, match="TLS"):
            call("127.0.0.1", None)
        with pytest.raises(FetchFailed, match="TLS"):
            call("localhost", trusting)
