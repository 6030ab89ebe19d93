"""The requests that wait: by model, by priority, by age, and which of them may start now."""

import itertools
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from operator import attrgetter
from typing import NamedTuple

from orchestrator.dispatch.base import PATIENCE_S
from orchestrator.job import Job, Priority
from orchestrator.routing.base import Admission, Gate

_RANKS = {priority: rank for rank, priority in enumerate(Priority)}
_JOINING = ""
"""The lane of requests that join a running call, whatever their model: they need no place."""


class Turn(NamedTuple):
    """A request whose turn it is.

    ``admission`` is None where it needs none, and ``key`` where it shares no call.
    """

    job_id: str
    admission: Admission | None
    key: Hashable | None


class Line:
    """One lane for each model, so that a full model keeps only its own requests waiting.

    ``gates`` says by model when there is room. Not safe to be used by several threads at once.
    """

    def __init__(self, gates: Mapping[str, Gate]) -> None:
        self._gates = gates
        self._lanes: dict[str, _Lane] = {}
        self._waiting: dict[str, _Lane] = {}
        self._tickets = itertools.count(1)
        self._impatient_turn = False
        self._keys: dict[str, Hashable] = {}
        self._alike: dict[Hashable, _Alike] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def can_go_on(self) -> bool:
        """Whether there is one that may start now."""
        return bool(self._waiting) and any(lane.is_open() for lane in self._waiting.values())

    def put(self, job: Job, now: float) -> None:
        """Let ``job`` wait."""
        lane, rank = self._lane(job.request.model), _RANKS[job.request.priority]
        key = lane.gate.alike(job.request) if lane.gate else None
        if key is not None:
            alike = self._alike.setdefault(key, _Alike())
            self._keys[job.id] = key
            if alike.running:
                lane = self._lane(_JOINING)
            else:
                alike.waiting[job.id] = rank
        self._append(lane, rank, job.id, now)

    def next(self, now: float) -> Turn | None:
        """Take out the next that may start now; None where there is none.

        It is the first of the highest priority, and every other time the most overdue below it. By
        turns, so that neither an endless stream of high requests nor a backlog of overdue low ones
        takes all slots.
        """
        while lanes := [lane for lane in self._waiting.values() if lane.is_open()]:
            queue = self._choose(lanes, now)
            lane = queue.lane
            admission = None
            # Somebody else may have taken the last place since.
            if lane.gate and (admission := lane.gate.admit()) is None:
                continue
            job_id = queue.pop()
            if not queue:
                self._forget_empty(lane)
            key = self._keys.pop(job_id, None) if self._keys else None
            if key is not None:
                self._lead(job_id, key, lane)
            return Turn(job_id, admission, key)
        return None

    def ended(self, key: Hashable) -> None:
        """Note that a request has run, by the ``key`` of its turn."""
        self._alike[key].running -= 1
        self._forget_alike(key)

    def drop(self, job_id: str) -> bool:
        """Take out a request that will not run; False where it is not waiting."""
        for lane in self._waiting.values():
            if any(queue.drop(job_id) is not None for queue in lane.queues):
                break
        else:
            return False
        self._forget_empty(lane)
        key = self._keys.pop(job_id, None)
        if key in self._alike:
            self._alike[key].waiting.pop(job_id, None)
            self._forget_alike(key)
        return True

    def position(self, job_id: str, priority: Priority) -> int:
        """Return how many are ahead.

        Requests of models that are full don't count, except its own model's.
        """
        rank = _RANKS[priority]
        mine = next((lane for lane in self._waiting.values() if job_id in lane.queues[rank]), None)
        ticket = mine.queues[rank].ticket(job_id) if mine else 0
        lanes = [lane for lane in self._waiting.values() if lane is mine or lane.is_open()]
        return sum(lane.ahead(rank, ticket) for lane in lanes)

    def _choose(self, lanes: "list[_Lane]", now: float) -> "_Queue":
        if len(lanes) == 1:
            queues = [queue for queue in lanes[0].queues if queue]
        else:
            queues = [queue for lane in lanes for queue in lane.queues if queue]
            queues.sort(key=attrgetter("rank", "first"))
        if len(queues) == 1:
            self._impatient_turn = False
            return queues[0]
        highest = queues[0].rank
        overdue = [q for q in queues[1:] if q.rank > highest and now - q.since >= PATIENCE_S]
        self._impatient_turn = bool(overdue) and not self._impatient_turn
        return min(overdue, key=attrgetter("since")) if self._impatient_turn else queues[0]

    def _lane(self, model: str) -> "_Lane":
        if model not in self._lanes:
            self._lanes[model] = _Lane(model, self._gates.get(model))
        return self._lanes[model]

    def _append(self, lane: "_Lane", rank: int, job_id: str, since: float) -> None:
        lane.queues[rank].put(job_id, next(self._tickets), since)
        self._waiting[lane.model] = lane

    def _lead(self, job_id: str, key: Hashable, lane: "_Lane") -> None:
        """Let requests that ask the same follow one that begins, since they can share its call.

        Those that can't after all wait for a place once they run.
        """
        alike = self._alike.setdefault(key, _Alike())
        alike.running += 1
        alike.waiting.pop(job_id, None)
        for follower, rank in alike.waiting.items():
            since = lane.queues[rank].drop(follower)
            if since is not None:
                self._append(self._lane(_JOINING), rank, follower, since)
        alike.waiting.clear()
        self._forget_empty(lane)

    def _forget_empty(self, lane: "_Lane") -> None:
        if not any(lane.queues):
            self._waiting.pop(lane.model, None)

    def _forget_alike(self, key: Hashable) -> None:
        alike = self._alike[key]
        if not alike.running and not alike.waiting:
            del self._alike[key]


class _Alike:
    """Requests that ask the same: who waits for a place, with their rank, and how many run."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.running = 0


class _Lane:
    """The waiting requests of one model."""

    __slots__ = ("gate", "model", "queues")

    def __init__(self, model: str, gate: Gate | None) -> None:
        self.model = model
        self.gate = gate
        self.queues = tuple(_Queue(self, rank) for rank in _RANKS.values())

    def is_open(self) -> bool:
        """Whether one of them may start now."""
        return self.gate is None or self.gate.has_room()

    def ahead(self, rank: int, ticket: int) -> int:
        """Return how many go before one of that rank and ticket."""
        return sum(map(len, self.queues[:rank])) + self.queues[rank].before(ticket)


class _Queue:
    """The waiting requests of one model and priority, in the order they came.

    Tickets number all that wait, so that a place among ten thousand is found without walking past
    them.
    """

    __slots__ = ("_tickets", "_waiting", "lane", "rank")

    def __init__(self, lane: _Lane, rank: int) -> None:
        self.lane = lane
        self.rank = rank
        self._waiting: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._tickets: list[int] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    @property
    def first(self) -> int:
        """The ticket of the first one."""
        return self._tickets[0]

    @property
    def since(self) -> float:
        """Since when the first one has been waiting."""
        return next(iter(self._waiting.values()))[1]

    def put(self, job_id: str, ticket: int, since: float) -> None:
        self._waiting[job_id] = (ticket, since)
        self._tickets.append(ticket)

    def pop(self) -> str:
        """Take the first one out."""
        job_id, _ = self._waiting.popitem(last=False)
        del self._tickets[0]
        return job_id

    def drop(self, job_id: str) -> float | None:
        """Take one out, and return since when it has waited; None where it is not here."""
        if job_id not in self._waiting:
            return None
        ticket, since = self._waiting.pop(job_id)
        del self._tickets[bisect_left(self._tickets, ticket)]
        return since

    def ticket(self, job_id: str) -> int:
        """Return the ticket of one that is here."""
        return self._waiting[job_id][0]

    def before(self, ticket: int) -> int:
        """Return how many have a lower ticket."""
        return bisect_left(self._tickets, ticket)
