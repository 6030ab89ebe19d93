"""Fixtures of the tests that look at pages."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.e2e.playground_page import DESKTOP, HELD_MODEL, Held, Page
from tests.needs import needs
from tests.served import serve

BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium with nothing kept from before."""
    options = ChromeOptions()
    options.binary_location = needs("chromium")
    for argument in BROWSER:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(needs("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    """The playground's page, whose console is to hold nothing that no test expects."""
    page = Page(browser)
    page.resize(*DESKTOP)
    page.prefer()
    browser.get_log("browser")
    yield page
    assert page.complaints() == []


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A server whose answers stop half way until they are let go."""
    folder = tmp_path_factory.mktemp("held")
    with serve(ORCHESTRATOR_BACKEND=HELD_MODEL, HELD_IN=str(folder)) as served:
        yield Held(served.url, served.api, served.port, folder)
