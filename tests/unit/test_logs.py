"""What a record says once the log is guarded, whoever made it."""

import io
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator import config, logs
from orchestrator.events import Failed, Token
from orchestrator.job import GenerateRequest, Job
from orchestrator.session import History, Message

SECRET = "sk-0123456789abcdef"


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes while records are guarded."""
    made, raised = logging.getLogRecordFactory(), threading.excepthook
    logs.guard({SECRET, "abc"})
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)
    logging.setLogRecordFactory(made)
    threading.excepthook = raised


LOG = logging.getLogger("a.library")
KEY = f"ok_0123456789abcdef.{'A' * 43}"
SHOWN, ENCODED = "ok_0123456789abcdef....", "ok_0123456789abcdef%2E..."
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {SECRET}.", "key ...."),
        ("abc is too short to be hidden", "abc is too short to be hidden"),
        ("GET /x?token=1 HTTP/1.1", "GET /x?... HTTP/1.1"),
        ("http://h?key=1", "http://h?..."),
        ("really? yes", "really? yes"),
        ("Authorization: Bearer a.b-c_d", "Authorization: Bearer ..."),
        ("Authorization: Bearer\ta.b-c_d", "Authorization: Bearer ..."),
        ("GET /x)?token=1 and /a%?token=2", "GET /x)?... and /a%?..."),
        (f"X-API-Key: ok_0123456789abcdef.{'A' * 43}", "X-API-Key: ok_0123456789abcdef...."),
        (repr(f"X-API-Key:\n{KEY}"), r"'X-API-Key:\nok_0123456789abcdef....'"),
        (repr(f"X-API-Key:\n{KEY}".encode()), r"b'X-API-Key:\nok_0123456789abcdef....'"),
        (f"GET /a%20{KEY} HTTP/1.1", "GET /a%20ok_0123456789abcdef.... HTTP/1.1"),
        (f"GET /x{KEY};token={KEY.replace('.', '%2E')}", f"GET /x{SHOWN};token={ENCODED}"),
        (repr(f"Bearer\n{TOKEN}"), "'Bearer ...'"),
        (repr(f"\n{TOKEN}".encode()), r"b'\n...'"),
        (f"/%0a{TOKEN}/x{TOKEN};t={TOKEN.replace('.', '%2e')} no", "/%0a.../x...;t=... no"),
        (
            "/Bearer%20%20opaque%2Fone /basic+dTpw /1Bearer%09x",
            "/Bearer ... /basic ... /1Bearer ...",
        ),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln, no", "got ..., no"),
        ("redis://user:pass@host:1/0 and http://x@h", "redis://...@host:1/0 and http://...@h"),
        ("mail a@b.example about http://h/@x", "mail a@b.example about http://h/@x"),
        ("a\r\nb\x1b[0m\u2028\u0085c\td", r"a\r\nb\x1b[0m\u2028\x85c\td"),
        ("Grüße 漢字", "Grüße 漢字"),
    ],
)
def test_a_message_is_one_line_without_secrets(said: io.StringIO, text: str, shown: str) -> None:
    LOG.debug("%s", text)
    LOG.debug(text)
    assert said.getvalue() == f"DEBUG {shown}\n" * 2


@pytest.mark.parametrize(
    "piece",
    ["eyJ", "eyJa.", "eyJaaaaaaaa.", "ok_", KEY[:19], "bearer", "bearer ", "bearer+", "bearer%20"]
    + ["bearer\\n", "%20", "://a", "a?"],
)
@pytest.mark.parametrize("before", ["", "bearer", "eyJ"])
def test_no_line_takes_more_than_its_length_to_clean(before: str, piece: str) -> None:
    """A look that began anew at each piece would take minutes."""
    began = time.process_time()
    logs._without(before + piece * 50_000 + '"', ())
    assert time.process_time() - began < 5


def test_arguments_that_do_not_fit_raise_nowhere(said: io.StringIO) -> None:
    LOG.info("%d", "secret")
    assert "secret" not in said.getvalue()
    assert said.getvalue().count("\n") == 1


def fail(text: str) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError(text) from error


def test_a_traceback_says_where_and_not_what(said: io.StringIO) -> None:
    try:
        fail("a prompt")
    except ValueError:
        LOG.exception("it failed")
    text = said.getvalue()
    assert "a prompt" not in text.replace('fail("a prompt")', "")
    assert "in fail" in text and "KeyError\n" in text and text.endswith("ValueError\n")


def test_an_error_of_the_system_says_which(said: io.StringIO) -> None:
    try:
        open("/no/such/canary").close()  # noqa: PTH123, SIM115
    except OSError:
        LOG.exception("it failed")
    assert said.getvalue().endswith("FileNotFoundError: No such file or directory\n")


def test_an_error_whose_text_fails_is_logged_all_the_same() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    error = Odd()
    assert logs.trace((Odd, error, None), messages=True).endswith("Odd: ?")


def test_what_ends_a_thread_is_logged_without_its_words(said: io.StringIO) -> None:
    thread = threading.Thread(target=fail, args=("a prompt",), name="sums")
    thread.start()
    thread.join()
    assert "the thread sums broke" in said.getvalue()
    assert "a prompt" not in said.getvalue()


def test_no_handler_can_say_more(said: io.StringIO) -> None:
    """One that formats by itself has nothing else to look at."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    LOG.addHandler(handler)
    try:
        fail(SECRET)
    except ValueError:
        LOG.exception("key %s", SECRET)
    LOG.removeHandler(handler)
    assert SECRET not in repr(vars(records[0]))


def test_nothing_says_prompts_when_it_is_shown() -> None:
    request = GenerateRequest("PROMPT", "s", "m", {"a": "PROMPT"}, 1, 1, system="PROMPT")
    job = Job("id", request, 0.0, result="PROMPT", error="PROMPT")
    messages = History("PROMPT", (Message("user", "PROMPT"),))
    for value in (request, job, messages, Token(0, "PROMPT"), Failed("X", "PROMPT")):
        assert "PROMPT" not in repr(value)
        assert "PROMPT" not in str([value])


def test_settings_show_no_secret_and_know_them_all() -> None:
    settings = config.load(
        {
            "OPENAI_API_KEY": SECRET,
            "ANTHROPIC_API_KEY": f"{SECRET}2",
            "REDIS_URL": f"redis://:{SECRET}3%40@localhost:1/0",
        }
    )
    assert SECRET not in repr(settings)
    assert {SECRET, f"{SECRET}2", f"{SECRET}3%40", f"{SECRET}3@"} <= settings.secrets
