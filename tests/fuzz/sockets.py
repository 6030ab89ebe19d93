"""Every case of RFC 6455 against a running server, in several deliveries each."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.fuzz.cases import a_random_case, cases
from tests.fuzz.frames import chopped, replay
from tests.fuzz.handshakes import handshakes, shake

BYTEWISE = 600
"""Up to how many bytes a case is also sent one byte at a time."""
PARTS = 20


def deliveries(sent: Sequence[bytes], random_: random.Random) -> Iterator[Sequence[bytes]]:
    """The same bytes at once, frame by frame, in random parts, and one by one."""
    size = sum(map(len, sent))
    yield [b"".join(sent)]
    if len(sent) > 1:
        yield sent
    yield chopped(sent, random_, max(3, size // PARTS))
    if size <= BYTEWISE:
        yield chopped(sent, random_, 1)


def judge(port: int, seed: int, random_cases: int) -> tuple[int, list[str]]:
    """Replay all cases, and random ones; return how many deliveries there were, and what failed."""
    random_ = random.Random(seed)
    sent, failed = 0, []
    made = [a_random_case(number, random_) for number in range(random_cases)]
    acts: list[tuple[Sequence[bytes], Callable[[Sequence[bytes]], str | None]]] = [
        *(([one.data], partial(shake, port, one)) for one in handshakes()),
        *((case.sent, partial(replay, port, case)) for case in [*cases(), *made]),
    ]
    for data, act in acts:
        for parts in deliveries(data, random_):
            sent += 1
            if fault := act(parts):
                failed.append(fault)
    return sent, failed
