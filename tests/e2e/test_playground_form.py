"""The playground's form: what it sends, what was refused, and who asks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
from tests.e2e.playground_page import HALF, HELD_MODEL, LONG, Page, both_transports
from tests.e2e.scripted import scripted_api
from tests.served import Served, serve

KEY_FIELD = "#key"


@both_transports
def test_an_error_is_shown_as_the_api_said_it(page: Page, server: Served, transport: str) -> None:
    if transport == "sse":
        page.expect("status of 400")
    page.open(server.url, transport)
    page.find("#toggle-options").click()
    page.find("[name=max_tokens]").send_keys("-1")
    page.find("[name=temperature]").send_keys("warm")
    page.send("   ")
    page.until(lambda: page.find("#alert").is_displayed())
    body = {"prompt": "   ", "max_tokens": -1, "temperature": "warm"}
    error = requests.post(f"{server.api}/infer", json=body).json()["error"]
    told = {field: messages[0] for field, messages in error["details"]["fields"].items()}
    assert told.keys() == body.keys()
    shown = page.find("#alert").text
    assert error["code"] in shown
    assert all(shown.count(f"{field}\n{message}") == 1 for field, message in told.items())
    assert error["message"] not in shown
    assert marked(page) == told
    assert page.find("#prompt").get_attribute("value") == "   "
    page.find("#dismiss").click()
    assert not page.find("#alert").is_displayed()
    assert marked(page) == {}


def marked(page: Page) -> dict[str, str]:
    """The fields that are marked as wrong, each with the sentence that describes it."""
    found: dict[str, str] = page.run(
        "return Object.fromEntries([...document.querySelectorAll('[aria-invalid=true]')].map("
        "(field) => [field.name, field.getAttribute('aria-describedby').split(' ').map("
        "(id) => document.getElementById(id)).find((node) => node?.matches('dd')).textContent]))"
    )
    return found


def focused(page: Page) -> str | None:
    return page.driver.switch_to.active_element.get_attribute("name")


def test_what_was_refused_has_the_focus_and_is_unmarked_when_mended(
    page: Page, server: Served
) -> None:
    page.expect("status of 400")
    page.open(server.url)
    page.find("#send").click()
    page.until(lambda: page.find("#alert").is_displayed())
    assert focused(page) == "prompt"
    page.find("#prompt").send_keys("mended")
    assert marked(page) == {}
    page.find("#toggle-options").click()
    page.find("[name=temperature]").send_keys("9")
    page.find("#toggle-options").click()
    page.find("#send").click()
    page.until(lambda: "temperature" in marked(page))
    assert page.find("[name=temperature]").is_displayed()
    assert focused(page) == "temperature"


def test_options_make_room_once_sent_and_a_line_tells_what_is_set(
    page: Page, server: Served
) -> None:
    page.expect("status of 400")
    page.open(server.url)
    page.find("#toggle-options").click()
    page.find("[name=max_tokens]").send_keys("5")
    page.find("[name=temperature]").send_keys("0.5", Keys.ENTER)
    page.until(lambda: page.find("#alert").is_displayed())
    page.find("#prompt").send_keys("short, please")
    page.find("[name=temperature]").send_keys(Keys.ENTER)
    page.until_ended()
    assert not page.find("#options").is_displayed()
    assert page.find("#toggle-options").get_attribute("aria-expanded") == "false"
    assert page.find("#options-set").text == "Max tokens 5 · Temperature 0.5"
    assert focused(page) == "prompt"


@both_transports
def test_a_limit_is_shown_as_the_api_said_it(
    page: Page, serving: Callable[..., Served], transport: str
) -> None:
    page.expect("429")
    server = serving(ORCHESTRATOR_RATE_LIMIT="20/minute")
    page.open(server.url, transport)
    while requests.get(f"{server.api}/models").status_code != 429:
        pass
    page.send("one too many")
    page.until(lambda: page.find("#alert").is_displayed())
    shown = page.find("#alert").text
    assert "RATE_LIMITED" in shown
    assert "You have used up your 20/minute calls. Call again in " in shown
    assert page.find("#prompt").get_attribute("value") == "one too many"


def test_a_failed_request_shows_its_error_and_what_came(
    page: Page, serving: Callable[..., Served], tmp_path: Path
) -> None:
    server = serving(
        ORCHESTRATOR_BACKEND=HELD_MODEL, HELD_IN=str(tmp_path), ORCHESTRATOR_TIMEOUT_S="0.5"
    )
    page.open(server.url)
    page.send(LONG)
    page.until_ended()
    known = requests.get(f"{server.api}/requests").json()["data"][0]
    assert (page.statuses, page.answers) == (["failed"], [HALF])
    assert page.find(".fault").text == f"{known['error_code']}\n{known['error']}"


def test_an_unreachable_server_is_said_in_words(page: Page, serving: Callable[..., Served]) -> None:
    page.expect("net::ERR")
    server = serving()
    page.open(server.url)
    server.stop()
    page.send("anyone there?")
    page.until(lambda: "can't be reached" in page.find("#alert").text)
    assert page.find("#prompt").get_attribute("value") == "anyone there?"


def test_a_model_can_be_chosen_where_there_are_several(page: Page) -> None:
    with scripted_api() as (url, bodies):
        page.open(url)
        page.until(lambda: page.find("#model").is_displayed())
        Select(page.find("#model")).select_by_value("steady")
        page.send("answer")
        page.until(lambda: page.statuses == ["completed"])
        assert [(body["prompt"], body["model"]) for body in bodies] == [("answer", "steady")]
        page.leave()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A server that asks for a key, and a key that it takes."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    pepper = "0123456789abcdef" * 2
    key, shown = keys.create(pepper, "acme", frozenset({Scope.INFER}), 0.0)
    KeyFile(path).add(key)
    with serve(ORCHESTRATOR_API_KEYS_FILE=str(path), ORCHESTRATOR_KEY_PEPPER=pepper) as served:
        yield served, shown


def give(page: Page, key: str) -> None:
    page.until(lambda: page.find("#key-dialog").get_property("open"))
    page.find(KEY_FIELD).send_keys(key, Keys.ENTER)


@both_transports
def test_it_asks_for_a_key_and_keeps_it_in_memory_alone(
    page: Page, closed: tuple[Served, str], transport: str
) -> None:
    server, key = closed
    page.expected.append("401")
    page.driver.get("about:blank")
    page.driver.get(server.url)
    give(page, "a wrong one")
    give(page, key)
    page.until(lambda: page.find("#session").text)
    page.find(f"[value={transport}]").click()
    page.send("hello there")
    page.until_ended()
    assert page.answers == ["Echo: hello there"]
    kept = page.run("return JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert key not in kept
    assert key not in page.driver.page_source
    page.driver.refresh()
    page.until(lambda: page.find("#key-dialog").get_property("open"))
    page.find("#no-key").click()
