"""The playground in a real browser, against the service as it is deployed."""

import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import flask
import pytest
import requests
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from werkzeug.serving import make_server

from orchestrator.auth import keys
from orchestrator.auth.key_file import KeyFile
from orchestrator.caller import Scope
from orchestrator.web import playground
from tests.needs import needs
from tests.served import Served, serve

PATIENCE_S = 30
DESKTOP = (1280, 900)
PHONE = (390, 844)
BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
HELD_MODEL = "tests.fakes.held:answer"
LONG = " ".join(f"word-{number}" for number in range(40))
HALF = " ".join(f"word-{number}" for number in range(20))
both_transports = pytest.mark.parametrize("transport", ["sse", "websocket"])


class Page:
    """The playground as its user has it: what can be seen, typed and clicked."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.expected: list[str] = []

    def open(self, url: str, transport: str = "sse") -> None:
        """Load the page with an empty conversation."""
        self.driver.get("about:blank")
        self.driver.get(url)
        self.until(lambda: self.find("#session").text)
        self.find(f"[value={transport}]").click()

    def reload(self) -> None:
        self.driver.refresh()
        self.until(lambda: self.find("#session").text)

    def resize(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def prefer(self, **features: str) -> None:
        """Let the browser ask for media features, such as prefers_color_scheme="dark"."""
        asked = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": asked})

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE_S, 0.03).until(lambda _: condition())

    def send(self, prompt: str) -> None:
        """Write a prompt and send it by keyboard. A long one is pasted."""
        if len(prompt) > 100:
            self.run("document.getElementById('prompt').value = arguments[0]", prompt)
            prompt = ""
        self.find("#prompt").send_keys(prompt, Keys.CONTROL, Keys.ENTER)

    @property
    def session(self) -> str:
        return self.find("#session").text

    @property
    def statuses(self) -> list[str]:
        return self.texts(".turn [data-part=chip]")

    @property
    def answers(self) -> list[str]:
        return self.texts(".turn [data-part=answer]")

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def until_ended(self, turns: int = 1) -> None:
        """Wait until so many turns are there, and each has ended and shows its times."""
        ended = {"completed", "failed", "cancelled"}
        figures = ".turn [data-part=figures]"
        self.until(lambda: len(self.statuses) == turns and ended.issuperset(self.statuses))
        self.until(lambda: all(re.search(r"\d m?s", text) for text in self.texts(figures)))

    def until_half(self) -> None:
        """Wait until a held model has said half of LONG."""
        self.until(lambda: self.answers and self.answers[-1] == HALF)
        assert self.statuses[-1] == "processing"

    def leave(self) -> None:
        """Go elsewhere, so that no call of the page meets a server that is gone."""
        self.driver.get("about:blank")

    def expect(self, sentence: str) -> None:
        """Say what the browser's console is going to hold."""
        self.expected.append(sentence)

    def complaints(self) -> list[str]:
        """What the browser's console has that no test expects, policy violations among it."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return [text for text in said if not any(known in text for known in self.expected)]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = needs("chromium")
    for argument in BROWSER:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(needs("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Chrome) -> Iterator[Page]:
    page = Page(driver)
    page.resize(*DESKTOP)
    page.prefer()
    driver.get_log("browser")
    yield page
    assert page.complaints() == []


class Held(NamedTuple):
    """A server whose model holds in the middle of each answer."""

    url: str
    api: str
    port: int
    folder: Path

    def let_go(self, page: Page) -> None:
        """Let the answers of the page's conversation go on to their end."""
        (self.folder / page.session).touch()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("held")
    with serve(ORCHESTRATOR_BACKEND=HELD_MODEL, HELD_IN=str(folder)) as served:
        yield Held(served.url, served.api, served.port, folder)


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


def test_a_model_can_be_chosen_where_there_are_several(page: Page) -> None:
    with scripted_api() as (url, bodies):
        page.open(url)
        page.until(lambda: page.find("#model").is_displayed())
        Select(page.find("#model")).select_by_value("steady")
        page.send("answer")
        page.until(lambda: page.statuses == ["completed"])
        assert [(body["prompt"], body["model"]) for body in bodies] == [("answer", "steady")]
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


def test_echo_is_introduced_as_what_it_is(page: Page, server: Served) -> None:
    page.open(server.url)
    page.until(lambda: page.find("#attach").is_displayed())
    assert "is not a model" in page.find("#attach").text
    assert "ORCHESTRATOR_BACKEND=openai" in page.find("#attach").text


def test_every_control_has_a_name_for_a_screen_reader(page: Page, server: Served) -> None:
    page.open(server.url)
    page.send("name them")
    page.until_ended()
    page.find(".turn summary").click()
    page.find("#toggle-options").click()
    page.until(lambda: page.all(".turn .line"))
    controls = page.all("a, button, input, select, textarea, summary, [tabindex]")
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 15
    assert [c.get_attribute("outerHTML") for c in shown if not c.accessible_name.strip()] == []


def test_the_keyboard_reaches_the_prompt_from_the_top(page: Page, server: Served) -> None:
    page.open(server.url)
    page.run("document.activeElement.blur(); document.getElementById('skip').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.driver.switch_to.active_element.get_attribute("id") == "prompt"


def test_no_width_scrolls_sideways(page: Page, held: Held) -> None:
    page.open(held.url)
    held.let_go(page)
    page.send(f"unbroken-{'x' * 300} end")
    page.until_ended()
    page.find(".turn summary").click()
    page.until(lambda: page.all(".turn .line"))
    (held.folder / page.session).unlink()
    page.send(LONG)
    page.until_half()
    kept = (
        "return [...document.querySelectorAll('pre')].map((it) => getComputedStyle(it).whiteSpace)"
    )
    assert set(page.run(kept)) == {"pre"}
    for width in (320, 390, 600, 768, 1024, 1280, 1920):
        page.resize(width, 800)
        assert page.run("return document.documentElement.scrollWidth - innerWidth") <= 0, width
    page.find("#stop").click()
    page.until_ended(2)


def test_on_a_phone_a_line_stays_whole_and_the_session_can_be_told(
    page: Page, server: Served
) -> None:
    page.resize(320, 640)
    page.open(server.url)
    shown = "const at = document.getElementById('session').getBoundingClientRect(); return at.width"
    assert page.run(shown) >= 60
    page.resize(*PHONE)
    page.send("a prompt")
    page.until_ended()
    chip, details = (page.find(f".turn {part}").location["y"] for part in (".chip", ".more"))
    assert abs(chip - details) < 6


def test_on_a_phone_stop_and_send_share_a_line(page: Page, held: Held) -> None:
    page.resize(*PHONE)
    page.open(held.url)
    page.send(LONG)
    page.until_half()
    stop, send = (page.find(button).location["y"] for button in ("#stop", "#send"))
    assert stop == send
    page.find("#stop").click()
    page.until_ended()


def test_on_a_phone_the_list_is_a_drawer(page: Page, server: Served) -> None:
    page.resize(*PHONE)
    page.open(server.url)
    assert not page.find("#side").is_displayed()
    page.find("#open-side").click()
    page.until(lambda: page.find("#side h2").is_displayed())
    assert page.find("#open-side").get_attribute("aria-expanded") == "true"
    assert page.driver.switch_to.active_element.get_attribute("id") == "close-side"
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.until(lambda: not page.find("#side").is_displayed())
    assert page.driver.switch_to.active_element.get_attribute("id") == "open-side"


def test_dark_mode_and_reduced_motion_are_respected(page: Page, server: Served) -> None:
    page.open(server.url)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(paper)
    page.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert page.run(paper) != light
    page.send("still")
    page.until_ended()
    moving = "return document.getAnimations().length"
    assert page.run(moving) == 0


def test_the_page_allows_its_own_scripts_and_nothing_else(page: Page, server: Served) -> None:
    page.expect("Content Security Policy")
    page.open(server.url)
    page.run(
        "const script = document.createElement('script');"
        "script.textContent = 'window.hasRun = true';"
        "document.head.append(script)"
    )
    assert page.run("return window.hasRun") is None
    policy = requests.get(server.url).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/playground.css"])
def test_files_are_kept_and_asked_about_each_time(server: Served, path: str) -> None:
    first = requests.get(server.url + path)
    assert first.headers["Cache-Control"] == "no-cache"
    again = requests.get(server.url + path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_needs_nothing_from_elsewhere(server: Served) -> None:
    page = requests.get(server.url).text
    assert re.findall(r'(?:src|href)="(?:https?:)?//', page) == []
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page) == []


def shell(line: str) -> str:
    """What a shell prints for a line."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return done.stdout


class Wire:
    """A way to the server that can be cut: what runs over it breaks, and nobody gets through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = True
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._let_in, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            hang_up(end)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        hang_up(self._door)
        self._door.close()
        self.cut()
        for end in self._ends:
            end.close()

    def _let_in(self) -> None:
        with suppress(OSError):
            while True:
                near = self._door.accept()[0]
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += (near, far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        hang_up(source)
        hang_up(sink)


def hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cuttable(target: int) -> Iterator[Wire]:
    wire = Wire(target)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def scripted_api() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The page over an API of two models, whose one answer is begun twice.

    Yields its address, and what it was sent.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.register_blueprint(playground.bp)
    bodies: list[dict[str, Any]] = []
    known = {"request_id": "a", "session_id": "s", "status": "completed", "result": None}
    times = {"created_at": "2026-01-01T00:00:00.000Z", "completed_at": "2026-01-01T00:00:01.000Z"}
    stream = (
        'event: start\ndata: {"request_id": "a"}\n\n'
        'event: token\ndata: {"chunk": 0, "data": "the first"}\n\n'
        'event: restart\ndata: {"attempt": 2}\n\n'
        'event: token\ndata: {"chunk": 0, "data": "the second "}\n\n'
        'event: token\ndata: {"chunk": 1, "data": "attempt"}\n\n'
        'event: complete\ndata: {"status": "done"}\n\n'
    )
    answers: dict[str, Any] = {
        "models": {"data": [{"id": "flaky", "backend": "a"}, {"id": "steady", "backend": "b"}]},
        "requests": {"data": [], "next_cursor": None},
        "infer": known,
        "status/a": known | times,
        "stream/a": flask.Response(stream, mimetype="text/event-stream"),
    }

    @app.route("/api/v1/<path:name>", methods=["GET", "POST"])
    def answer(name: str) -> Any:
        if flask.request.method == "POST":
            bodies.append(flask.request.get_json())
        return answers[name]

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


KEY_FIELD = "#key"


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
