"""What of a conversation a model is told, and what of it is dropped."""

from orchestrator.session import HISTORY_BYTES, HISTORY_MESSAGES, History, Message
from tests.fakes.asking import a_request


def turns(history: History) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in history.messages]


def test_a_model_is_told_the_prompt_alone_at_first() -> None:
    assert History().conversation(a_request("Hi")) == [Message("user", "Hi")]


def test_a_model_is_told_the_earlier_turns_in_order_and_the_prompt_last() -> None:
    history = History().with_turn(a_request("one"), "1").with_turn(a_request("two"), "2")
    assert [(m.role, m.content) for m in history.conversation(a_request("three"))] == [
        ("user", "one"),
        ("assistant", "1"),
        ("user", "two"),
        ("assistant", "2"),
        ("user", "three"),
    ]


def test_a_system_text_comes_first() -> None:
    history = History().with_turn(a_request("one"), "1")
    told = history.conversation(a_request("two", system="Be brief."))
    assert told[0] == Message("system", "Be brief.")
    assert [message.role for message in told].count("system") == 1


def test_a_system_text_stays_in_force_until_another_one_comes() -> None:
    history = History().with_turn(a_request("one", system="Be brief."), "1")
    history = history.with_turn(a_request("two"), "2")
    assert history.conversation(a_request("three"))[0] == Message("system", "Be brief.")
    history = history.with_turn(a_request("three", system="Be long."), "3")
    assert history.conversation(a_request("four"))[0] == Message("system", "Be long.")


def test_a_request_with_a_system_text_of_its_own_changes_no_history_by_asking() -> None:
    history = History(system="Be brief.")
    history.conversation(a_request("one", system="Be long."))
    assert history.conversation(a_request("two"))[0] == Message("system", "Be brief.")


def test_200_messages_are_kept_and_the_oldest_turn_goes_first() -> None:
    history = History()
    for number in range(HISTORY_MESSAGES // 2):
        history = history.with_turn(a_request(f"question {number}"), f"answer {number}")
    assert len(history.messages) == 200
    assert turns(history)[0] == ("user", "question 0")
    history = history.with_turn(a_request("one more"), "yes")
    assert len(history.messages) == 200
    assert turns(history)[0] == ("user", "question 1")
    assert turns(history)[-1] == ("assistant", "yes")


def test_1_mib_of_text_is_kept_to_the_byte() -> None:
    half = HISTORY_BYTES // 2
    history = History().with_turn(a_request("a" * (half - 10)), "b" * 10)
    whole = history.with_turn(a_request("c" * (half - 10)), "d" * 10)
    assert len(whole.messages) == 4
    past = history.with_turn(a_request("c" * (half - 10)), "d" * 11)
    assert turns(past) == [("user", "c" * (half - 10)), ("assistant", "d" * 11)]


def test_the_limit_is_in_bytes_and_not_in_characters() -> None:
    history = History().with_turn(a_request("é" * (HISTORY_BYTES // 4)), "")
    history = history.with_turn(a_request("é" * (HISTORY_BYTES // 4)), "")
    assert len(history.messages) == 4
    assert len(history.with_turn(a_request("é"), "").messages) == 4


def test_as_many_old_turns_go_as_a_large_one_needs() -> None:
    history = History()
    for number in range(50):
        history = history.with_turn(a_request(str(number)), "x" * 10_000)
    history = history.with_turn(a_request("large"), "y" * (HISTORY_BYTES - 20_100))
    assert [content[:5] for _, content in turns(history)][:3] == ["48", "xxxxx", "49"]
    assert turns(history)[-2][1] == "large"


def test_a_turn_past_the_limit_on_its_own_is_not_kept() -> None:
    history = History().with_turn(a_request("small"), "answer")
    assert history.with_turn(a_request("x"), "y" * HISTORY_BYTES).messages == ()


def test_the_system_text_is_kept_when_all_turns_are_dropped() -> None:
    history = History().with_turn(a_request("one", system="Be brief."), "y" * HISTORY_BYTES)
    assert (history.system, history.messages) == ("Be brief.", ())
