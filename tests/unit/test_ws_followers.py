"""The followers of one socket: which is the one of its request, however threads cross."""

import threading
from collections.abc import Callable

import pytest

from orchestrator.errors import RateLimited
from orchestrator.web.ws_followers import MAX_FOLLOWERS, MAX_IN_FLIGHT, Follower, Followers


def follower(request_id: str = "a") -> Follower:
    return Follower(request_id, -1, tokens=True, ref={})


class Pausing(str):
    """A request_id; after ``looks`` look-ups the next one is held up by ``pause``."""

    looks = -1
    pause: Callable[[], object]

    def __hash__(self) -> int:
        self.looks -= 1
        if self.looks == -1:
            self.pause()
        return super().__hash__()


def test_the_end_of_one_that_was_replaced_leaves_the_new_one() -> None:
    followers, first, second = Followers(), follower(), follower()
    followers.add(first)
    followers.add(second)
    assert (first.dropped, second.dropped, len(followers)) == (True, False, 1)
    followers.end(first)
    assert "a" in followers
    followers.end(second)
    assert "a" not in followers
    assert not len(followers)


def test_one_that_ends_while_it_is_replaced_takes_nobody_with_it() -> None:
    followers, new = Followers(), follower()
    request_id = Pausing("a")
    ending = follower(request_id)
    followers.add(ending)
    adder = threading.Thread(target=followers.add, args=(new,))

    def let_the_other_first() -> None:
        adder.start()
        # Long enough for it where nothing holds it up; where a lock does, it comes after.
        adder.join(0.2)

    request_id.pause = let_the_other_first
    # It is found to be the one of its request; then it is taken out.
    request_id.looks = 1
    followers.end(ending)
    adder.join()
    assert "a" in followers
    assert not new.dropped


def test_what_is_let_go_is_told_so() -> None:
    followers, first, second = Followers(), follower("a"), follower("b")
    followers.add(first)
    followers.add(second)
    followers.drop("a")
    followers.drop("never was")
    assert (first.dropped, second.dropped, len(followers)) == (True, False, 1)
    followers.drop_all()
    assert second.dropped
    assert not len(followers)


def test_there_is_room_for_so_many_requests_and_to_follow_each_anew() -> None:
    followers = Followers()
    for number in range(MAX_IN_FLIGHT):
        followers.check_room()
        followers.add(follower(str(number)))
    with pytest.raises(RateLimited):
        followers.check_room()
    with pytest.raises(RateLimited):
        followers.check_room("another")
    followers.check_room("0")
    followers.check_threads()


def test_one_that_was_dropped_counts_until_it_has_ended() -> None:
    followers, all_of_them = Followers(), [follower() for _ in range(MAX_FOLLOWERS)]
    for one in all_of_them:
        followers.check_room("a")
        followers.add(one)
    with pytest.raises(RateLimited):
        followers.check_room("a")
    with pytest.raises(RateLimited):
        followers.check_threads()
    followers.end(all_of_them[0])
    followers.check_room("a")
