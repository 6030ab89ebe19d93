"""The line: one lane a model, passed by others while it has no room; shared calls need no place."""

from collections.abc import Callable, Hashable

from orchestrator.dispatch.line import Line, Turn
from orchestrator.job import GenerateRequest, Job, Priority
from orchestrator.routing.base import Admission
from tests.fakes.backends import Says
from tests.fakes.jobs import a_job, position

MANY = 5_000


class Places:
    """A gate with so many places, which counts what it is asked."""

    def __init__(self, free: int, shares: bool = False) -> None:
        self.free = free
        self.asked = 0
        self._shares = shares

    def has_room(self) -> bool:
        self.asked += 1
        return self.free > 0

    def admit(self) -> Admission | None:
        self.free -= 1
        return Admission(Says(), lambda: None)

    def alike(self, request: GenerateRequest) -> Hashable | None:
        return request.prompt if self._shares else None

    def watch(self, wake: Callable[[], None]) -> None:
        pass


def put(line: Line, model: str, prompt: str = "hello", now: float = 0.0, **fields: object) -> Job:
    job = a_job(prompt, model=model, **fields)
    line.put(job, now)
    return job


def taken(line: Line, now: float = 0.0) -> list[str]:
    """Take all that may start, and return their ids."""
    ids = []
    while turn := line.next(now):
        ids.append(turn.job_id)
    return ids


def test_a_model_without_room_is_passed_by_others() -> None:
    line = Line({"full": Places(0), "free": Places(9)})
    put(line, "full", priority=Priority.HIGH)
    jobs = [put(line, "free"), put(line, "no gate")]
    assert line.can_go_on
    assert taken(line) == [job.id for job in jobs]
    assert not line.can_go_on
    assert line


def test_each_place_goes_to_the_first_of_the_highest_priority() -> None:
    gate = Places(0)
    line = Line({"full": gate})
    low, first, second = (
        put(line, "full", priority=priority)
        for priority in (Priority.LOW, Priority.HIGH, Priority.HIGH)
    )
    for job in (first, second, low):
        gate.free = 1
        assert taken(line) == [job.id]


def test_models_that_share_places_are_served_by_priority_and_age() -> None:
    places = Places(0)
    line = Line({"one": places, "other": places})
    jobs = [put(line, model) for model in ("other", "one", "one", "other")]
    urgent = put(line, "one", priority=Priority.HIGH)
    places.free = 9
    assert taken(line) == [urgent.id, *(job.id for job in jobs)]


def test_an_overdue_one_without_room_takes_nobodys_turn() -> None:
    line = Line({"full": Places(0)})
    put(line, "full", priority=Priority.LOW)
    highs = [put(line, "free", priority=Priority.HIGH, now=100.0) for _ in range(2)]
    patient = put(line, "free", priority=Priority.LOW, now=50.0)
    assert taken(line, now=100.0) == [patient.id, *(job.id for job in highs)]


def test_thousands_that_have_no_room_cost_a_pick_nothing() -> None:
    full = Places(0)
    line = Line({"full": full})
    for _ in range(MANY):
        put(line, "full")
    full.asked = 0
    for _ in range(100):
        job = put(line, "free")
        assert line.next(0.0) == Turn(job.id, None, None)
    assert full.asked <= 300


def test_a_place_in_the_line_leaves_out_those_without_room() -> None:
    full, free = Places(0), Places(9)
    line = Line({"full": full, "free": free})
    waiting = [put(line, "full") for _ in range(3)]
    other = put(line, "free")
    last = put(line, "full")
    assert [position(line, job) for job in (*waiting, other, last)] == [0, 1, 2, 0, 4]
    full.free = 9
    assert [position(line, job) for job in (*waiting, other, last)] == [0, 1, 2, 3, 4]


def test_one_that_is_dropped_is_gone_wherever_it_waits() -> None:
    full, sharing = Places(0), Places(0, shares=True)
    line = Line({"full": full, "sharing": sharing})
    jobs = [put(line, model) for model in ("full", "sharing", "free")]
    for job in jobs:
        assert line.drop(job.id)
        assert not line.drop(job.id)
    assert not line
    full.free = sharing.free = 9
    assert taken(line) == []


def test_those_that_ask_the_same_follow_the_first_of_them_without_a_place() -> None:
    gate = Places(0, shares=True)
    line = Line({"sharing": gate})
    same = [put(line, "sharing", "same", priority=Priority.LOW) for _ in range(3)]
    other = put(line, "sharing", "other", priority=Priority.LOW)
    first = put(line, "sharing", "same")
    gate.free = 1
    assert taken(line) == [first.id, *(job.id for job in same)]
    late = put(line, "sharing", "same")
    assert taken(line) == [late.id]
    assert line.drop(other.id)


def test_one_whose_turn_comes_when_the_call_is_over_runs_all_the_same() -> None:
    gate = Places(1, shares=True)
    line = Line({"sharing": gate})
    first, second, third = (put(line, "sharing", "same") for _ in range(3))
    turn = line.next(0.0)
    assert turn == Turn(first.id, turn and turn.admission, "same")
    line.ended("same")
    assert line.drop(second.id)
    assert taken(line) == [third.id]
    line.ended("same")
    assert not line._alike


def test_once_they_have_ended_the_next_needs_a_place_again() -> None:
    gate = Places(1, shares=True)
    line = Line({"sharing": gate})
    put(line, "sharing", "same")
    put(line, "sharing", "same")
    turns = [line.next(0.0), line.next(0.0)]
    assert gate.free == 0
    for turn in turns:
        assert turn
        line.ended(turn.key)
    put(line, "sharing", "same")
    assert line.next(0.0) is None
    gate.free = 1
    turn = line.next(0.0)
    assert turn
    line.ended(turn.key)
    assert not line._alike
    assert not line._keys
