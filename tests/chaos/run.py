"""A chaos run: the service, its clients, what is done to it, and the verdict."""

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from tests import redis_server
from tests.chaos import upstream
from tests.chaos.client import WAYS, Ask, Client, World
from tests.chaos.harms import Scale, draw, inflict
from tests.chaos.journal import Journal
from tests.chaos.members import Member, Process, Redis, web, worker
from tests.chaos.oracle import Verdict, judge
from tests.chaos.reading import Broken, Torn
from tests.chaos.upstream import Upstream
from tests.e2e.client import until
from tests.served import free_port

KEEPING_ALL = ("--appendonly", "yes", "--appendfsync", "always")
TURNS = 4
"""Requests in a session."""
LATE_SHARE = 0.9
"""All is submitted within this share of the time of the harms."""


@dataclass(frozen=True)
class Plan:
    """What a run is. ``settle_s`` is how long requests may take to end after the last harm."""

    seed: int
    requests: int
    clients: int
    scale: Scale
    lease_s: float
    settle_s: float
    redis_options: Sequence[str] = KEEPING_ALL


@dataclass(frozen=True)
class Place:
    """Where a run has its members and its files."""

    folder: Path
    members: Sequence[Member]
    doors: Sequence[str]
    model: Upstream


def run(plan: Plan, folder: Path) -> Verdict:
    """Do a run, with its files in ``folder``, and judge it."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_service(plan, folder))
        journal = Journal(folder / "journal.jsonl")
        stack.callback(journal.close)
        asks = draw_asks(plan)
        return _run(plan, place, journal, asks)


def draw_asks(plan: Plan) -> list[Ask]:
    """Return what is asked, some in sessions, some cancelled."""
    chance = random.Random(plan.seed)
    asks: list[Ask] = []
    while len(asks) < plan.requests:
        is_session = chance.random() < 0.06
        session = f"session-{len(asks)}" if is_session else None
        for _ in range(TURNS if is_session else 1):
            cancel_s = chance.uniform(0, 3) if chance.random() < 0.08 else None
            priority = chance.choice(("high", "normal", "normal", "low"))
            marker = f"m{len(asks):05d}"
            asks.append(Ask(marker, chance.choice(WAYS), priority, session, cancel_s))
    return asks[: plan.requests]


def _run(plan: Plan, place: Place, journal: Journal, asks: list[Ask]) -> Verdict:
    began = time.monotonic()
    over_at = began + plan.scale.duration + plan.settle_s
    world = World(place.doors, journal, over_at)
    groups = list(_groups(asks))
    pace = plan.scale.duration * LATE_SHARE / len(groups)
    with ThreadPoolExecutor(plan.clients) as pool:
        for number, group in enumerate(groups):
            pool.submit(_ask, world, group, plan.seed, began + number * pace)
        harms = draw(random.Random(plan.seed), place.members, plan.scale)
        done = inflict(harms, place.members, plan.scale.duration)
    with ThreadPoolExecutor(plan.clients) as pool:
        last = World(place.doors, journal, time.monotonic() + plan.settle_s)
        accepted = {entry.marker: entry.more["request_id"] for entry in journal.of("accepted")}
        for ask in asks:
            if ask.marker in accepted:
                pool.submit(_examine, last, ask, accepted[ask.marker])
        for session in {ask.session for ask in asks if ask.session}:
            pool.submit(_read_session, last, session)
    calls = place.model.calls()
    for name, facts in (("calls", calls), ("harms", done)):
        lines = [json.dumps(asdict(fact)) + "\n" for fact in facts]
        (place.folder / f"{name}.jsonl").write_text("".join(lines))
    return judge(asks, journal, calls, done, [member.log for member in place.members])


def _groups(asks: Sequence[Ask]) -> Iterator[list[Ask]]:
    """Yield what one client asks: the turns of a session, or a request of its own."""
    group: list[Ask] = []
    for ask in asks:
        if group and not (ask.session and ask.session == group[0].session):
            yield group
            group = []
        group.append(ask)
    yield group


def _ask(world: World, group: Sequence[Ask], seed: int, begin_at: float) -> None:
    time.sleep(max(0.0, begin_at - time.monotonic()))
    clients = [Client(world, ask, seed) for ask in group]
    for client in clients:
        _safely(world, client.ask.marker, client.submit)
    for client in clients:
        if client.request_id:
            _safely(world, client.ask.marker, client.follow)


def _examine(world: World, ask: Ask, request_id: str) -> None:
    client = Client(world, ask, seed=0, request_id=request_id)
    _safely(world, ask.marker, client.examine)


def _read_session(world: World, session: str) -> None:
    answer = requests.get(f"{world.doors[0]}/sessions/{session}", timeout=20)
    messages = answer.json()["messages"] if answer.status_code == 200 else []
    world.journal.note("session", session, messages=messages)


def _safely(world: World, marker: str, act: Callable[[], None]) -> None:
    try:
        act()
    except Broken as error:
        world.journal.note("broken", marker, offence=error.offence, outcome=str(error))
    except Exception as error:
        # Whatever a client can't make sense of.
        world.journal.note("broken", marker, offence=Torn.offence, outcome=repr(error))


@contextlib.contextmanager
def _service(plan: Plan, folder: Path) -> Iterator[Place]:
    """Run two web processes, two workers, a Redis and a model server while inside."""
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(upstream.running())
        (folder / "redis").mkdir()
        redis = stack.enter_context(redis_server.running(folder / "redis", *plan.redis_options))
        ports = [str(free_port()) for _ in range(2)]
        shared = {
            "REDIS_URL": redis.url,
            "ORCHESTRATOR_BACKEND": "openai",
            "ORCHESTRATOR_MODEL": "chaos",
            "ORCHESTRATOR_LEASE_S": str(plan.lease_s),
            "ORCHESTRATOR_GRACEFUL_TIMEOUT_S": "8",
        }
        processes: list[Process] = []
        for number, port in enumerate(ports, 1):
            base = {"OPENAI_BASE_URL": model.base_url("web")}
            logs = folder / f"web{number}.log"
            processes.append(web(logs.stem, logs, **shared, **base, PORT=port))
        for number in (1, 2):
            logs = folder / f"worker{number}.log"
            base = {"OPENAI_BASE_URL": model.base_url(logs.stem)}
            processes.append(worker(logs.stem, logs, **shared, **base))
        for process in processes:
            # What is left after a harm that went wrong is ended as well.
            stack.callback(process.end)
        with ThreadPoolExecutor(len(processes)) as pool:
            list(pool.map(Process.start, processes))
        doors = [f"http://127.0.0.1:{port}" for port in ports]
        until(lambda: all(_is_ready(door) for door in doors), 30)
        yield Place(folder, [Redis(redis), *processes], [f"{door}/api/v1" for door in doors], model)


def _is_ready(door: str) -> bool:
    return requests.get(f"{door}/health/ready", timeout=5).status_code == 200
