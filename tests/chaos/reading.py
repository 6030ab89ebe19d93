"""A reader's place in the log of one request, held against every event that comes."""

from typing import Any

Json = dict[str, Any]


class Broken(Exception):
    """A promise was broken in what one client saw."""

    offence = ""


class Torn(Broken):
    """A stream left something out, gave it twice, or in another order, or can't be read."""

    offence = "torn streams"


class Mixed(Broken):
    """An answer is another request's."""

    offence = "answers of another request"


class Lost(Broken):
    """An accepted request is not known any more, or comes to no end while the run lasts."""

    offence = "lost"


class Reading:
    """What one client has read of ``request_id``, over all its connections.

    ``after`` is the cursor it resumes with, ``ended`` the status that the stream ended with.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.after = -1
        self.ended: str | None = None
        self.result: str | None = None
        self._texts: list[str] = []
        self._restarts = 0

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    def resume(self) -> None:
        """Begin anew at ``after``, on another connection."""
        self._restarts = 0

    def take(self, seq: int, event: str, data: Json) -> None:
        """Take an event of a stream or of the events page. Raises Torn, Mixed."""
        if self.ended:
            raise Torn(f"{event} after the end")
        if seq != self.after + 1:
            raise Torn(f"event {seq} after {self.after}")
        # One that was cancelled before it began has an end and nothing else.
        if (event == "start") != (seq == 0) and (seq, event) != (0, "complete"):
            raise Torn(f"{event} as event {seq}")
        self.after = seq
        match event:
            case "start":
                self.check(data)
            case "token":
                self._add(data["chunk"], data["data"])
            case "restart":
                self._texts.clear()
            case "complete":
                status = data["status"]
                self.ended = "completed" if status == "done" else status

    def take_frame(self, frame: Json) -> None:
        """Take a frame of a WebSocket, where only tokens have a seq. Raises Torn, Mixed."""
        self.check(frame)
        match frame["type"]:
            case "token":
                begins = self.after < 0
                if frame["seq"] != self.after + 1 + begins + self._restarts:
                    raise Torn(f"token {frame['seq']} after {self.after}")
                self._restarts = 0
                self.after = frame["seq"]
                self._add(frame["chunk"], frame["data"])
            case "restart":
                self._restarts += 1
                self._texts.clear()
            case "result":
                self.ended, self.result = "completed", frame["result"]
            case "error":
                self.ended = "cancelled" if frame["code"] == "CANCELLED" else "failed"

    def check(self, answer: Json) -> None:
        """Hold that an answer is about this request. Raises Mixed."""
        if answer["request_id"] != self._request_id:
            raise Mixed(f"{answer} was the answer to {self._request_id}")

    def _add(self, chunk: int, text: str) -> None:
        if chunk != len(self._texts):
            raise Torn(f"chunk {chunk} as number {len(self._texts)}")
        self._texts.append(text)
