"""When two requests are the same question."""

from typing import Any

import pytest

from orchestrator.backends.base import Message
from orchestrator.job import GenerateRequest, OnBusy, Priority, Reuse
from orchestrator.routing.key import NEUTRAL, key_of
from tests.fakes.asking import a_request

HELLO = [Message("user", "hello")]
OTHER: dict[str, Any] = {
    "prompt": "another",
    "session_id": "another",
    "model": "another",
    "metadata": {"another": 1},
    "priority": Priority.HIGH,
    "stream": True,
    "system": "another",
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "stop": ("another",),
    "seed": 7,
    "timeout_s": 7.0,
    "queue_timeout_s": 7.0,
    "tenant": "another",
    "on_busy": OnBusy.PARALLEL,
    "reuse": Reuse.REFRESH,
}
"""For each field of a request a value that is not the usual one."""


def test_every_field_is_known_here() -> None:
    names = set(GenerateRequest._fields)
    assert names == set(OTHER), "decide whether a new field changes answers: see NEUTRAL in key.py"
    assert names >= NEUTRAL


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_field_is_in_the_key_unless_it_changes_no_answer(name: str) -> None:
    usual = key_of("route", a_request(), HELLO)
    changed = key_of("route", a_request(**{"prompt": "hello", name: OTHER[name]}), HELLO)
    assert (changed == usual) == (name in NEUTRAL)


def test_the_whole_conversation_is_in_the_key() -> None:
    conversations = [
        HELLO,
        [Message("system", "hello"), *HELLO],
        [Message("user", "hello"), Message("assistant", "hello"), *HELLO],
        [Message("user", "hel"), Message("user", "lo")],
        [Message("system", "hello")],
        [Message("user", "hello ")],
        [],
    ]
    assert len({key_of("route", a_request(), said) for said in conversations}) == len(conversations)


def test_each_route_has_keys_of_its_own() -> None:
    assert key_of("one", a_request(), HELLO) != key_of("other", a_request(), HELLO)


def test_a_text_with_half_a_character_has_a_key() -> None:
    assert key_of("route", a_request(), [Message("assistant", "\ud83d")])
