"""How the tests are spread over processes: whole files, the longest first, a few tests apart."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

UNDER_GEVENT = "tests/test_under_gevent.py::test_the_suite_passes_again_under_gevent"

# What takes longer than five seconds by itself, in about as many seconds: a file, or a test that
# then is apart from its file. What is not here comes after, as whole files.
LONG = {
    "tests/e2e/test_slow_clients.py::"
    "test_five_hundred_of_each_kind_are_left_and_health_answers_all_along": 45,
    f"{UNDER_GEVENT}[integration/test_failover.py]": 40,
    "tests/e2e/test_shutdown.py::test_under_load_no_accepted_request_is_left_without_an_end": 39,
    "tests/e2e/test_playground.py": 38,
    "tests/integration/test_failover.py": 37,
    "tests/e2e/test_shutdown.py": 24,
    "tests/e2e/test_sse.py": 20,
    "tests/e2e/test_websocket.py": 20,
}


def unit_of(nodeid: str) -> str:
    """Return what a test must stay together with: its file, or a part of it that is long."""
    for part in (nodeid, nodeid.partition("[")[0]):
        if part in LONG:
            return part
    return nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Put what takes long before what does not, and leave the order as it is otherwise."""
    items.sort(key=lambda item: -LONG.get(unit_of(item.nodeid), 0))


class Spread(LoadScopeScheduling):
    """Gives a process the next unit when it is nearly through with what it has."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        # The order is ours, not that of the number of tests.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
