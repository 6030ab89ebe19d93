"""The page at /docs: whole, readable without scripts, and true when its lines are pasted."""

import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
import requests
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.described import Described
from tests.needs import needs
from tests.served import Served

DESKTOP = (1440, 900)
PHONE = (360, 740)
NEEDS_TO_BE_READ = 4.5
"""The contrast that WCAG 2 asks of text (level AA)."""

# The lowest contrast of any text with what is behind it, and the text that has it.
LOWEST_CONTRAST = """
const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (colour) => {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
document.querySelectorAll("details").forEach((details) => (details.open = true));
let lowest = [21, ""];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) continue;
  const pair = [rgba(getComputedStyle(element).color), behind(element)].map(light);
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < lowest[0]) lowest = [ratio, element.outerHTML];
}
return lowest;
"""


class Outline(HTMLParser):
    """What of a page can be checked without seeing it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attrs}
        self.attributes |= set(given)
        if "id" in given:
            self.ids.append(given["id"])
        if tag in ("a", "link", "img", "script"):
            self.links.append(given.get("href") or given.get("src") or "")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def answer(server: Served) -> requests.Response:
    found = requests.get(f"{server.url}/docs", timeout=20)
    assert found.status_code == 200
    return found


@pytest.fixture(scope="module")
def outline(answer: requests.Response) -> Outline:
    return Outline(answer.text)


@pytest.fixture(scope="module")
def described(server: Served) -> Described:
    return Described(requests.get(f"{server.api}/openapi.json", timeout=20).json())


def seen(browser: Chrome, size: tuple[int, int], scheme: str, url: str) -> None:
    """Open a page on a screen of this size, in a light or a dark scheme."""
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(url)


def test_every_operation_is_told(answer: requests.Response, described: Described) -> None:
    outline = Outline(answer.text)
    text = unescape(re.sub(r"<[^>]*>", "", answer.text))
    for path, _, operation in described.operations():
        assert operation["operationId"] in outline.ids
        assert operation["summary"] in text
        assert path in text
    for name in described.document["components"]["schemas"]:
        assert f"schema-{name}" in outline.ids


def test_every_link_leads_somewhere(server: Served, outline: Outline) -> None:
    assert len(set(outline.ids)) == len(outline.ids)
    inside = {link for link in outline.links if link.startswith("#")}
    assert {link[1:] for link in inside} <= set(outline.ids)
    for link in set(outline.links) - inside:
        assert not re.match(r"\w+:|//", link), link
        found = requests.get(f"{server.url}{link}", timeout=20)
        assert found.status_code == 200, link


def test_the_headings_make_an_outline(outline: Outline) -> None:
    assert outline.headings.count(1) == 1
    assert outline.headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(outline.headings))


def test_the_page_needs_no_script_and_allows_none(
    answer: requests.Response, outline: Outline
) -> None:
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'; ")
    assert "script-src" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not outline.tags & {"script", "style", "iframe"}
    assert not {name for name in outline.attributes if name == "style" or name.startswith("on")}


def test_a_browser_that_has_the_page_is_told_so(server: Served, answer: requests.Response) -> None:
    known = {"If-None-Match": answer.headers["ETag"]}
    again = requests.get(f"{server.url}/docs", headers=known, timeout=20)
    assert (again.status_code, again.content) == (304, b"")


def test_a_host_that_the_client_makes_up_stays_text(server: Served) -> None:
    made_up = {"Host": "x<script>.example"}
    found = requests.get(f"{server.url}/docs", headers=made_up, timeout=20)
    assert "<script" not in found.text


def test_the_lines_work_when_pasted(server: Served, answer: requests.Response) -> None:
    shell = needs("bash")
    needs("curl")
    needs("jq")
    blocks = re.findall(r'<pre class="code"><code>(.*?)</code>', answer.text, re.DOTALL)
    lines = [html for html in blocks if re.match(r"(ID=\$\()?curl ", html)]
    assert len(lines) > 15
    page = unescape("\n".join(lines))
    assert "<" not in page
    checked = 'set -euo pipefail\ncurl() { command curl -fsS --max-time 20 "$@"; }\n'
    done = subprocess.run(
        [shell, "-c", checked + page], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"status":"completed"' in done.stdout
    assert "event: complete" in done.stdout


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_can_be_read(
    browser: Chrome, server: Served, size: tuple[int, int], scheme: str
) -> None:
    seen(browser, size, scheme, f"{server.url}/docs")
    ratio, element = browser.execute_script(LOWEST_CONTRAST)
    assert ratio >= NEEDS_TO_BE_READ, element
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    assert browser.get_log("browser") == []


def test_the_contents_are_beside_the_text_or_above_it(browser: Chrome, server: Served) -> None:
    for size, selector in ((DESKTOP, ".wide-nav"), (PHONE, ".narrow-nav")):
        seen(browser, size, "light", f"{server.url}/docs")
        shown: list[Any] = browser.execute_script(
            "return ['.wide-nav', '.narrow-nav'].filter("
            "(one) => document.querySelector(one).checkVisibility())"
        )
        assert shown == [selector]


def test_a_link_to_an_operation_unfolds_it(browser: Chrome, server: Served) -> None:
    for size in (DESKTOP, PHONE):
        browser.get("about:blank")
        seen(browser, size, "light", f"{server.url}/docs#getResult")
        text, line, bar = browser.execute_script(
            "const at = (one) => document.querySelector(one).getBoundingClientRect();"
            "const line = 'details:has(> #getResult) > summary';"
            "return [at('#getResult').top, at(line).top, innerWidth < 900 ? at('.bar').bottom : 0]"
        )
        assert bar - 1 <= line < text < 200
        assert "200 once it is there" in browser.find_element(By.ID, "getResult").text


def test_the_page_is_an_index_until_something_is_unfolded(browser: Chrome, server: Served) -> None:
    browser.get("about:blank")
    seen(browser, DESKTOP, "light", f"{server.url}/docs")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    assert height < 10 * DESKTOP[1]


def test_the_contents_mark_where_the_reader_is(browser: Chrome, server: Served) -> None:
    browser.get("about:blank")
    seen(browser, DESKTOP, "light", f"{server.url}/docs")
    marked = (
        "return [...document.querySelectorAll('.wide-nav a:target-current')]"
        ".map((link) => link.getAttribute('href'))"
    )
    for place in ("#top", "#watch", "#getResult", "#errors"):
        browser.find_element(By.CSS_SELECTOR, f".wide-nav [href='{place}']").click()
        wait = WebDriverWait(browser, 20, 0.05)
        wait.until(lambda _, here=place: browser.execute_script(marked) == [here])


def test_no_line_of_code_is_broken_on_a_phone(browser: Chrome, server: Served) -> None:
    seen(browser, PHONE, "light", f"{server.url}/docs")
    broken = browser.execute_script(
        "document.querySelectorAll('details').forEach((one) => (one.open = true));"
        "const look = (code) => getComputedStyle(code);"
        "const isShort = (code) => code.textContent.length < 20;"
        "const isTall = (code) => code.offsetHeight > 2 * parseFloat(look(code).lineHeight);"
        "const isBroken = (pre) => look(pre).whiteSpace !== 'pre';"
        "const all = (these) => [...document.querySelectorAll(these)];"
        "return all('p code, td code').filter(isShort).filter(isTall)"
        ".concat(all('pre').filter(isBroken)).map((code) => code.outerHTML)"
    )
    assert broken == []
