"""The examples of the specification, each run as its user would run it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.e2e.client import ended, get, submit
from tests.needs import needs
from tests.served import Served, serve

CLIENTS = Path(__file__).parent / "clients"
PROMPT = "Explain quantum computing 😀"
ANSWER = f"Echo: {PROMPT}"


@pytest.fixture(scope="module")
def slow() -> Iterator[Served]:
    """Ten words a second, so that a client has to wait."""
    with serve(ORCHESTRATOR_ECHO_DELAY_S="0.1") as served:
        yield served


def run(*command: str | Path) -> str:
    """Run a command to its good end and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("client", ["poll.py", "poll.mjs"])
def test_a_script_polls_on_200_and_202(slow: Served, client: str) -> None:
    interpreter = sys.executable if client.endswith(".py") else needs("node")
    *codes, answer = run(interpreter, CLIENTS / client, slow.url, PROMPT).splitlines()
    assert codes[0] == "202"
    assert codes == ["202"] * (len(codes) - 1) + ["200"]
    assert answer == ANSWER


def test_curl_and_jq_take_two_steps(slow: Served) -> None:
    needs("curl")
    needs("jq")
    answer = json.loads(run("bash", "-euo", "pipefail", CLIENTS / "two_steps.sh", slow.url))
    assert answer["status"] == "completed"
    assert answer["result"] == "Echo: Explain quantum computing"
    assert answer["session_id"] == "curl-session-123"


def test_curl_without_buffering_shows_the_stream_as_it_comes(slow: Served) -> None:
    request_id = submit(slow, "one two three four five six seven eight")
    with subprocess.Popen(
        [needs("curl"), "-sN", f"{slow.api}/stream/{request_id}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as curl:
        assert curl.stdout
        for line in curl.stdout:
            if line == "event: token\n":
                break
        assert get(slow, f"/result/{request_id}").status_code == 202, "it came before the end"
        rest = curl.stdout.read()
    assert curl.returncode == 0
    assert rest.endswith("\n\n")
    assert 'event: complete\ndata: {"status":"done"' in rest


def test_curl_sees_the_headers_and_the_envelope(server: Served) -> None:
    shown = run(needs("curl"), "-si", f"{server.api}/infer", "-d", '{"prompt": "x"}')
    head, _, body = shown.partition("\n\n")
    assert "HTTP/1.1 415" in head
    assert json.loads(body)["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"


# In a page


def in_page(browser: Chrome, server: Served, script: str, *arguments: Any) -> Any:
    """Run a script in a page that the server itself serves."""
    browser.get(f"{server.url}/")
    browser.set_script_timeout(30)
    text = (CLIENTS / script).read_text(encoding="utf-8")
    # A function around it gives the script its arguments, and lets it wait.
    return browser.execute_async_script(
        f"(async function () {{ {text} }}).apply(null, arguments)", *arguments
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_page_submits_over_a_websocket(browser: Chrome, slow: Served, stream: bool) -> None:
    outcome = in_page(browser, slow, "websocket.js", PROMPT, stream)
    ack, *tokens, result = outcome["frames"]
    request_id = ack["request_id"]
    assert ack == {"type": "ack", "request_id": request_id, "status": "processing"}
    assert result == {"type": "result", "request_id": request_id, "result": ANSWER}
    assert "".join(token["data"] for token in tokens) == (ANSWER if stream else "")
    assert [token["chunk"] for token in tokens] == list(range(len(tokens)))
    assert (outcome["code"], outcome["clean"]) == (1005, True)


def test_a_page_submits_many_prompts_over_one_websocket(browser: Chrome, server: Served) -> None:
    prompts = [f"prompt {number}" for number in range(32)]
    outcome = in_page(browser, server, "many_requests.js", prompts)
    assert outcome["results"] == [f"Echo: {prompt}" for prompt in prompts]


def test_a_page_reads_a_stream_with_an_event_source(browser: Chrome, slow: Served) -> None:
    outcome = in_page(browser, slow, "event_source.js", PROMPT)
    (start, *tokens, complete) = outcome["events"]
    assert start == ["start", "0", {"request_id": outcome["request_id"]}]
    assert "".join(data["data"] for _, _, data in tokens) == ANSWER
    assert complete[0] == "complete"
    assert complete[2]["status"] == "done"
    ids = [int(last_id) for _, last_id, _ in outcome["events"]]
    assert ids == list(range(len(ids)))


def test_an_event_source_left_open_comes_back_once_and_stops(
    browser: Chrome, server: Served
) -> None:
    request_id = submit(server, "one two")
    ended(server, request_id)
    seen = in_page(browser, server, "event_source_left_open.js", request_id)
    assert seen == [
        ["start", "0"],
        ["token", "1"],
        ["token", "2"],
        ["token", "3"],
        ["complete", "4"],
    ]
