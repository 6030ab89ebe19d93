"""What waits is due in time, in order, and costs nothing once it waits no more."""

from orchestrator.stores.memory.deadlines import SPARE, Deadlines


def test_those_that_are_due_are_told_once_and_in_order() -> None:
    deadlines = Deadlines({"a", "b", "c", "d"})
    for due_at, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (9.0, "d")):
        deadlines.add(due_at, name)
    assert deadlines.due(0.5) == []
    assert deadlines.due(3.0) == ["a", "b", "c"]
    assert deadlines.due(3.0) == []
    assert deadlines.due(9.0) == ["d"]


def test_what_waits_no_more_is_passed_over() -> None:
    waiting = {"a", "b"}
    deadlines = Deadlines(waiting)
    deadlines.add(1.0, "a")
    deadlines.add(1.0, "b")
    waiting.remove("a")
    assert deadlines.due(1.0) == ["b"]


def test_what_waits_no_more_is_not_kept_until_its_time() -> None:
    waiting: set[str] = set()
    deadlines = Deadlines(waiting)
    for number in range(10 * SPARE):
        name = str(number)
        waiting.add(name)
        deadlines.add(1.0, name)
        if number % 100:
            waiting.remove(name)
    assert len(deadlines) <= 2 * len(waiting) + SPARE + 1
    assert set(deadlines.due(1.0)) == waiting
