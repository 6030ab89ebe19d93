"""The three ways to follow a request, each held to be one whole answer or one clean error."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.client import connected, get, post, stream
from tests.served import Served


class Refused(Exception):
    """A submit was answered with 503."""


@dataclass(frozen=True)
class End:
    """What a client has of a request in the end: a whole answer or an error, never both."""

    request_id: str
    text: str | None
    code: str | None
    restarts: tuple[int, ...] = ()


def accepted(server: Served, prompt: str, **fields: object) -> str:
    """Submit and return the request_id. Raises Refused."""
    answer = post(server, "/infer", {"prompt": prompt, **fields})
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] == "PIPELINE_UNAVAILABLE"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        raise Refused
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def by_polling(server: Served, prompt: str, **fields: object) -> End:
    request_id = accepted(server, prompt, **fields)
    while (answer := get(server, f"/result/{request_id}")).status_code == 202:
        assert answer.json()["result"] is None
        time.sleep(0.1)
    if answer.status_code == 200:
        return End(request_id, answer.json()["result"], None)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "PROCESSING_FAILED"
    return End(request_id, None, error["details"]["cause"])


class Told:
    """An answer as those follow it who are told of each token and restart."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.restarts: list[int] = []

    def token(self, chunk: int, text: str) -> None:
        assert chunk == len(self.pieces), "each token once, in order"
        self.pieces.append(text)

    def restart(self, attempt: int) -> None:
        assert self.pieces, "there are words to take back"
        assert attempt > max(self.restarts, default=1)
        self.restarts.append(attempt)
        self.pieces.clear()

    def end(self, request_id: str, code: str | None) -> End:
        text = None if code else "".join(self.pieces)
        return End(request_id, text, code, tuple(self.restarts))


def by_sse(server: Served, prompt: str, **fields: object) -> End:
    request_id, told = accepted(server, prompt, stream=True, **fields), Told()
    (first, *frames, last) = stream(server, f"/stream/{request_id}")
    assert [frame.id for frame in (first, *frames, last)] == list(range(len(frames) + 2))
    assert (first.event, last.event) == ("start", "complete")
    for frame in frames:
        if frame.event == "restart":
            told.restart(frame.data["attempt"])
        else:
            assert frame.event == "token"
            told.token(frame.data["chunk"], frame.data["data"])
    if last.data["status"] == "done":
        return told.end(request_id, None)
    assert last.data["status"] == "failed"
    return told.end(request_id, last.data["error"]["code"])


def by_websocket(server: Served, prompt: str, **fields: object) -> End:
    told = Told()
    with connected(server) as socket:
        socket.send({"prompt": prompt, "stream": True, **fields})
        if (ack := socket.receive())["type"] == "error":
            assert ack["code"] == "PIPELINE_UNAVAILABLE"
            raise Refused
        request_id = ack["request_id"]
        while (frame := socket.receive())["type"] in ("token", "restart"):
            if frame["type"] == "restart":
                told.restart(frame["attempt"])
            else:
                told.token(frame["chunk"], frame["data"])
        socket.send({"type": "ping"})
        assert socket.receive()["type"] == "pong", "nothing comes after the end"
    if frame["type"] == "error":
        return told.end(request_id, frame["code"])
    end = told.end(request_id, None)
    assert frame["result"] == end.text
    return end


VIEWS: dict[str, Callable[..., End]] = {
    "poll": by_polling,
    "sse": by_sse,
    "websocket": by_websocket,
}
