"""The playground on any screen, by keyboard and by ear, and what it may load."""

import re

import pytest
import requests
from selenium.webdriver.common.keys import Keys

from tests.e2e.playground_page import (
    LONG,
    PHONE,
    Held,
    Page,
)
from tests.served import Served


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
