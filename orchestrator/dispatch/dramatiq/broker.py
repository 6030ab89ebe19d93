"""Dramatiq's broker: where messages are kept until a worker takes them."""

import threading
import uuid
from collections.abc import Mapping, Sequence

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.dispatch.dramatiq.consumer import Consumer
from orchestrator.errors import ConfigError

PRIORITIES = ("high", "normal", "low")
"""One queue each."""
OVERDUE = "overdue"
"""The queue of those that have waited too long in another one."""
QUEUES = (*PRIORITIES, OVERDUE)
WAKE_CHANNEL = "o:wake"
"""Tells workers that something was sent."""

HEARTBEAT_TIMEOUT_MS = 15_000
"""After this long without a word from a worker its messages are another's."""
CONNECTIONS = 32
POOL_S = 0.25
CONNECT_S = 0.25
ANSWER_S = 0.45
"""Together less than the one second within which a call must fail."""


class Broker(RedisBroker):
    """Messages in a database of their own; whoever sends one wakes the workers."""

    def __init__(self, url: str) -> None:
        super().__init__(
            client=redis.Redis(
                connection_pool=redis.BlockingConnectionPool.from_url(
                    url,
                    max_connections=CONNECTIONS,
                    timeout=POOL_S,
                    socket_connect_timeout=CONNECT_S,
                    socket_timeout=ANSWER_S,
                    retry=Retry(NoBackoff(), 0),
                )
            ),
            # Deadlines, attempts and what a request has become are the store's business.
            middleware=[],
            heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
            # Each fetch looks for messages of dead workers.
            maintenance_chance=1_000_000,
        )
        self._url = url
        self._is_there = False
        self.consumers: dict[str, Consumer] = {}
        self.wake = threading.Event()
        """Set when there may be something to take, and a thread to run it."""
        for queue in QUEUES:
            self.declare_queue(queue)

    def check(self) -> bool:
        """Return whether Redis answers. Raises ConfigError where it can't be used."""
        if self._is_there:
            return True
        try:
            self.client.ping()
            self._is_there = True
        except redis.AuthenticationError as error:
            raise ConfigError(
                f"ORCHESTRATOR_QUEUE_REDIS_URL lets nobody in: {str(error).rstrip('.')}. Set the "
                "password in it."
            ) from None
        except redis.ResponseError as error:
            if "DB index" in str(error):
                raise ConfigError(
                    "Redis has no such database as messages to workers are to wait in, which is "
                    "the one after that of REDIS_URL. Name one in ORCHESTRATOR_QUEUE_REDIS_URL; "
                    "where there is one only, by the address that REDIS_URL has."
                ) from None
        except redis.RedisError:
            # It is waited for.
            pass
        return self._is_there

    def probe(self) -> None:
        """Raise redis.RedisError where Redis takes no messages."""
        # It writes nothing and doesn't say so: a Redis that takes no writes refuses it.
        self.client.eval("#!lua\nreturn 1", 0)

    @property
    def consumer_class(self) -> type[Consumer]:
        return Consumer

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue, without Dramatiq's second one for delayed messages: there are none."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        consumer = Consumer(self, queue_name, prefetch, timeout, self.wake.set)
        self.consumers[queue_name] = consumer
        self.wake.set()
        return consumer

    @property
    def is_consumed(self) -> bool:
        """Whether each queue has its consumer."""
        return len(self.consumers) == len(QUEUES)

    @property
    def held(self) -> int:
        """How many messages this process has taken and not acknowledged yet."""
        return sum(consumer.outstanding_message_count for consumer in self.consumers.values())

    def send(self, queue: str, job_id: str) -> None:
        """Send the id of a request. Raises redis.RedisError.

        As Dramatiq's own script does, but for its note that the sender lives: one that is quiet for
        a while would count as a worker that died, and all keys be looked through for its messages.
        """
        message_id = str(uuid.uuid4())
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=queue,
            actor_name=queue,
            args=(job_id,),
            kwargs={},
            options={"redis_message_id": message_id},
        )
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.hset(f"{self.namespace}:{queue}.msgs", message_id, message.encode())
            pipeline.rpush(f"{self.namespace}:{queue}", message_id)
            pipeline.publish(WAKE_CHANNEL, queue)
            pipeline.execute()

    def lengths(self) -> Mapping[str, int]:
        """Return how many messages wait in each queue. Raises redis.RedisError."""
        with self.client.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(f"{self.namespace}:{queue}")
            return dict(zip(QUEUES, pipeline.execute(), strict=True))

    def fetch(self, queue: str, count: int) -> Sequence[bytes]:
        """Take messages, or with 0 just show that this process lives. Raises redis.RedisError."""
        # A message whose text is gone was acknowledged by someone else.
        return [data for data in self.do_fetch(queue, count) if data is not None]

    def subscription(self) -> redis.client.PubSub:
        """Return a connection that hears of what is sent. Raises redis.RedisError."""
        client = redis.Redis.from_url(
            self._url, socket_connect_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0)
        )
        subscription: redis.client.PubSub = client.pubsub()
        subscription.subscribe(WAKE_CHANNEL)
        return subscription
