"""Kept answers and shared calls are a tenant's own, as deployed."""

import contextlib
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests import redis_server
from tests.e2e.callers import Register, keyed
from tests.e2e.client import get, post, until
from tests.fakes.upstream import Upstream, start_upstream
from tests.scaled import is_ready, working
from tests.served import Served, serve

TENANTS = ("acme", "globex")
WAIT = {"Prefer": "wait=15"}
SLOW = "fault:ok 10 0.1"
WORDS = "".join(f"w{number} " for number in range(10))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with start_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def callers() -> dict[str, dict[str, str]]:
    """The headers that each tenant sends; filled by the server's fixture."""
    return {}


@pytest.fixture(scope="module", params=["one process", "web and worker"])
def served(
    request: pytest.FixtureRequest,
    upstream: Upstream,
    callers: dict[str, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tenants")
    routes = folder / "routes.toml"
    routes.write_text(
        f'[backends.a]\nkind = "openai"\nbase_url = "{upstream.url}"\n'
        '[models.default]\ntargets = ["a/big"]\ncache_ttl_s = 600\ncoalesce = true\n'
    )
    register = Register(folder / "keys.json")
    callers |= {tenant: keyed(register.key(tenant=tenant)) for tenant in TENANTS}
    environ = {"ORCHESTRATOR_CONFIG": str(routes), **register.environ}
    with contextlib.ExitStack() as stack:
        if request.param == "web and worker":
            redis = stack.enter_context(redis_server.running(folder))
            environ["REDIS_URL"] = redis.url
            stack.enter_context(working(folder / "worker", **environ))
        running = stack.enter_context(serve(**environ))
        until(lambda: is_ready(running))
        yield running


def submit(served: Served, prompt: str, caller: dict[str, str]) -> str:
    answer = post(served, "/infer", {"prompt": prompt}, headers=caller)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def test_each_tenant_has_a_call_and_a_kept_answer_of_its_own(
    served: Served, upstream: Upstream, callers: dict[str, dict[str, str]]
) -> None:
    prompt = f"{SLOW} {uuid4()}"
    ids = {
        tenant: [submit(served, prompt, callers[tenant]) for _ in range(3)] for tenant in TENANTS
    }
    for tenant, requests in ids.items():
        for request_id in requests:
            answer = get(served, f"/result/{request_id}?wait=15", headers=callers[tenant])
            assert answer.json()["result"] == WORDS
            assert answer.headers["X-Cache"] == "miss"
    assert upstream.seen(prompt)["calls"] == len(TENANTS), "three of one tenant share one"

    for tenant in TENANTS:
        again = post(served, "/infer", {"prompt": prompt}, headers=callers[tenant] | WAIT)
        assert (again.json()["result"], again.headers["X-Cache"]) == (WORDS, "hit")
    assert upstream.seen(prompt)["calls"] == len(TENANTS)


def test_what_one_tenant_has_kept_is_no_hit_for_another(
    served: Served, upstream: Upstream, callers: dict[str, dict[str, str]]
) -> None:
    prompt = f"fault:ok 10 {uuid4()}"
    for calls, tenant in enumerate(TENANTS, 1):
        answer = post(served, "/infer", {"prompt": prompt}, headers=callers[tenant] | WAIT)
        assert (answer.json()["result"], answer.headers["X-Cache"]) == (WORDS, "miss")
        assert upstream.seen(prompt)["calls"] == calls


def test_who_is_cancelled_leaves_anothers_call_as_it_is(
    served: Served, upstream: Upstream, callers: dict[str, dict[str, str]]
) -> None:
    prompt = f"{SLOW} {uuid4()}"
    first, second = (submit(served, prompt, callers[tenant]) for tenant in TENANTS)
    until(lambda: upstream.seen(prompt)["calls"] == 2)
    cancelled = post(served, f"/cancel/{first}?wait=10", headers=callers[TENANTS[0]])
    assert cancelled.json()["status"] == "cancelled"
    kept = get(served, f"/result/{second}?wait=15", headers=callers[TENANTS[1]])
    assert kept.json()["result"] == WORDS
