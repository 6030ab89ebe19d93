"""The whole life of requests in any order, by any process, held against a model of it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.errors import OrchestratorError
from orchestrator.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FinishReason,
    Restarted,
    Terminal,
    Token,
    Usage,
)
from orchestrator.job import Job, OnBusy, Priority, Status
from orchestrator.service import Service
from orchestrator.session import SessionHead
from orchestrator.stores.base import Change, Idempotency, Store
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.store import Leases, RedisStore
from tests.fakes.asking import a_request
from tests.fakes.clock import Clock
from tests.fakes.jobs import as_listed, position
from tests.fuzz.model import DAY_S, Model, Request, events_after
from tests.redis_server import RedisServer

QUEUE_LIMIT = 5
RETENTION_S = 3600.0
MOMENT_S = 0.001
"""How far apart the same moment may be: a first token's is told as how long ago it was."""
UNKNOWN = "018f0000-0000-7000-8000-000000000000"
TIMES = (
    *("created_at", "started_at", "first_token_at", "completed_at", "expires_at"),
    "cancel_requested_at",
)
SHOWN = (
    *("status", "run", "attempts", "backend", "result", "finish_reason", "usage"),
    *("failed_usage", "error_code", "error_stage"),
)

T = TypeVar("T")


def rolled(make: Callable[[random.Random], T]) -> st.SearchStrategy[T]:
    """What ``make`` makes by chance: hypothesis alone comes back to what is simple too often."""
    return st.integers(0, 2**64 - 1).map(lambda seed: make(random.Random(seed)))


def _a_usage(dice: random.Random) -> Usage | None:
    return dice.choice([None, Usage(dice.randrange(9), dice.randrange(9))])


def _an_end(dice: random.Random) -> Terminal:
    reason = dice.choice([FinishReason.STOP, FinishReason.LENGTH])
    return dice.choice(
        [
            Completed(reason, _a_usage(dice), _a_usage(dice)),
            Completed(reason, _a_usage(dice)),
            Failed("UPSTREAM_ERROR", "It is down.", None, _a_usage(dice)),
            Cancelled(_a_usage(dice)),
        ]
    )


def _asked(dice: random.Random) -> dict[str, Any]:
    return {
        "session_id": dice.choice(NAMES),
        "on_busy": dice.choice(list(OnBusy)),
        "priority": dice.choice(list(Priority)),
        "queue_timeout_s": dice.choice([1.0, 60.0, 3600.0, 3600.0]),
        "system": dice.choice([None, "Be short."]),
    }


NAMES = ("chat", "chat", "talk")
WORDS = ("a", "", "é\u2028", "\x00", "word " * 40)
SECONDS = (0.5, 0.5, 0.5, 1.0, 16.0, 16.0, 16.0, 60.0, 1800.0, RETENTION_S, DAY_S)
NUMBERS = rolled(lambda dice: dice.randrange(2**16))
SESSIONS = rolled(lambda dice: dice.choice(NAMES))
BACKENDS = rolled(lambda dice: dice.choice(["echo", "spare"]))
TEXTS = rolled(lambda dice: dice.choices(WORDS, k=dice.randrange(4)))
KEYS = rolled(lambda dice: Idempotency(dice.choice("kl"), dice.choice([b"one", b"one", b"two"])))
ENDS = rolled(_an_end)
ASKED = rolled(_asked)
PAUSES = rolled(lambda dice: dice.choice(SECONDS))


def outcome(act: Callable[[], Any]) -> Any:
    """What comes of a call: its value, or the kind of error that it raises."""
    try:
        return act()
    except OrchestratorError as error:
        return type(error)


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def alike(real: Event, told: Event) -> bool:
    """Whether two events are the same, but for the words of a failure that the model has not."""
    if isinstance(real, Failed) and isinstance(told, Failed) and not told.message:
        return real.message != "" and replace(real, message="") == told
    return real == told


def near(real: float | None, told: float | None) -> bool:
    if real is None or told is None:
        return real is told
    return abs(real - told) < MOMENT_S


class Idle:
    """A dispatcher that runs nothing: the machine does."""

    def start(self) -> None: ...

    def check(self, model: str | None = None) -> None: ...

    def stop_all(self) -> None: ...


class Life(RuleBasedStateMachine):
    """What may happen to requests. ``stores`` stand for the processes that share them."""

    steps: ClassVar[int] = 0
    lease_s: ClassVar[float] = inf

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.model = Model(self.clock, QUEUE_LIMIT, RETENTION_S, self.lease_s)
        self.stores: Sequence[Any] = self.make()
        self.made: list[str] = [UNKNOWN]
        # Who runs what: the store, the request and the run, those that lost it included.
        self.runs: list[tuple[int, str, int]] = []

    def make(self) -> Sequence[Store]:
        raise NotImplementedError

    @property
    def leased(self) -> bool:
        return self.lease_s < inf

    # What is chosen

    def store(self, number: int) -> Any:
        return self.stores[number % len(self.stores)]

    def one(self, number: int) -> str:
        return self.made[-1 - number % len(self.made)]

    def new_id(self, number: int) -> str:
        """An id as made now: those of one moment come in any order."""
        at = f"{int(self.clock() * 1000):012x}"
        return f"{at[:8]}-{at[8:]}-7000-8000-{number:04x}{len(self.made):08x}"

    # What happens

    @rule(number=NUMBERS, asked=ASKED, key=st.none() | KEYS)
    def submit(self, number: int, asked: dict[str, Any], key: Idempotency | None) -> None:
        request = a_request(f"prompt {len(self.made)}", **asked)
        job = Job(self.new_id(number), request, self.clock())
        real = outcome(lambda: self.store(number).submit(job, key))
        told = outcome(lambda: self.model.submit(job.id, request, key))
        if isinstance(told, type):
            assert real is told
            return
        submission, ready = told
        assert real._replace(ready=()) == submission
        assert ids(real.ready) == ready
        if not submission.replayed:
            self.made.append(job.id)

    @rule(number=NUMBERS, session_id=SESSIONS, count=st.integers(2, 4))
    def come_together(self, number: int, session_id: str, count: int) -> None:
        """Several in one session: chance alone seldom has that many wait for one."""
        asked = {"session_id": session_id, "queue_timeout_s": 3600.0}
        for step in range(count):
            self.submit(number + step, asked, None)

    @precondition(lambda self: any(map(self.model.is_ready, self.model.waiting())))
    @rule(number=NUMBERS, pick=NUMBERS, texts=TEXTS, event=ENDS)
    def run(self, number: int, pick: int, texts: list[str], event: Terminal) -> None:
        """A whole run, from the claim to the end."""
        self.claim(number, pick | 1, "echo")
        last = len(self.runs) - 1
        self.say(last, texts)
        self.finish(last, event)

    @rule(number=NUMBERS, pick=NUMBERS, texts=TEXTS)
    def begin(self, number: int, pick: int, texts: list[str]) -> None:
        """A run that has said something, and goes on."""
        before = len(self.runs)
        self.claim(number, pick | 1, "echo")
        if len(self.runs) > before:
            self.say(before, texts)

    @rule(number=NUMBERS, key=KEYS)
    def replay(self, number: int, key: Idempotency) -> None:
        real = outcome(lambda: self.store(number).replay(key))
        assert real == outcome(lambda: self.model.replay(key))

    @rule(number=NUMBERS, pick=NUMBERS, backend=BACKENDS)
    def claim(self, number: int, pick: int, backend: str) -> None:
        ready = [one.id for one in self.model.waiting() if self.model.is_ready(one)]
        # Mostly one whose turn it is; a dispatcher gives no other, though it may give it twice.
        wanted = ready[pick % len(ready)] if ready and pick % 4 else self.one(pick)
        if not self.leased and self.model.standing(wanted).ahead:
            return
        real = self.store(number).claim(wanted, backend)
        told = self.model.claim(wanted, backend)
        assert (real is None) == (told is None)
        if real is None or told is None:
            return
        self.same(real[0], told)
        talk = self.model.talks[told.asked.session_id]
        assert real[1].system == talk.system
        self.same_turns([turn.content for turn in real[1].messages], talk.turns)
        self.runs.append((number % len(self.stores), wanted, told.run))

    @precondition(lambda self: self.runs)
    @rule(pick=NUMBERS, texts=TEXTS)
    def say(self, pick: int, texts: list[str]) -> None:
        for text in texts:
            request = self.model.requests.get(self.runs[pick % len(self.runs)][1])
            self.append(pick, Token(len(request.said) if request else 0, text))
        self.look(pick)

    @precondition(lambda self: self.runs)
    @rule(pick=NUMBERS, backend=st.none() | BACKENDS)
    def begin_anew(self, pick: int, backend: str | None) -> None:
        request = self.model.requests.get(self.runs[pick % len(self.runs)][1])
        self.append(pick, Restarted(request.attempts + 1 if request else 2, backend))
        self.look(pick)

    @precondition(lambda self: self.runs)
    @rule(pick=NUMBERS, backend=BACKENDS)
    def try_another(self, pick: int, backend: str) -> None:
        place, request_id, run = self.runs[pick % len(self.runs)]
        goes_on = self.model.goes_on(request_id, run)
        request = self.model.requests.get(request_id)
        number = request.attempts + 1 if request else 2
        self.taken(self.stores[place].attempt(request_id, number, backend, run), goes_on)
        if goes_on:
            self.model.attempt(request_id, number, backend)
        self.look(pick)

    @precondition(lambda self: self.runs)
    @rule(pick=NUMBERS, event=ENDS)
    def finish(self, pick: int, event: Terminal) -> None:
        place, request_id, run = self.runs.pop(pick % len(self.runs))
        real = outcome(lambda: self.stores[place].finish(request_id, event, run))
        self.same_change(real, outcome(lambda: self.model.finish(request_id, event, run)))

    @rule(number=NUMBERS, pick=NUMBERS, run=st.integers(1, 3))
    def fail_from_afar(self, number: int, pick: int, run: int) -> None:
        request_id, event = self.one(pick), Failed("SHUTDOWN", "The server is restarting.")
        place = number % len(self.stores)
        is_here = (place, request_id, run) in self.runs
        if is_here:
            self.runs.remove((place, request_id, run))
        real = outcome(lambda: self.store(number).finish(request_id, event, run))
        may_end = is_here or not self.leased
        told = outcome(lambda: self.model.finish(request_id, event, run, may_end))
        self.same_change(real, told)

    @rule(number=NUMBERS, pick=NUMBERS)
    def cancel(self, number: int, pick: int) -> None:
        running = self.runs and pick % 2
        request_id = self.runs[pick % len(self.runs)][1] if running else self.one(pick)
        real = outcome(lambda: self.store(number).cancel(request_id))
        self.same_change(real, outcome(lambda: self.model.cancel(request_id)))

    @rule(number=NUMBERS, pick=NUMBERS)
    def delete(self, number: int, pick: int) -> None:
        request_id = self.one(pick)
        real = outcome(lambda: self.store(number).delete(request_id))
        assert real == outcome(lambda: self.model.delete(request_id))

    @rule(number=NUMBERS, session_id=SESSIONS)
    def delete_session(self, number: int, session_id: str) -> None:
        real = outcome(lambda: self.store(number).delete_session(session_id))
        assert real == outcome(lambda: self.model.delete_session(session_id))

    @rule(seconds=PAUSES)
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(number=NUMBERS)
    def sweep(self, number: int) -> None:
        changes = self.store(number).sweep()
        changed = [change.job.id for change in changes if change.changed]
        told = self.model.sweep(changed)
        assert sorted(changed) == sorted(told)
        for change in changes:
            for job in change.ready:
                # One that another change of the same sweep ended is only told of too early.
                assert change.job.id not in told or job.id in told[change.job.id]
                assert change.changed or self.model.is_ready(self.model.requests[job.id])

    @rule(number=NUMBERS)
    def drain(self, number: int) -> None:
        if number % 4:
            # Not often: whatever runs ends with it.
            return
        place = number % len(self.stores)
        mine = [(job.id, job.run) for job in self.stores[place].live()]
        told = [(run[1], run[2]) for run in self.runs if run[0] == place]
        if not self.leased:
            told = [(one.id, one.run) for one in self.model.kept() if one.is_live]
        assert sorted(mine) == sorted(told)
        Service(self.stores[place], Idle(), []).drain(0.0)  # type: ignore[arg-type]
        for request_id, run in mine:
            end = (request_id, Failed("SHUTDOWN", ""), run)
            outcome(lambda end=end: self.model.finish(*end))
        self.runs = [run for run in self.runs if run[0] != place]

    # What is looked at

    @rule(number=NUMBERS, pick=NUMBERS, after=st.integers(-2, 9), limit=st.integers(1, 9))
    def read(self, number: int, pick: int, after: int, limit: int) -> None:
        request_id = self.one(pick)
        page = outcome(lambda: self.store(number).read(request_id, after, limit))
        request = outcome(lambda: self.model.find(request_id))
        if isinstance(request, type):
            assert page is request
            return
        told = list(events_after(request, after, limit))
        assert [seq for seq, _ in page.events] == [seq for seq, _ in told]
        assert all(alike(a[1], b[1]) for a, b in zip(page.events, told, strict=True))
        last = told[-1][0] if told else max(after, -1)
        assert page.complete == (not request.is_live and last >= len(request.log) - 1)
        # A page may leave out the answer until it is complete.
        result = page.job.result if page.complete else request.result
        self.same_listed(page.job._replace(result=result), request)

    @rule(
        number=NUMBERS,
        status=st.none() | st.sampled_from(list(Status)),
        session_id=st.none() | SESSIONS,
        limit=st.integers(1, 4),
    )
    def list_requests(
        self, number: int, status: Status | None, session_id: str | None, limit: int
    ) -> None:
        found: list[Job] = []
        cursor: str | None = None
        for _ in range(len(self.made) + 1):
            page = self.store(number).jobs(status, session_id, limit, cursor, tenant="")
            assert len(page.items) <= limit
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert cursor is None, "the list has no end"
        assert ids(found) == [
            one.id
            for one in self.model.kept()
            if status in (None, one.status) and session_id in (None, one.asked.session_id)
        ]

    @rule(number=NUMBERS, limit=st.integers(1, 2))
    def list_sessions(self, number: int, limit: int) -> None:
        found: list[SessionHead] = []
        cursor: str | None = None
        for _ in range(len(self.model.talks) + 1):
            page = self.store(number).sessions(limit, cursor, tenant="")
            assert len(page.items) <= limit
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert cursor is None, "the list has no end"
        self.same_sessions(found)

    @invariant()
    def all_is_as_told(self) -> None:
        type(self).steps += 1
        store = self.store(self.steps)
        found = store.jobs(None, None, 1_000, None, tenant="").items
        told = self.model.kept()
        assert ids(found) == [one.id for one in told]
        for job, request in zip(found, told, strict=True):
            self.same_listed(job, request)
            assert store.place(job.id) == self.model.standing(job.id)
        self.same_sessions(store.sessions(1_000, None, tenant="").items)

    def teardown(self) -> None:
        """End all that lives, and see that nothing is left once all is forgotten."""
        try:
            for request in self.model.kept():
                events = [event for _, event in self.stores[0].read(request.id, -1, 10_000).events]
                assert len(events) == len(request.log)
                assert all(map(alike, events, request.log))
            for request in self.model.kept():
                if request.is_live:
                    # Whoever runs it: what is to stop may be ended by all.
                    self.stores[0].cancel(request.id)
                    self.stores[0].finish(request.id, Failed("SHUTDOWN", "Over."), request.run)
            self.clock.advance(DAY_S)
            self.stores[0].sweep()
            self.nothing_is_left()
        finally:
            self.close()

    def nothing_is_left(self) -> None:
        raise NotImplementedError

    def close(self) -> None: ...

    # How it is held against the model

    def append(self, pick: int, event: Token | Restarted) -> None:
        place, request_id, run = self.runs[pick % len(self.runs)]
        goes_on = self.model.goes_on(request_id, run)
        self.taken(self.stores[place].append(request_id, event, run), goes_on)
        if goes_on:
            self.model.append(request_id, event)

    def taken(self, real: bool, goes_on: bool) -> None:
        """What is to stop may learn of it late where others decide, and never changes anything."""
        assert real or not goes_on
        assert self.leased or real == goes_on

    def look(self, pick: int) -> None:
        """Have all that was said seen: whoever looks where it was said sees it."""
        place, request_id, _ = self.runs[pick % len(self.runs)]
        job = outcome(lambda: self.stores[place].get(request_id))
        request = outcome(lambda: self.model.find(request_id))
        if isinstance(request, type):
            assert job is request
        else:
            self.same(job, request)

    def same(self, job: Job, request: Request) -> None:
        self.same_listed(job, request)
        assert job.request == request.asked

    def same_listed(self, job: Job, request: Request) -> None:
        for name in SHOWN:
            real, told = getattr(job, name), getattr(request, name)
            assert real == told, f"{name} of {job.id}: {real!r}, not {told!r}"
        for name in TIMES:
            real, told = getattr(job, name), getattr(request, name)
            assert near(real, told), f"{name} of {job.id}: {real!r}, not {told!r}"
        assert job.id == request.id
        assert as_listed(job).request == request.asked._replace(prompt="", system=None)

    def same_change(self, real: Any, told: Any) -> None:
        if isinstance(told, type):
            assert real is told
            return
        assert isinstance(real, Change)
        assert (real.changed, ids(real.ready)) == told
        self.same(real.job, self.model.requests[real.job.id])

    def same_sessions(self, found: Sequence[SessionHead]) -> None:
        assert [session.name for session in found] == self.model.used()
        for session in found:
            talk = self.model.talks[session.name]
            assert session.active == talk.active
            assert near(session.created_at, talk.created_at)
            assert near(session.last_used_at, talk.last_used_at)
            assert session.messages_count == 2 * len(talk.turns)

    def same_turns(self, contents: list[str], turns: list[tuple[str, str]]) -> None:
        assert contents == [text for turn in turns for text in turn]


class MemoryLife(Life):
    """One process, and all in its memory."""

    steps = 0
    retention_s: ClassVar[float] = RETENTION_S

    def make(self) -> Sequence[Store]:
        return [
            MemoryStore(
                queue_limit=QUEUE_LIMIT,
                retention_s=self.retention_s,
                memory_limit=64 * 1024 * 1024,
                clock=self.clock,
            )
        ]

    def nothing_is_left(self) -> None:
        assert self.stores[0].size == 0


class RedisLife(Life):
    """Three processes that share a Redis, whose requests may be lost, or given back."""

    steps = 0
    lease_s = 15.0
    server: ClassVar[RedisServer]

    def make(self) -> Sequence[Store]:
        self.server.client.flushall()
        leases = Leases(self.lease_s, grace_s=0.0)
        return [
            RedisStore(
                self.server.url,
                queue_limit=QUEUE_LIMIT,
                retention_s=RETENTION_S,
                leases=leases,
                clock=self.clock,
            )
            for _ in range(3)
        ]

    @rule(number=NUMBERS)
    def renew(self, number: int) -> None:
        place = number % len(self.stores)
        stop = [
            (request_id, run)
            for at, request_id, run in self.runs
            if at == place and not self.model.renew(request_id, run)
        ]
        assert sorted(self.stores[place].renew()) == sorted(stop)

    @precondition(lambda self: self.runs)
    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        """Whoever runs something is not heard of for longer than a lease."""
        self.clock.advance(self.lease_s)
        self.sweep(number)
        self.begin(number, number, ["a"])

    @precondition(lambda self: self.runs)
    @rule(pick=NUMBERS)
    def give_back(self, pick: int) -> None:
        place, request_id, run = self.runs.pop(pick % len(self.runs))
        real = outcome(lambda: self.stores[place].give_back(request_id, run))
        self.same_change(real, outcome(lambda: self.model.give_back(request_id, run)))

    @rule(number=NUMBERS, pick=NUMBERS)
    def hand_on(self, number: int, pick: int) -> None:
        self.store(number).sent(self.one(pick))

    @invariant()
    def places_are_as_told(self) -> None:
        for request in self.model.waiting():
            job = self.store(self.steps).get(request.id)
            assert position(self.store(self.steps), job) == self.model.position(request)

    def nothing_is_left(self) -> None:
        left = {key.partition(b":")[2].split(b":")[0] for key in self.server.client.keys("*")}
        assert left <= {b"count", b"idem"}, self.server.client.keys("*")

    def close(self) -> None:
        for store in self.stores:
            store.close()
