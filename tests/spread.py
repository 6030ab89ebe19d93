"""How the tests are spread over processes: whole files, the longest first, a few tests apart."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

UNDER_GEVENT = "tests/test_under_gevent.py::test_the_suite_passes_again_under_gevent"

CROWDS = (
    "tests/e2e/test_slow_clients.py::"
    "test_five_hundred_of_each_kind_are_left_and_health_answers_all_along",
    "tests/e2e/test_shutdown.py::test_under_load_no_accepted_request_is_left_without_an_end",
    "tests/e2e/test_cancel_storm.py",
    "tests/e2e/test_many_streams.py",
    "tests/e2e/test_resume.py",
)
"""What has hundreds of clients: one after the other, so that none feels another's crowd."""

# What else takes more than five seconds, in about as many seconds: a file, or a test that then is
# apart from its file. Anything new is a whole file, and comes last.
LONG = {
    "tests/e2e/test_commands.py": 155,
    "tests/e2e/test_deaths.py": 120,
    "tests/e2e/test_isolation_of_stores.py": 97,
    f"{UNDER_GEVENT}[integration]": 90,
    "tests/e2e/test_run_scaled.py": 90,
    "tests/e2e/test_faults.py": 80,
    f"{UNDER_GEVENT}[redis]": 80,
    f"{UNDER_GEVENT}[backends]": 75,
    "tests/e2e/test_auth.py": 60,
    "tests/e2e/test_dockerfile.py": 52,
    "tests/fuzz/test_fuzz.py": 50,
    "tests/e2e/test_settings_at_start.py": 45,
    f"{UNDER_GEVENT}[unit and contract]": 44,
    f"{UNDER_GEVENT}[failover]": 43,
    "tests/e2e/test_limits_scaled.py": 38,
    "tests/e2e/test_benchmarks.py": 36,
    "tests/e2e/test_playground.py": 30,
    "tests/chaos/test_chaos.py": 30,
    "tests/e2e/test_scaled.py": 30,
    "tests/e2e/test_keepalive.py": 28,
    "tests/e2e/test_playground_form.py": 25,
    "tests/e2e/test_docs_page.py": 25,
    "tests/integration/test_failover.py": 25,
    "tests/e2e/test_nginx.py": 25,
    "tests/e2e/test_reuse.py": 25,
    "tests/e2e/test_shutdown.py": 24,
    "tests/e2e/test_playground_look.py": 20,
    "tests/e2e/test_sse.py": 20,
    "tests/e2e/test_websocket.py": 20,
    "tests/e2e/test_outage_scaled.py": 18,
    "tests/e2e/test_rest.py": 16,
    "tests/e2e/test_engine.py": 15,
    "tests/e2e/test_isolation.py": 15,
    "tests/e2e/test_outage.py": 13,
    "tests/e2e/test_limits.py": 12,
    "tests/e2e/test_slow_clients.py": 12,
    "tests/e2e/test_reuse_by_tenant.py": 10,
}


def unit_of(nodeid: str) -> str:
    """Return what a test must stay together with: its file, or a part of it that is long."""
    test, file = nodeid.partition("[")[0], nodeid.partition("::")[0]
    if test in CROWDS or file in CROWDS:
        return "crowds"
    return next((part for part in (nodeid, test) if part in LONG), file)


def length(unit: str) -> float:
    return float("inf") if unit == "crowds" else LONG.get(unit, 0)


def longest_first(items: list[pytest.Item]) -> None:
    """Put what takes long before what does not, and leave the order as it is otherwise."""
    items.sort(key=lambda item: -length(unit_of(item.nodeid)))


class Spread(LoadScopeScheduling):
    """Gives a process the next unit when it is nearly through with what it has."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        # The order is ours, not that of the number of tests.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
