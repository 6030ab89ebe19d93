"""The stop button of a run: it wakes whoever is blocked, once, from anywhere."""

import logging
import threading

import pytest

from orchestrator.errors import DeadlineExceeded, ShuttingDown
from orchestrator.stop import Stopped, StopSignal
from tests.fakes.asking import WAIT_S


def test_nothing_happens_before_a_stop() -> None:
    signal = StopSignal()
    signal.check()
    assert not signal.requested
    assert signal.reason is None


def test_after_a_stop_every_check_raises() -> None:
    signal = StopSignal()
    signal.request()
    for _ in range(2):
        with pytest.raises(Stopped):
            signal.check()


def test_the_first_stop_gives_the_reason() -> None:
    signal = StopSignal()
    first = DeadlineExceeded("Too late.", stage="run")
    signal.request(first)
    signal.request(ShuttingDown("Bye."))
    signal.request()
    assert signal.reason is first


def test_a_cancellation_that_came_first_has_no_reason() -> None:
    signal = StopSignal()
    signal.request()
    signal.request(ShuttingDown("Bye."))
    assert signal.reason is None


def test_a_stop_wakes_whoever_is_blocked() -> None:
    signal = StopSignal()
    blocked, woken = threading.Event(), threading.Event()
    ended = threading.Event()

    def block() -> None:
        with signal.waking(woken.set):
            blocked.set()
            woken.wait(WAIT_S)
        ended.set()

    threading.Thread(target=block, daemon=True).start()
    assert blocked.wait(WAIT_S)
    signal.request()
    assert woken.is_set()
    assert ended.wait(WAIT_S)


def test_a_stop_that_came_first_is_not_slept_through() -> None:
    signal = StopSignal()
    signal.request()
    with pytest.raises(Stopped), signal.waking(lambda: None):
        pytest.fail("must not begin to wait")


def test_whoever_left_is_not_woken() -> None:
    signal = StopSignal()
    woken = threading.Event()
    with signal.waking(woken.set):
        pass
    signal.request()
    assert not woken.is_set()


def test_whoever_failed_is_not_woken() -> None:
    signal = StopSignal()
    woken = threading.Event()
    with pytest.raises(ValueError), signal.waking(woken.set):
        raise ValueError
    signal.request()
    assert not woken.is_set()


def test_all_who_wait_are_woken_once() -> None:
    signal = StopSignal()
    calls: list[str] = []
    with signal.waking(lambda: calls.append("outer")), signal.waking(lambda: calls.append("in")):
        signal.request()
        signal.request()
    assert sorted(calls) == ["in", "outer"]


def test_one_faulty_waker_hurts_neither_the_others_nor_the_asker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    signal = StopSignal()
    woken = threading.Event()

    def fail() -> None:
        raise OSError("already shut")

    with caplog.at_level(logging.ERROR), signal.waking(fail), signal.waking(woken.set):
        signal.request()
    assert woken.is_set()
    assert "already shut" in caplog.text


def test_a_wake_in_progress_is_over_before_its_owner_leaves() -> None:
    """What it would shut may be another request's by then: a connection given back to a pool."""
    signal = StopSignal()
    waking, go_on, left = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []

    def wake() -> None:
        waking.set()
        go_on.wait(WAIT_S)
        order.append("woken")

    def own() -> None:
        with signal.waking(wake):
            threading.Thread(target=signal.request, daemon=True).start()
            waking.wait(WAIT_S)
            threading.Timer(0.05, go_on.set).start()
        order.append("left")
        left.set()

    threading.Thread(target=own, daemon=True).start()
    assert left.wait(WAIT_S)
    assert order == ["woken", "left"]


def test_fifty_racing_stops_wake_once() -> None:
    signal = StopSignal()
    barrier = threading.Barrier(50)
    woken: list[None] = []

    def stop() -> None:
        barrier.wait(WAIT_S)
        signal.request()

    threads = [threading.Thread(target=stop, daemon=True) for _ in range(50)]
    with signal.waking(lambda: woken.append(None)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert len(woken) == 1
