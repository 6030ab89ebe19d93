"""Models of a user's own, good and bad, for the python backend."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gevent.monkey import get_original

native_sleep = get_original("time", "sleep")

# What the callables below did, by name; the test that asks empties it first.
DONE: list[str] = []

# A test sets it to let ``stuck`` go on. It is a native lock, as a stuck C library would be.
RELEASE = get_original("_thread", "allocate_lock")()


def words(prompt: str) -> Iterator[str]:
    yield from (f"{word} " for word in prompt.split())


def whole(question: str) -> str:
    return f"You said: {question}"


def listed(prompt: str) -> list[str]:
    return ["a", "", "b"]


def nothing() -> str:
    return ""


def everything(
    text: str,
    messages: list[dict[str, str]],
    session_id: str,
    *,
    metadata: dict[str, Any],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    stop: list[str],
    seed: int | None,
    stopped: Callable[[], bool],
    mine: int = 7,
) -> str:
    options = {**locals(), "stopped": stopped()}
    return json.dumps(options)


def by_options(**options: Any) -> str:
    return json.dumps(sorted(options))


def by_prompt_and_options(anything: str, /, *more: Any, **options: Any) -> str:
    return json.dumps([anything, more, sorted(options)])


def with_defaults(
    prompt: str, seed: int | None = 5, stop: Sequence[str] = ("\n",), top_p: float = 0.5
) -> str:
    return json.dumps([seed, stop, top_p])


class Model:
    """A model with a state, used as ``MODEL`` and as ``MODEL.method``."""

    def __call__(self, prompt: str, seed: int | None = None) -> str:
        return f"{prompt} {seed}"

    def method(self, prompt: str) -> str:
        return prompt.upper()


MODEL = Model()
PARTIAL = partial(MODEL, seed=5)
NOT_CALLABLE = 3


def surrogates(prompt: str) -> Iterator[str]:
    yield from ("a\ud83d", "\ude00b", "c\udc00", "d\ud83d")


def burst(prompt: str) -> Iterator[str]:
    """Yield ``prompt`` numbers as fast as it goes."""
    for number in range(int(prompt)):
        yield f"{number} "


def computes(prompt: str) -> Iterator[str]:
    """Compute, without ever waiting, for ``prompt`` seconds."""
    until = time.monotonic() + float(prompt)
    while time.monotonic() < until:
        sum(range(1000))
    yield "computed"


def sleeps(prompt: str) -> Iterator[str]:
    """Sleep as a user would, which under patching is gevent's sleep in a thread of its own."""
    for number in range(3):
        time.sleep(0.01)
        yield f"{number} "


def locks(prompt: str) -> Iterator[str]:
    """Share a lock and a log with other calls, as users do."""
    for number in range(20):
        with LOCK:
            logging.getLogger("tests").debug("call %s", number)
            yield f"{number} "


LOCK = threading.Lock()


def in_thread(prompt: str) -> str:
    """Say whether this is a native thread other than the main one."""
    return str(get_original("_thread", "get_ident")() != MAIN_THREAD)


MAIN_THREAD = get_original("_thread", "get_ident")()


def endless(prompt: str) -> Iterator[str]:
    """Yield without end, and note how it ends."""
    try:
        while True:
            native_sleep(0.001)
            yield "again "
    finally:
        DONE.append(prompt)


def polite(prompt: str, stopped: Callable[[], bool]) -> str:
    """Answer in one piece, but give up once nobody wants it."""
    while not stopped():
        native_sleep(0.001)
    DONE.append(prompt)
    return "too late"


def stuck(prompt: str) -> Iterator[str]:
    yield "stuck"
    DONE.append(prompt)
    RELEASE.acquire()
    RELEASE.release()
    yield "free"


def huge(prompt: str) -> Iterator[str]:
    try:
        while True:
            yield "x" * 100_000
    finally:
        DONE.append(prompt)


def many_letters(prompt: str) -> Iterator[str]:
    while True:
        yield "x"


def fails(prompt: str) -> Iterator[str]:
    yield "so far"
    raise ValueError("the secret of the callable")


def fails_at_once(prompt: str) -> str:
    raise ValueError("the secret of the callable")


def picky(prompt: str) -> str:
    if prompt == "break":
        raise ValueError("the secret of the callable")
    return prompt


def exits(prompt: str) -> str:
    raise SystemExit(3)


def yields_numbers(prompt: str) -> Iterator[Any]:
    yield "a"
    yield 5


def yields_bytes(prompt: str) -> Iterator[Any]:
    yield b"a"


def returns_bytes(prompt: str) -> Any:
    return b"abc"


def returns_nothing(prompt: str) -> Any:
    DONE.append(prompt)


def returns_a_mapping(prompt: str) -> Any:
    return {"text": "abc"}


async def is_async(prompt: str) -> str:
    return prompt


async def yields_async(prompt: str) -> AsyncIterator[str]:
    yield prompt


class AsyncModel:
    async def __call__(self, prompt: str) -> str:
        return prompt


ASYNC_MODEL = AsyncModel()


def wants_more(prompt: str, temprature: float) -> str:
    return prompt


def wants_by_keyword(prompt: str, *, user: str) -> str:
    return prompt


def takes_messages_first(messages: list[dict[str, str]]) -> str:
    return ""


def deadly(prompt: str) -> Iterator[str]:
    """Take the whole process along, as a fault in a C library would."""
    yield "so "
    yield "far "
    if prompt == "poison":
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    yield "so good"
