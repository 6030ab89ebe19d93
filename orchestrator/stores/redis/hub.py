"""One pub/sub connection for all that this process waits for."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis.connection import ConnectionInterface
from redis.exceptions import RedisError

logger = logging.getLogger("orchestrator")

CONFIRM_S = 0.3
"""How long a new reader waits for its subscription, before it goes on without."""
LINGER_S = 5.0
"""How long a channel stays subscribed after its last reader left: most come back at once."""
PING_S = 2.0
"""After this long without a word the connection is asked whether it lives."""
DEAD_S = 5.0
"""After this long without a word it is dead."""
RECONNECT_S = 0.2
TICK_S = 0.5
"""How often pings and channels without readers are looked at."""
BOW_EVERY = 100
"""Messages between two pauses for other greenlets."""


class Topic:
    """Tells any number of readers of a channel that something is new.

    ``version`` grows with every message, and where some may have been missed.
    """

    def __init__(self) -> None:
        self.readers = 0
        self.left_at = 0.0
        self.version = 0
        self.changed = threading.Condition(threading.Lock())
        self._live = threading.Event()

    @property
    def is_live(self) -> bool:
        """Whether all that is published arrives."""
        return self._live.is_set()

    def await_live(self, timeout: float) -> bool:
        """Wait for the subscription."""
        return self._live.wait(timeout)

    def wait(self, version: int, timeout: float) -> None:
        """Wait until ``version`` is past, or for ``timeout`` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, timeout)

    def receive(self, data: bytes) -> None:
        """Take a message."""
        with self.changed:
            self._take(data)
            self._advance()

    def set_live(self, is_live: bool) -> None:
        """Note that messages come, or come no more; what is known may be out of date."""
        if is_live:
            self._live.set()
        else:
            self._live.clear()
        with self.changed:
            self._forget()
            self._advance()

    def _advance(self) -> None:
        self.version += 1
        self.changed.notify_all()

    def _take(self, data: bytes) -> None:
        """Take a message, inside the lock."""

    def _forget(self) -> None:
        """Forget what messages told, inside the lock."""


class Call(Topic):
    """A topic whose messages are handed on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def receive(self, data: bytes) -> None:
        try:
            self._tell(data.decode())
        except Exception:
            logger.exception("a message of Redis could not be handled")


AnyTopic = TypeVar("AnyTopic", bound=Topic)


class Hub:
    """Keeps topics by channel, and the connection while there are any.

    ``connect`` makes a connection; the hub's thread alone reads from it.
    """

    def __init__(self, connect: Callable[[], ConnectionInterface]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._connection: ConnectionInterface | None = None
        self._thread: threading.Thread | None = None
        self._is_broken = False
        self._closed = threading.Event()

    @contextmanager
    def watch(self, channel: str, make: Callable[[], AnyTopic]) -> Iterator[AnyTopic]:
        """Give the topic of a channel, as ``make`` makes it, subscribed if Redis is there."""
        topic = self._enter(channel, make)
        try:
            topic.await_live(CONFIRM_S)
            yield topic
        finally:
            with self._lock:
                topic.readers -= 1
                topic.left_at = time.monotonic()

    def has(self, channel: str) -> bool:
        """Whether a channel is watched, or was a moment ago."""
        return channel in self._topics

    def listen(self, channel: str, tell: Callable[[str], None]) -> None:
        """Call ``tell`` with every message of a channel, from now on."""
        self._enter(channel, lambda: Call(tell)).await_live(CONFIRM_S)

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        with self._lock:
            # The answer wakes the thread.
            self._send("PING")
        if self._thread:
            self._thread.join(2 * TICK_S)

    def _enter(self, channel: str, make: Callable[[], AnyTopic]) -> AnyTopic:
        with self._lock:
            topic = self._topics.get(channel)
            if topic is None:
                topic = self._topics[channel] = make()
                self._send("SUBSCRIBE", channel)
            topic.readers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="redis-hub", daemon=True)
                self._thread.start()
            return topic  # type: ignore[return-value]

    def _send(self, *command: str) -> None:
        """Send a command, inside the lock; what can't be sent now is sent on the next connect."""
        if self._connection is None or self._is_broken:
            return
        try:
            self._connection.send_command(*command, check_health=False)
        except Exception:
            # Whatever it is: the reader, too, may take the socket away meanwhile.
            self._is_broken = True

    def _run(self) -> None:
        connection = self._connect()
        is_lost = False
        while not self._closed.is_set():
            try:
                connection.connect()
                self._open(connection)
                is_lost = False
                self._read(connection)
            except (RedisError, OSError) as error:
                # Once for each outage: another try is made a few times a second.
                if not is_lost:
                    logger.info("the subscriptions of Redis are lost until it answers: %s", error)
                is_lost = True
            except Exception:
                # Who sends finds a connection dead, and takes its socket from under the reader.
                with self._lock:
                    was_taken = self._is_broken
                if not was_taken:
                    logger.exception("a message can't be read; the subscriptions are made anew")
            finally:
                self._drop(connection)
            self._closed.wait(RECONNECT_S)

    def _open(self, connection: ConnectionInterface) -> None:
        with self._lock:
            self._connection = connection
            self._is_broken = False
            channels = list(self._topics)
            for start in range(0, len(channels), 1_000):
                self._send("SUBSCRIBE", *channels[start : start + 1_000])

    def _drop(self, connection: ConnectionInterface) -> None:
        with self._lock:
            self._connection = None
            topics = [topic for topic in self._topics.values() if topic.is_live]
        connection.disconnect()
        for topic in topics:
            topic.set_live(False)

    def _read(self, connection: ConnectionInterface) -> None:
        heard = asked = looked = time.monotonic()
        count = 0
        while not self._closed.is_set() and not self._is_broken:
            if connection.can_read(timeout=TICK_S):
                response = connection.read_response(disconnect_on_error=False, timeout=DEAD_S)
                heard = asked = time.monotonic()
                self._handle(response)
                count += 1
                if count % BOW_EVERY == 0:
                    time.sleep(0)
            now = time.monotonic()
            if now - looked > TICK_S:
                looked = now
                self._drop_idle(now)
            if now - heard > DEAD_S:
                raise OSError("it does not answer")
            if now - asked > PING_S:
                asked = now
                with self._lock:
                    self._send("PING")

    def _handle(self, response: object) -> None:
        if not isinstance(response, list) or len(response) != 3:
            return
        kind, channel, data = response
        topic = self._topics.get(channel.decode())
        if topic is None:
            return
        if kind == b"message":
            topic.receive(data)
        elif kind == b"subscribe":
            topic.set_live(True)

    def _drop_idle(self, now: float) -> None:
        with self._lock:
            idle = [
                channel
                for channel, topic in self._topics.items()
                if topic.readers == 0 and now - topic.left_at > LINGER_S
            ]
            for channel in idle:
                del self._topics[channel]
            for start in range(0, len(idle), 1_000):
                self._send("UNSUBSCRIBE", *idle[start : start + 1_000])
