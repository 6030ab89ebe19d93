"""While nothing answers for a model, every web process refuses what no worker could run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import requests

from tests import redis_server
from tests.e2e.client import ended, post, refused, submit, until
from tests.fakes.upstream import start_upstream
from tests.scaled import is_ready, working
from tests.served import Served, serve

WELL = "fault:ok 5"


@dataclass(frozen=True)
class Cluster:
    """Two web processes and a worker."""

    a: Served
    b: Served


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("outage")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(start_upstream())
        routes = folder / "routes.toml"
        routes.write_text(
            f'[backends.a]\nkind = "openai"\nbase_url = "{upstream.url}"\n'
            '[models.default]\ntargets = ["a/big"]\n'
            '[models.down]\ntargets = ["a/fault:status/500"]\nretries = 0\n'
        )
        redis = stack.enter_context(redis_server.running(folder))
        environ = {"REDIS_URL": redis.url, "ORCHESTRATOR_CONFIG": str(routes)}
        stack.enter_context(working(folder / "worker", **environ))
        a, b = (stack.enter_context(serve(**environ)) for _ in range(2))
        until(lambda: is_ready(a) and is_ready(b))
        yield Cluster(a, b)


def outcome(served: Served, refusal: bool) -> requests.Response:
    """Submit until it is refused, or until it is not: each web process looks once a second.

    What is accepted would go well: one of these may be the one that tries the target again.
    """
    answers: list[requests.Response] = []

    def is_so() -> bool:
        answers.append(post(served, "/infer", {"prompt": f"{WELL} {uuid4()}", "model": "down"}))
        return answers[-1].ok is not refusal

    until(is_so)
    return answers[-1]


def test_submits_are_refused_by_all_until_it_may_be_asked_again(cluster: Cluster) -> None:
    for _ in range(5):
        assert ended(cluster.a, submit(cluster.a, model="down"))["status"] == "failed"
    for served in (cluster.a, cluster.b):
        answer = outcome(served, refusal=True)
        assert "HTTP status 500" in refused(answer, 503, "PIPELINE_UNAVAILABLE")["message"]
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert requests.get(f"{served.url}/health/ready", timeout=10).status_code == 200
        assert ended(served, submit(served, "all is well"))["result"] == "all is well"

    tried = outcome(cluster.b, refusal=False)
    assert ended(cluster.b, tried.json()["request_id"])["status"] == "completed"
    assert ended(cluster.a, submit(cluster.a, f"{WELL} again", model="down"))["result"]
