"""Which requests one WebSocket follows, and how many it may."""

import threading
from dataclasses import dataclass

from orchestrator.errors import RateLimited
from orchestrator.strict_json import Json

MAX_IN_FLIGHT = 32
"""Requests that one socket follows at once."""
MAX_FOLLOWERS = 2 * MAX_IN_FLIGHT
"""Threads that one socket has at once, those included that are about to end."""


@dataclass(slots=True, eq=False)
class Follower:
    """One request that a socket follows; ``tokens`` says whether token by token.

    ``ref`` is what the client called the frame that asked for it.
    """

    request_id: str
    after: int
    tokens: bool
    ref: Json
    dropped: bool = False


class Followers:
    """The followers of one socket, one a request: a new one takes the place of the one before.

    They are added by one thread, and each takes itself out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._following: dict[str, Follower] = {}
        self._running: set[Follower] = set()

    def __len__(self) -> int:
        return len(self._following)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._following

    def check_threads(self) -> None:
        """Raise RateLimited where one thread more is too much.

        One that was dropped counts until it has noticed, which takes LOOK_S.
        """
        if len(self._running) >= MAX_FOLLOWERS:
            raise _too_many()

    def check_room(self, request_id: str | None = None) -> None:
        """Raise RateLimited where following one request more, or this one anew, is too much."""
        with self._lock:
            in_flight = len(self._following) - (request_id in self._following)
        if in_flight >= MAX_IN_FLIGHT:
            raise _too_many()
        self.check_threads()

    def add(self, follower: Follower) -> None:
        """Let ``follower`` be the one of its request."""
        with self._lock:
            earlier = self._following.get(follower.request_id)
            if earlier:
                earlier.dropped = True
            self._following[follower.request_id] = follower
            self._running.add(follower)

    def drop(self, request_id: str) -> None:
        """Follow a request no more, where it is followed."""
        with self._lock:
            follower = self._following.pop(request_id, None)
            if follower:
                follower.dropped = True

    def drop_all(self) -> None:
        """Follow nothing more."""
        with self._lock:
            for follower in self._following.values():
                follower.dropped = True
            self._following.clear()

    def end(self, follower: Follower) -> None:
        """Forget a follower that has ended, and not one that has taken its place."""
        with self._lock:
            self._running.discard(follower)
            if self._following.get(follower.request_id) is follower:
                del self._following[follower.request_id]


def _too_many() -> RateLimited:
    return RateLimited(
        f"This socket follows {MAX_IN_FLIGHT} requests already. Wait for one to end, "
        "unsubscribe, or open another socket."
    )
