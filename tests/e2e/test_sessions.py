"""Sessions: what of a conversation the model is told, and who may speak while it is busy.

The echo backend says how many messages came before the prompt.
"""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.client import (
    LONG,
    Json,
    call,
    connected,
    ended,
    get,
    occupied,
    post,
    refused,
    started,
    status,
    submit,
    until,
)
from tests.served import Served, serve


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """Twenty words a second, two requests at a time."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.05", ORCHESTRATOR_CONCURRENCY="2") as served:
        yield served


@pytest.fixture
def name() -> str:
    """A session that no other test knows."""
    return f"session-{uuid.uuid4()}"


def say(server: Served, session_id: str, prompt: str, **fields: object) -> Json:
    return ended(server, submit(server, prompt, session_id=session_id, **fields))


def messages(server: Served, session_id: str) -> list[tuple[str, str]]:
    listed = get(server, f"/sessions/{session_id}").json()["messages"]
    return [(message["role"], message["content"]) for message in listed]


# The conversation


def test_the_model_is_told_what_was_said_before(server: Served, name: str) -> None:
    assert say(server, name, "one")["result"] == "Echo: one"
    assert say(server, name, "two")["result"] == "Echo after 2 messages: two"
    assert say(server, name, "three")["result"] == "Echo after 4 messages: three"
    assert messages(server, name) == [
        ("user", "one"),
        ("assistant", "Echo: one"),
        ("user", "two"),
        ("assistant", "Echo after 2 messages: two"),
        ("user", "three"),
        ("assistant", "Echo after 4 messages: three"),
    ]


def test_sessions_know_nothing_of_each_other(server: Served, name: str) -> None:
    say(server, name, "one")
    assert say(server, f"{name}-other", "one")["result"] == "Echo: one"
    assert ended(server, submit(server, "one"))["result"] == "Echo: one"


def test_a_session_goes_on_through_any_door(server: Served, name: str) -> None:
    say(server, name, "one")
    with connected(server) as socket:
        socket.submit("two", session_id=name)
        assert socket.receive()["result"] == "Echo after 2 messages: two"
    waited = post(
        server, "/infer", {"prompt": "three", "session_id": name}, headers={"Prefer": "wait=10"}
    )
    assert waited.json()["result"] == "Echo after 4 messages: three"


def test_a_system_text_stays_in_force_and_is_no_turn(server: Served, name: str) -> None:
    say(server, name, "one", system="Be kind.")
    assert say(server, name, "two")["result"] == "Echo after 2 messages: two"
    assert messages(server, name)[0] == ("system", "Be kind.")
    say(server, name, "three", system="Be brief.")
    assert [text for role, text in messages(server, name) if role == "system"] == ["Be brief."]


def test_a_turn_that_did_not_end_well_is_no_part_of_it(slow: Served, name: str) -> None:
    say(slow, name, "one")
    assert say(slow, name, LONG, timeout_s=0.2)["status"] == "failed"
    request_id = submit(slow, LONG, session_id=name)
    started(slow, request_id)
    post(slow, f"/cancel/{request_id}?wait=10")
    assert say(slow, name, "two")["result"] == "Echo after 2 messages: two"
    assert len(messages(slow, name)) == 4


def test_the_oldest_turns_are_dropped_past_the_limit(server: Served, name: str) -> None:
    with connected(server) as socket:
        for number in range(102):
            socket.submit(str(number), session_id=name)
            answer = socket.receive()["result"]
    assert answer == "Echo after 200 messages: 101"
    kept = messages(server, name)
    assert len(kept) == 200
    assert kept[0] == ("user", "2")
    assert kept[-1] == ("assistant", "Echo after 200 messages: 101")


def test_what_is_large_is_dropped_before_the_limit_of_turns(server: Served, name: str) -> None:
    large = "ü" * 150_000
    for _ in range(3):
        say(server, name, large)
    kept = messages(server, name)
    assert len(kept) == 2
    assert sum(len(text.encode()) for _, text in kept) <= 1024 * 1024


# Lists


def test_a_session_says_what_it_is(slow: Served, name: str) -> None:
    say(slow, name, "one")
    idle = get(slow, f"/sessions/{name}").json()
    assert sorted(idle) == [
        "active_requests",
        "created_at",
        "last_used_at",
        "messages",
        "messages_count",
        "session_id",
    ]
    assert (idle["session_id"], idle["messages_count"], idle["active_requests"]) == (name, 2, [])
    with occupied(slow, session_id=name) as (running,):
        waiting = submit(slow, session_id=name)
        busy = get(slow, f"/sessions/{name}").json()
        assert busy["active_requests"] == [running, waiting]
        assert busy["last_used_at"] > idle["last_used_at"]
        assert busy["created_at"] == idle["created_at"]
        post(slow, f"/cancel/{waiting}")


def test_sessions_are_listed_last_used_first_page_by_page(slow: Served) -> None:
    names = [f"listed-{number}" for number in range(5)]
    for one in [*names, names[1]]:
        say(slow, one, "one")
    wanted = ["listed-1", "listed-4", "listed-3", "listed-2", "listed-0"]
    listed: list[Json] = []
    more = "/sessions?limit=2"
    while more:
        page = get(slow, more).json()
        assert len(page["data"]) <= 2
        listed += page["data"]
        more = f"/sessions?limit=2&cursor={page['next_cursor']}" if page["has_more"] else ""
    mine = [one for one in listed if one["session_id"] in names]
    assert [one["session_id"] for one in mine] == wanted
    assert [one["messages_count"] for one in mine] == [4, 2, 2, 2, 2]
    assert all("messages" not in one for one in mine)


def test_a_deleted_session_begins_anew(server: Served, name: str) -> None:
    request = say(server, name, "one")
    answer = call(server, "DELETE", f"/sessions/{name}")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(get(server, f"/sessions/{name}"), 404, "NOT_FOUND")
    refused(call(server, "DELETE", f"/sessions/{name}"), 404, "NOT_FOUND")
    assert status(server, request["request_id"]) == request, "its requests are kept"
    assert say(server, name, "two")["result"] == "Echo: two"


def test_a_busy_session_is_not_deleted(slow: Served, name: str) -> None:
    with occupied(slow, session_id=name):
        refused(call(slow, "DELETE", f"/sessions/{name}"), 409, "IN_PROGRESS")
    assert call(slow, "DELETE", f"/sessions/{name}").status_code == 204


def test_a_session_nobody_uses_is_forgotten(name: str) -> None:
    with serve(ORCHESTRATOR_RETENTION_S="1") as forgetful:
        say(forgetful, name, "one")
        until(lambda: get(forgetful, f"/sessions/{name}").status_code == 404)
        assert say(forgetful, name, "two")["result"] == "Echo: two"


# One at a time


def test_requests_of_a_session_run_in_the_order_they_came(server: Served, name: str) -> None:
    ids = [submit(server, str(number), session_id=name) for number in range(20)]
    answers = [ended(server, request_id) for request_id in ids]
    for number, answer in enumerate(answers[1:], 1):
        assert answer["result"] == f"Echo after {2 * number} messages: {number}"
        assert answer["started_at"] >= answers[number - 1]["completed_at"]


def test_racing_requests_of_a_session_never_run_at_once(server: Served, name: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = [
            racer.result()
            for racer in [pool.submit(submit, server, "x", session_id=name) for _ in range(48)]
        ]
    answers = sorted(ended(server, request_id)["result"] for request_id in ids)
    expected = ["Echo: x", *(f"Echo after {2 * number} messages: x" for number in range(1, 48))]
    assert answers == sorted(expected)


def test_who_waits_for_a_session_holds_no_slot(slow: Served, name: str) -> None:
    with occupied(slow, session_id=name) as (running,):
        waiting = [submit(slow, "one", session_id=name) for _ in range(3)]
        places = [status(slow, request_id)["queue_position"] for request_id in waiting]
        assert places == [1, 2, 3]
        assert ended(slow, submit(slow, "one"))["result"] == "Echo: one"
        assert status(slow, waiting[0])["status"] == "pending"
        for request_id in waiting:
            post(slow, f"/cancel/{request_id}")
        assert status(slow, running)["status"] == "processing"


def test_cancelling_one_that_waits_lets_the_next_move_up(slow: Served, name: str) -> None:
    with occupied(slow, session_id=name) as (running,):
        first, second = (submit(slow, text, session_id=name) for text in ("first", "second"))
        assert post(slow, f"/cancel/{first}").json()["status"] == "cancelled"
        assert status(slow, second)["queue_position"] == 1
        post(slow, f"/cancel/{running}")
        assert ended(slow, second)["result"] == "Echo: second"


def test_enqueue_waits_its_turn(slow: Served, name: str) -> None:
    first = submit(slow, "one two three", session_id=name)
    second = submit(slow, "four", session_id=name, on_busy="enqueue")
    assert status(slow, second)["status"] == "pending"
    assert ended(slow, second)["result"] == "Echo after 2 messages: four"
    assert status(slow, first)["status"] == "completed"


def test_reject_is_refused_while_the_session_is_busy(slow: Served, name: str) -> None:
    body = {"prompt": "two", "session_id": name, "on_busy": "reject"}
    with occupied(slow, session_id=name) as (running,):
        error = refused(post(slow, "/infer", body), 409, "SESSION_BUSY")
        assert error["details"] == {"request_id": running}
        with connected(slow) as socket:
            socket.send(body | {"ref": 1})
            frame = socket.receive()
            assert (frame["type"], frame["code"], frame["ref"]) == ("error", "SESSION_BUSY", 1)
            assert socket.lives()
        assert len(get(slow, f"/requests?session_id={name}").json()["data"]) == 1
    assert say(slow, name, "two", on_busy="reject")["result"] == "Echo: two"


def test_of_racing_rejects_one_is_taken(slow: Served, name: str) -> None:
    body = {"prompt": LONG, "session_id": name, "on_busy": "reject"}
    with ThreadPoolExecutor(12) as pool:
        answers = [
            racer.result() for racer in [pool.submit(post, slow, "/infer", body) for _ in range(12)]
        ]
    codes = sorted(answer.status_code for answer in answers)
    taken = next(answer for answer in answers if answer.status_code == 200)
    post(slow, f"/cancel/{taken.json()['request_id']}?wait=10")
    assert codes == [200] + [409] * 11


def test_interrupt_takes_the_place_of_all_before_it(slow: Served, name: str) -> None:
    with occupied(slow, session_id=name) as (running,):
        waiting = submit(slow, "waiting", session_id=name)
        began = time.monotonic()
        newest = submit(slow, "newest", session_id=name, on_busy="interrupt")
        assert ended(slow, newest)["result"] == "Echo: newest"
        assert time.monotonic() - began < 5
        assert status(slow, waiting)["status"] == "cancelled"
        now = status(slow, running)
        assert now["status"] == "cancelled"
        assert now["result"].startswith("Echo: ")
    assert messages(slow, name) == [("user", "newest"), ("assistant", "Echo: newest")]


def test_parallel_runs_beside_the_others(slow: Served, name: str) -> None:
    with occupied(slow, session_id=name) as (running,):
        beside = submit(slow, "beside", session_id=name, on_busy="parallel")
        assert ended(slow, beside)["result"] == "Echo: beside"
        assert status(slow, running)["status"] == "processing"
    assert messages(slow, name) == [("user", "beside"), ("assistant", "Echo: beside")]
