"""The playground in a real browser: a conversation from its first word to what is found again."""

import re
import shlex
import subprocess

import requests

from tests.e2e.playground_page import (
    HALF,
    LONG,
    PATIENCE_S,
    Held,
    Page,
    both_transports,
)
from tests.e2e.scripted import scripted_api
from tests.e2e.wire import cuttable
from tests.needs import needs
from tests.served import Served


@both_transports
def test_ctrl_enter_sends_and_the_answer_is_seen_as_it_grows(
    page: Page, held: Held, transport: str
) -> None:
    page.open(held.url, transport)
    page.send(LONG)
    page.until_half()
    assert page.find("#stop").is_displayed()
    held.let_go(page)
    page.until_ended()
    assert page.answers == [LONG]
    assert page.texts(".turn [data-part=prompt]") == [LONG]
    assert page.find("#prompt").get_attribute("value") == ""
    assert page.texts("#live")[0].startswith("Answer complete.")


@both_transports
def test_a_conversation_goes_on_in_its_session(page: Page, server: Served, transport: str) -> None:
    page.open(server.url, transport)
    session = page.session
    page.send("first")
    page.until_ended(1)
    page.send("second")
    page.until_ended(2)
    assert page.answers == ["Echo: first", "Echo after 2 messages: second"]
    assert requests.get(f"{server.api}/sessions/{session}").json()["messages_count"] == 4


@both_transports
def test_stop_ends_the_request_and_keeps_what_came(page: Page, held: Held, transport: str) -> None:
    page.open(held.url, transport)
    page.send(LONG)
    page.until_half()
    page.find("#stop").click()
    page.until_ended()
    assert (page.statuses, page.answers) == (["cancelled"], [HALF])
    known = requests.get(f"{held.api}/requests?limit=1").json()["data"][0]
    assert (known["status"], known["result"]) == ("cancelled", HALF)
    page.until(lambda: not page.find("#stop").is_displayed())


def test_what_waits_says_how_many_are_ahead_and_stop_ends_all(page: Page, held: Held) -> None:
    page.open(held.url)
    for turn in range(4):
        page.send(LONG)
        page.until(lambda count=turn + 1: len(page.statuses) == count)
    page.until(lambda: page.texts(".turn [data-part=figures]")[-1] == "3 requests ahead")
    page.find("#stop").click()
    page.until_ended(4)
    assert page.statuses == ["cancelled"] * 4


def test_new_begins_an_empty_conversation_and_back_returns(page: Page, server: Served) -> None:
    page.open(server.url)
    session = page.session
    page.send("before")
    page.until_ended()
    page.find("#new").click()
    assert page.statuses == []
    assert page.session != session
    assert page.find("#empty").is_displayed()
    page.driver.back()
    page.until(lambda: page.answers == ["Echo: before"])
    assert page.session == session


@both_transports
def test_a_reload_in_mid_answer_goes_on_to_the_exact_text(
    page: Page, held: Held, transport: str
) -> None:
    page.open(held.url, transport)
    page.send(LONG)
    page.until_half()
    page.reload()
    page.until_half()
    held.let_go(page)
    page.until_ended()
    assert page.answers == [LONG]
    assert page.texts(".turn [data-part=prompt]") == [LONG]


def test_a_stranger_with_the_address_sees_the_conversation(page: Page, server: Served) -> None:
    page.open(server.url)
    page.send("one")
    page.until_ended(1)
    page.send("two")
    page.until_ended(2)
    page.run("sessionStorage.clear()")
    page.reload()
    page.until_ended(2)
    assert page.texts(".turn [data-part=prompt]") == ["one", "two"]
    assert page.answers == ["Echo: one", "Echo after 2 messages: two"]


@both_transports
def test_a_cut_connection_is_taken_up_where_it_was_cut(
    page: Page, held: Held, transport: str
) -> None:
    page.expect("net::ERR")
    with cuttable(held.port) as wire:
        page.open(f"http://127.0.0.1:{wire.port}", transport)
        page.send(LONG)
        page.until_half()
        wire.cut()
        page.until(lambda: page.statuses == ["reconnecting"])
        held.let_go(page)
        wire.mend()
        page.until_ended()
        assert page.answers == [LONG]


def test_the_list_shows_a_request_and_leads_back_to_it(page: Page, server: Served) -> None:
    page.open(server.url)
    page.send("to be found again")
    page.until_ended()
    page.find("#new").click()
    row = re.compile(r"completed\s+\d\d:\d\d\nto be found again\n[\d.]+ m?s ")
    page.until(lambda: [link for link in page.all("#requests a") if row.match(link.text)])[
        0
    ].click()
    page.until(lambda: page.answers == ["Echo: to be found again"])
    details = page.find(".turn .panel")
    assert details.is_displayed()
    known = requests.get(f"{server.api}/requests?limit=1").json()["data"][0]
    assert known["request_id"] in details.text
    assert known["session_id"] in details.text


def test_requests_of_others_are_listed_by_their_session(page: Page, server: Served) -> None:
    for _ in range(2):
        body = {"prompt": "not for this list", "session_id": "trip-to-lisbon"}
        requests.post(f"{server.api}/infer", json=body, headers={"Prefer": "wait=20"})
    page.open(server.url)
    page.until(lambda: page.find("#history-unknown").is_displayed())
    assert page.texts("#requests .title")[:2] == ["Session trip-to-lisbon"] * 2
    assert "Echo" not in page.find("#requests").text


def test_older_requests_stay_listed_when_a_new_one_comes(page: Page, server: Served) -> None:
    for number in range(15):
        body = {"prompt": f"earlier {number}"}
        requests.post(f"{server.api}/infer", json=body, headers={"Prefer": "wait=20"})
    page.open(server.url)
    page.until(lambda: page.find("#older").is_displayed())
    shown = len(page.all("#requests li"))
    assert shown <= 12
    page.find("#older").click()
    page.until(lambda: len(page.all("#requests li")) > shown)
    listed = page.texts("#requests .title")
    page.send("the newest")
    page.until_ended()
    page.until(lambda: page.texts("#requests .title") == ["the newest", *listed])


def test_the_curl_lines_work_when_pasted_into_a_shell(page: Page, server: Served) -> None:
    needs("curl")
    page.open(server.url)
    page.send('it\'s "so" $HOME `date` \\ !\nnext line')
    page.until_ended()
    page.find(".turn summary").click()
    again, read = page.until(lambda: page.texts(".turn .line code"))
    assert shlex.split(again)[0] == "curl"
    read_back = shell(read)
    assert '"data":"it\'s "' in read_back
    assert '"status":"done"' in read_back
    sent_again = shell(again)
    assert '"data":"$HOME "' in sent_again
    assert '"status":"done"' in sent_again


def test_a_restart_takes_back_what_came_before_it(page: Page) -> None:
    with scripted_api() as (url, _):
        page.open(url)
        page.send("begin again")
        page.until(lambda: page.statuses == ["completed"])
        assert page.answers == ["the second attempt"]
        page.leave()


def test_markup_in_a_prompt_stays_text(page: Page, server: Served) -> None:
    page.open(server.url)
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    page.send(markup)
    page.until_ended()
    assert page.answers == [f"Echo: {markup}"]
    assert page.all(".turn img, .turn b") == []


def test_ten_thousand_tokens_arrive_whole(page: Page, server: Served) -> None:
    lines = "\n".join(" ".join(f"t{row}.{column}" for column in range(20)) for row in range(500))
    page.open(server.url)
    page.send(lines)
    page.until_ended()
    assert page.answers == [f"Echo: {lines}"]


def shell(line: str) -> str:
    """What a shell prints for a line."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return done.stdout
