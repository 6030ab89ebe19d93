"""A consumer that is handed messages instead of looking for them: see intake.py."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import redis
from dramatiq import ConnectionClosed, Message, MessageProxy
from dramatiq.brokers.redis import _RedisConsumer
from redis.exceptions import OutOfMemoryError


class Consumer(_RedisConsumer):
    """One queue's messages on their way to the threads that run them.

    ``on_done`` is called after each message: a thread is free again.
    """

    def __init__(
        self,
        broker: Any,
        queue_name: str,
        prefetch: int,
        timeout: int,
        on_done: Callable[[], None],
    ) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)
        self._on_done = on_done
        self._given = threading.Event()

    def give(self, messages: Sequence[bytes]) -> None:
        """Hand messages over, as they were fetched."""
        self.message_cache.extend(messages)
        self._given.set()

    def __next__(self) -> MessageProxy | None:
        if not self.message_cache:
            self._given.wait(self.timeout / 1000)
            self._given.clear()
            if not self.message_cache:
                return None
        message: MessageProxy | None = super().__next__()
        return message

    def ack(self, message: MessageProxy) -> None:
        self._settle(super().ack, message)

    def nack(self, message: MessageProxy) -> None:
        self._settle(super().nack, message)

    def _settle(self, act: Callable[[MessageProxy], None], message: MessageProxy) -> None:
        try:
            act(message)
        except (redis.TimeoutError, OutOfMemoryError) as error:
            # After this alone Dramatiq tries again.
            raise ConnectionClosed(error) from None
        finally:
            self._on_done()

    def close(self) -> None:
        """Put back what no thread has begun with."""
        left, self.message_cache = self.message_cache, []
        try:
            self.requeue([MessageProxy(Message.decode(data)) for data in left])
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None
