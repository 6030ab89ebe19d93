"""What reaches a log: one line a record, no secret, and nothing that a client or a model said.

It works where records are made, and so for every library, logger, handler and level alike.
"""

import logging
import os
import re
import threading
import traceback
from collections.abc import Collection
from types import TracebackType
from typing import Any

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

CHAIN_AT_MOST = 8
"""Exceptions of one chain that are shown."""
LEAST_SECRET = 6
"""In characters: a shorter secret would be found in ordinary words."""
_HIDDEN = "..."
# What follows a question mark in an address may be a token, whatever it is called.
_QUERY = re.compile(r"(?<=\S)\?[^\s\"'<>]+")
# What callers bring is known to nobody before they come: it is told by its looks. Of a key its id
# is shown, of an address where it leads. No word need begin there: a letter is before it where a
# line break was escaped (\n), a digit where an address was (%20). What begins with eyJ is taken
# whole, dots or none, for else a long run of such beginnings would be read over and over.
_CREDENTIALS = (
    (re.compile(r"([Bb](?i:earer|asic))(?:[\s+]|%20|%09|\\[nrt])+[\w.~+/=:%-]+"), rf"\1 {_HIDDEN}"),
    (re.compile(r"(ok_[0-9a-z]{16}(?:\.|%2[Ee]))[\w%-]+"), rf"\1{_HIDDEN}"),
    (re.compile(r"eyJ[\w-]{8,}(?:(?:\.|%2[Ee])[\w-]*)*"), _HIDDEN),
    (re.compile(r"(?<=://)[^\s/?#@\"'<>]+@"), f"{_HIDDEN}@"),
)


def guard(secrets: Collection[str], messages: bool = False) -> None:
    """Make every log record of this process safe to keep. To be called once settings are known.

    ``secrets`` are never shown. ``messages`` lets tracebacks say what their exceptions say, which
    may quote prompts and answers.
    """
    hidden = sorted(filter(_is_long_enough, set(secrets)), key=len, reverse=True)

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = logging.LogRecord(*arguments, **options)
        _clean(record, hidden, messages)
        return record

    logging.setLogRecordFactory(make)
    threading.excepthook = _log_of_thread


def line(text: str) -> str:
    """Return ``text`` as one line: what a terminal or a reader of logs would obey is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def trace(info: ExcInfo, messages: bool = False) -> str:
    """Return a traceback that says where and of what kind, and what only if ``messages``."""
    parts, error = [], info[1]
    for _ in range(CHAIN_AT_MOST):
        stack = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__)).format()
        parts.append(
            "".join(["Traceback (most recent call last):\n", *stack, _end(error, messages)])
        )
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            break
        error = before
    return "\n\n".join(reversed(parts))


def _end(error: BaseException, messages: bool) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    if messages:
        return f"{name}: {line(_text(error))}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f"{name}: {os.strerror(error.errno)}"
    return name


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return "?"


def _clean(record: logging.LogRecord, hidden: Collection[str], messages: bool) -> None:
    """Make of a record what it is to say, so that no handler can say more."""
    try:
        text = record.getMessage()
    except Exception:
        # As the standard library has it, this is no fault of who logs; but here are no handlers.
        text = "a record whose arguments don't fit it"
    record.msg, record.args = line(_without(text, hidden)), ()
    info = record.exc_info
    if info:
        if info[1] is not None:
            lines = _without(trace(info, messages), hidden).split("\n")
            record.exc_text = "\n".join(map(line, lines))
        record.exc_info = None


def _without(text: str, hidden: Collection[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, _HIDDEN)
    if "?" in text:
        text = _QUERY.sub(f"?{_HIDDEN}", text)
    for form, shown in _CREDENTIALS:
        text = form.sub(shown, text)
    return text


def _is_long_enough(secret: str) -> bool:
    return len(secret) >= LEAST_SECRET


def _log_of_thread(raised: threading.ExceptHookArgs) -> None:
    if raised.exc_value is None or issubclass(raised.exc_type, SystemExit):
        return
    logger = logging.getLogger("orchestrator")
    name = raised.thread.name if raised.thread else "?"
    logger.error("the thread %s broke", name, exc_info=raised.exc_value)
