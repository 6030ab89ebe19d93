"""Strict JSON: what is read, and what is refused with words that help."""

import json

import pytest

from orchestrator import strict_json
from orchestrator.errors import InvalidRequest
from orchestrator.strict_json import MAX_BODY, MAX_VALUES, parse_object


def unreadable(data: bytes | str) -> str:
    """Return the message that a text is refused with."""
    with pytest.raises(InvalidRequest) as caught:
        parse_object(data)
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 400
    return caught.value.message


@pytest.mark.parametrize(
    "data", [b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}', '{"a": {}}', b" {}\n"]
)
def test_a_json_object_is_read(data: bytes | str) -> None:
    assert parse_object(data) == json.loads(data)


@pytest.mark.parametrize("data", [b"", "", b" \r\n\t "])
def test_an_empty_body_is_called_empty(data: bytes | str) -> None:
    assert "empty" in unreadable(data)


@pytest.mark.parametrize(
    "data",
    [
        "prompt=Hi",
        "{",
        '{"prompt": "Hi"',
        '{"prompt": "Hi",}',
        "{'prompt': 'Hi'}",
        '{"prompt": "Hi"} {}',
        '{"prompt": "a\nb"}',
        '{"prompt": "\\x41"}',
        '{"prompt": 01}',
        '{"prompt": +1}',
        '\ufeff{"prompt": "Hi"}',
        "null null",
    ],
)
def test_what_is_not_json_is_refused(data: str) -> None:
    assert "not JSON" in unreadable(data)
    assert "not JSON" in unreadable(data.encode())


def test_a_byte_order_mark_is_told_of() -> None:
    assert "byte order mark" in unreadable('\ufeff{"prompt": "Hi"}')


@pytest.mark.parametrize("data", ["null", "true", "5", '"Hi"', "[]", '[{"prompt": "Hi"}]'])
def test_json_that_is_no_object_is_refused(data: str) -> None:
    assert "no JSON object" in unreadable(data)


@pytest.mark.parametrize(
    "data", [b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b"\xfe\xff"]
)
def test_what_is_not_utf_8_is_refused(data: bytes) -> None:
    assert "UTF-8" in unreadable(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_refused(number: str) -> None:
    assert number in unreadable(f'{{"temperature": {number}}}')


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_5000_digits_is_refused(sign: str) -> None:
    message = unreadable('{"seed": ' + sign + "1" * 5000 + "}")
    assert "digits" in message
    assert "sys." not in message


def test_a_key_that_comes_twice_is_refused_by_name() -> None:
    assert '"prompt"' in unreadable('{"prompt": "a", "stream": true, "prompt": "b"}')
    assert '"priority"' in unreadable('{"metadata": {"priority": "low", "priority": "high"}}')


def test_the_same_key_in_two_objects_is_no_duplicate() -> None:
    assert parse_object('{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]}')


def test_keys_are_compared_as_they_read() -> None:
    assert '"a"' in unreadable('{"a": 1, "\\u0061": 2}')


@pytest.mark.parametrize(
    "data",
    [
        '{"prompt": "\\ud800"}',
        '{"prompt": "a\\udc00b"}',
        '{"prompt": "\\ude00\\ud83d"}',
        '{"\\ud800": 1}',
        '{"metadata": {"a": "\\uD83D"}}',
        '{"metadata": {"a": ["\\uDBFF"]}}',
        '{"prompt": "\ud800"}',
    ],
)
def test_half_of_a_surrogate_pair_is_refused(data: str) -> None:
    assert "surrogate" in unreadable(data)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_object('{"prompt": "\\ud83d\\ude00"}') == {"prompt": "😀"}


def test_a_surrogate_that_comes_twice_as_a_key_is_refused_with_words_that_can_be_sent() -> None:
    unreadable('{"\\ud800": 1, "\\ud800": 2}').encode()


def nested(depth: int, begin: str, end: str) -> str:
    return begin * (depth - 1) + ("{}" if "{" in begin else "[]") + end * (depth - 1)


def test_32_levels_are_read_and_33_are_not() -> None:
    assert parse_object(nested(32, '{"a":', "}"))
    assert parse_object('{"a":' + nested(31, "[", "]") + "}")
    assert "32" in unreadable(nested(33, '{"a":', "}"))
    assert "32" in unreadable('{"a":' + nested(32, "[", "]") + "}")


@pytest.mark.parametrize("begin", ["[", '{"a":', '[{"a":'])
def test_100_000_levels_are_refused_and_not_followed(begin: str) -> None:
    assert "1000 values" in unreadable(begin * 100_000)


def test_brackets_in_a_text_are_no_levels() -> None:
    assert parse_object('{"prompt": "' + "[{" * 1000 + '"}')


def test_many_objects_beside_each_other_are_no_levels() -> None:
    assert parse_object('{"a": [' + ",".join(["{}"] * 400) + "]}")


def test_1000_values_are_read_and_1001_are_not() -> None:
    for value in ("0", '"a"', '"a,\\"b"', '"\\\\"'):
        # Two brackets and 998 commas, and what is in the texts is none of them.
        assert parse_object('{"a": [' + ",".join([value] * (MAX_VALUES - 1)) + "]}")
        assert "1000 values" in unreadable('{"a": [' + ",".join([value] * MAX_VALUES) + "]}")


@pytest.mark.parametrize(
    "text", [",", "[{", '\\"', "\\\\", "\\\\,", ',\\"', "\\ud83d\\ude00,", "é,"]
)
def test_what_is_in_a_text_is_no_value(text: str) -> None:
    assert parse_object('{"prompt": "' + text * 10_000 + '", "stream": true}')


@pytest.mark.parametrize(
    "item", ['{"a":0}', "{}", "[]", "0", '""', '"a"', "[", '"" ""', '"\\"', '"', "\\"]
)
def test_a_mebibyte_of_values_is_refused_unread(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A full read of the first of them takes a fifth of a second.
    monkeypatch.setattr(strict_json, "_decoder", None)
    unreadable('{"x":[' + ",".join([item] * (MAX_BODY // (len(item) + 1) - 5)) + "]}")


def test_the_limit_of_a_body_is_1_mib() -> None:
    assert MAX_BODY == 1024 * 1024
