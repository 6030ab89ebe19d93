"""The playground as its user has it, and what the tests of it share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 30
DESKTOP = (1280, 900)
PHONE = (390, 844)
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


class Held(NamedTuple):
    """A server whose model holds in the middle of each answer."""

    url: str
    api: str
    port: int
    folder: Path

    def let_go(self, page: Page) -> None:
        """Let the answers of the page's conversation go on to their end."""
        (self.folder / page.session).touch()
