"""Request ids tell when they were made, and are never made twice."""

import time
import uuid

import pytest

from orchestrator.ids import created_at, new_id


def test_an_id_is_a_uuid_of_version_7_in_its_canonical_form() -> None:
    made = new_id()
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_an_id_tells_when_it_was_made() -> None:
    before = int(time.time() * 1000) / 1000
    moment = created_at(new_id())
    assert moment is not None
    assert before <= moment <= time.time()


def test_ids_sort_by_the_millisecond_they_were_made_in() -> None:
    made = [new_id() for _ in range(2_000)]
    moments = [created_at(one) for one in made]
    assert moments == sorted(moments, key=lambda moment: moment or 0)
    assert [created_at(one) for one in sorted(made)] == moments


def test_ids_are_never_made_twice() -> None:
    assert len({new_id() for _ in range(20_000)}) == 20_000


def test_all_74_random_bits_are_used() -> None:
    ones, zeros = 0, 0
    for _ in range(200):
        value = uuid.UUID(new_id()).int
        ones |= value
        zeros |= ~value
    random_bits = 0xFFF << 64 | (1 << 62) - 1
    assert ones & random_bits == random_bits
    assert zeros & random_bits == random_bits


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "1234",
        str(uuid.UUID(int=0)),
        "58c7f5e3-8d3a-45e6-b89f-f1801f0b96fa",
        "0190163d-8694-739b-aea5-966c26f8ad9",
        "0190163d-8694-739b-aea5-966c26f8ad911",
        "0190163d-8694-739b-6ea5-966c26f8ad91",
        "0190163d8694739baea5966c26f8ad91",
        "{0190163d-8694-739b-aea5-966c26f8ad91}",
        "0190163d-8694-739b-aea5-966c26f8ad91\n",
        "٠190163d-8694-739b-aea5-966c26f8ad91",
    ],
)
def test_what_is_no_uuid_of_version_7_has_no_time(text: str) -> None:
    assert created_at(text) is None


def test_the_time_is_read_from_the_first_48_bits() -> None:
    # The example of RFC 9562, appendix A.6: Tuesday, February 22, 2022 2:22:22.00 PM GMT-05:00.
    assert created_at("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == 1645557742.0
