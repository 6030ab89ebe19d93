"""The way to Redis: every call ends within a second, with an answer or with one error."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from redis import BlockingConnectionPool, ConnectionPool, Redis, exceptions
from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface
from redis.retry import Retry

from orchestrator.errors import ConfigError
from orchestrator.stores.redis import trouble
from orchestrator.stores.redis.clock import Clock
from orchestrator.stores.redis.gate import Closed, Gate
from orchestrator.stores.redis.scripts import Script

logger = logging.getLogger("orchestrator")

T = TypeVar("T")
Argument = str | bytes | int | float
Call = tuple[Script, Sequence[Argument]]
"""A script and what it is called with."""

CONNECTIONS = 32
CONNECT_S = 0.25
ANSWER_S = 0.65
"""Together less than the one second within which a call must fail."""
AGAIN_S = 0.1
"""A connection that was found dead within this time is replaced, and the call made once more."""
LATE = b"late"

_gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()
"""One gate for each Redis: what one link finds out about it, all others know at once."""


class Link:
    """Calls scripts. Safe to use from any thread, and in any process that makes its own.

    Redis may take ``answer_s`` seconds for each.
    """

    def __init__(self, url: str, answer_s: float = ANSWER_S) -> None:
        # Our scripts may be called twice, and a write may not be repeated behind their back.
        options: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_S,
            "socket_timeout": answer_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        self._pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=CONNECT_S, **options
        )
        self._apart = ConnectionPool.from_url(url, **options)
        self._client = Redis(connection_pool=self._pool)
        self._answer_s = answer_s
        self._clock = Clock(self._client.time)
        self._trouble: exceptions.RedisError | None = None
        where = self._pool.connection_kwargs
        name = f"{where.get('host')}:{where.get('port')} {where.get('path')}"
        self._began: float | None = None
        self._gate = _gates.setdefault(name, Gate(CONNECTIONS))

    @property
    def up_s(self) -> float:
        """For how long Redis has answered here, in seconds."""
        began = self._began
        return 0.0 if began is None else min(self._gate.up_s, time.monotonic() - began)

    def call(self, script: Script, *arguments: Argument) -> Any:
        """Call a script. It may be run twice. Raises PipelineUnavailable."""
        return self._reach(lambda: self._run(script, arguments))

    def call_in_time(self, script: Script, arguments: Callable[[str], Sequence[Argument]]) -> Any:
        """Call a script that must do nothing, and answer LATE, once nobody waits for it any more.

        ``arguments`` are made with that deadline, by Redis's clock: a Redis that hangs reads what
        was sent to it when it wakes up. Raises PipelineUnavailable.
        """

        def act() -> Any:
            until = self._clock.now() + self._answer_s
            return self._run(script, arguments(repr(until)))

        reply = self._reach(act)
        if reply == [LATE]:
            self._clock.doubt()
            raise trouble.away()
        return reply

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Call scripts in this order, on one round trip. Raises PipelineUnavailable.

        An error of one of them is among the results: PipelineUnavailable where Redis is full.
        """
        # What asks nothing must not be taken for an answer, which would say that Redis is there.
        return self._reach(lambda: self._run_all(calls)) if calls else []

    def command(self, *words: Argument) -> Any:
        """Do one command. It may be done twice. Raises PipelineUnavailable."""
        return self._reach(lambda: self._client.execute_command(*words))

    def hash(self, key: str) -> dict[bytes, bytes]:
        """Return a hash; an empty one where there is none. Raises PipelineUnavailable."""
        found: Callable[[], Any] = partial(self._client.hgetall, key)
        values: dict[bytes, bytes] = self._reach(found)
        return values

    def fields(self, keys: Sequence[str], names: Sequence[str]) -> list[list[bytes | None]]:
        """Return these fields of hashes, None for each that isn't there.

        Raises PipelineUnavailable.
        """
        return self._reach(lambda: self._fields(keys, names)) if keys else []

    def info(self) -> dict[str, Any]:
        """Return what Redis says of itself.

        Raises ConfigError where it refuses to, or is none; PipelineUnavailable.
        """
        try:
            values: dict[str, Any] = self._reach(self._admitted_info)
        except exceptions.RedisError as error:
            raise ConfigError(
                f"REDIS_URL can't be used: {error}. Name a database that is there, of a Redis, and "
                "a user who may do everything in it."
            ) from None
        return values

    def connection(self) -> ConnectionInterface:
        """Return a new connection that no one else uses, not connected yet."""
        return self._apart.make_connection()

    def close(self) -> None:
        """Close what is open."""
        self._pool.disconnect()
        self._apart.disconnect()

    def _admitted_info(self) -> Any:
        try:
            return self._client.info()
        except exceptions.AuthenticationError as error:
            # At the start that is no outage, which would pass.
            raise trouble.not_admitted(error) from None

    def _run(self, script: Script, arguments: Sequence[Argument]) -> Any:
        try:
            return self._client.evalsha(script.sha, 0, *arguments)
        except exceptions.NoScriptError:
            return self._client.eval(script.text, 0, *arguments)

    def _run_all(self, calls: Sequence[Call]) -> list[Any]:
        results = self._pipe(calls)
        unknown = [
            place
            for place, result in enumerate(results)
            if isinstance(result, exceptions.NoScriptError)
        ]
        if unknown:
            for script in {script for script, _ in calls}:
                self._client.script_load(script.text)
            # From the first one on: they may rest on each other.
            results[unknown[0] :] = self._pipe(calls[unknown[0] :])
        for result in results:
            if trouble.is_for_now(result):
                raise result
        return [
            trouble.translated(result) if isinstance(result, exceptions.RedisError) else result
            for result in results
        ]

    def _pipe(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for script, arguments in calls:
            pipeline.execute_command("EVALSHA", script.sha, 0, *arguments)
        return pipeline.execute(raise_on_error=False)

    def _fields(self, keys: Sequence[str], names: Sequence[str]) -> list[list[bytes | None]]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, names)
        return pipeline.execute()

    def _reach(self, act: Callable[[], T]) -> T:
        try:
            with self._gate.passing():
                began = time.monotonic()
                try:
                    result = act()
                except exceptions.ConnectionError:
                    if time.monotonic() - began > AGAIN_S:
                        raise
                    result = act()
        except Closed:
            raise trouble.translated(self._trouble) if self._trouble else trouble.away() from None
        except exceptions.RedisError as error:
            self._trouble = error
            if isinstance(error, trouble.AWAY) and self._gate.note_failure():
                logger.warning("Redis can't be reached: %s", trouble.reason(error))
            raise trouble.translated(error) from None
        self._trouble = None
        if self._began is None:
            self._began = time.monotonic()
        if self._gate.note_answer():
            logger.warning("Redis is back")
        return result
