"""What is done to the processes of a chaos run, and when: drawn by chance from a seed."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.members import Member

WAIT_S = 60.0
"""How long a member may take until it is there again."""


@dataclass(frozen=True)
class Harm:
    """``action`` on the ``victim`` after a ``pause``, for so many ``seconds``."""

    pause: float
    victim: str
    action: str
    seconds: float


@dataclass
class Done:
    """A harm that was done, in monotonic seconds; ``ended`` is when its victim was there again."""

    harm: Harm
    began: float
    ended: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Scale:
    """How hard a run is. All in seconds.

    ``duration`` of the harms together, ``gap`` between two, ``pause`` of a process, ``outage`` of
    Redis: shortest and longest each.
    """

    duration: float
    gap: tuple[float, float]
    pause: tuple[float, float]
    outage: tuple[float, float]


FIRST = (
    ("redis", "kill"),
    ("redis", "pause"),
    ("worker", "kill"),
    ("worker", "pause"),
    ("web", "kill"),
)
"""What every run has, in an order of its own."""
KINDS = ("redis", "web", "worker", "worker")
"""Who is hit how often."""


def draw(chance: random.Random, members: Sequence[Member], scale: Scale) -> list[Harm]:
    """Return what is to be done."""
    first = chance.sample(FIRST, len(FIRST))
    harms: list[Harm] = []
    left = scale.duration
    while left > 0:
        kind, action = first.pop() if first else (chance.choice(KINDS), "")
        victim = chance.choice([one for one in members if one.name.startswith(kind)])
        action = action or chance.choice(victim.actions)
        seconds = chance.uniform(*(scale.outage if kind == "redis" else scale.pause))
        if action != "pause":
            seconds = chance.choice((0.0, min(seconds, 2.0)))
        harms.append(Harm(chance.uniform(*scale.gap), victim.name, action, seconds))
        left -= harms[-1].pause
    return harms


def inflict(harms: Sequence[Harm], members: Sequence[Member], duration: float) -> list[Done]:
    """Do it, each in its time, for ``duration`` seconds; return when everyone is there again."""
    over_at = time.monotonic() + duration
    by_name = {member.name: member for member in members}
    done: list[Done] = []
    threads = []
    for harm in harms:
        time.sleep(harm.pause)
        if time.monotonic() > over_at:
            break
        member = by_name[harm.victim]
        # One that is still away is waited for: what is drawn is done.
        assert member.lock.acquire(timeout=WAIT_S), f"{member.name} did not come back"
        done.append(Done(harm, time.monotonic()))
        threads.append(threading.Thread(target=_inflict, args=(member, done[-1]), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(WAIT_S)
    return done


def _inflict(member: Member, done: Done) -> None:
    try:
        member.harm(done.harm.action, done.harm.seconds)
    except BaseException as error:
        done.error = f"{member.name} did not come back after {done.harm.action}: {error!r}"
    finally:
        done.ended = time.monotonic()
        member.lock.release()
