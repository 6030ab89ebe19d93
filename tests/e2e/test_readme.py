"""What the README and the docs tell people to type does what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config import table
from tests.commands import script
from tests.needs import needs
from tests.served import ROOT, Served, environment

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTING = "ORCHESTRATOR_"


def blocks(language: str, having: str = "") -> list[pytest.ParameterSet]:
    """Return the fenced blocks of a language in all pages, those that have a text."""
    found = []
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S):
            if having in block:
                found.append(pytest.param(block, id=f"{page.stem}-{len(found)}"))
    return found


def run(command: list[str], block: str, server: Served) -> str:
    """Run a block as a reader would, against ``server`` instead of port 8080."""
    result = subprocess.run(
        command,
        input=block.replace("http://localhost:8080", server.url),
        cwd=ROOT,
        env=environment(B=server.api),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("block", blocks("sh", having="curl"))
def test_every_shell_block_works_when_pasted(block: str, server: Served) -> None:
    needs("curl")
    needs("jq")
    given_id = (
        "ID=$(curl -s $B/infer -H 'Content-Type: application/json' -d '{\"prompt\": \"Hello\"}' "
        '| jq -r .request_id)\ncurl -s "$B/result/$ID?wait=30" >/dev/null\n'
    )
    out = run(["bash", "-euo", "pipefail"], given_id + block, server)
    assert '"error":{' not in out
    if "-X DELETE" not in block and "/cancel/" not in block:
        assert "Echo" in out or "request_id" in out or "events" in out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_its_shell_lines_take_for_granted(page: Path) -> None:
    text = page.read_text()
    if "$B/" in text:
        fence = text[: text.index("$B/")].rpartition("```")[2]
        assert "B=http://localhost:8080/api/v1\n" in fence
    if "$ID" in text:
        assert re.search(r"^ID=|`\$ID` is", text[: text.index("$ID") + 8], re.M)


def test_every_command_of_the_environment_that_is_named_is_in_it() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"\.venv/bin/([\w-]+)", page.read_text())
    }
    assert {"gunicorn", "flask", "orchestrator"} <= named
    for name in sorted(named):
        script(name)


@pytest.mark.parametrize("block", blocks("python", having="http"))
def test_every_python_block_works_when_pasted(block: str, server: Served) -> None:
    assert run([sys.executable, "-"], block, server).strip() == "Echo: Hello"


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)\b", PAGES[0].read_text()))
    for target in sorted(named):
        planned = subprocess.run(
            ["make", "-n", target], cwd=ROOT, env=environment(), capture_output=True, check=False
        )
        assert planned.returncode == 0, (target, planned.stderr)


def test_the_settings_page_is_what_the_settings_are() -> None:
    assert (ROOT / "docs" / "settings.md").read_text().endswith("\n\n" + table())


def test_every_setting_that_a_page_names_exists() -> None:
    known = set(re.findall(rf"`({SETTING}\w+)`", table()))
    for page in PAGES:
        named = set(re.findall(rf"\b({SETTING}\w+)", page.read_text()))
        assert named <= known, page


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_readme_is_short() -> None:
    assert len(Path(PAGES[0]).read_text().splitlines()) <= 120
