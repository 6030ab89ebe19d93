"""Which Host headers name the service."""

import pytest

from orchestrator import setting_rules as rules
from orchestrator.config import load
from orchestrator.web import create_app
from orchestrator.web.hosts import is_trusted

TRUSTED = rules.hosts("api.example.com, .inner.example, localhost:8080, [::1], 192.0.2.1")


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "API.Example.COM",
        "api.example.com:443",
        "a.inner.example",
        "a.b.inner.example:8080",
        "localhost:8080",
        "[::1]",
        "[::1]:8080",
        "192.0.2.1",
        "192.0.2.1:80",
    ],
)
def test_a_name_of_the_service_is_trusted(host: str) -> None:
    assert is_trusted(host, TRUSTED)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "example.com",
        "sub.api.example.com",
        "api.example.com.evil.example",
        "evilapi.example.com",
        "api.example.com.",
        "api.example.com:x",
        "api.example.com:",
        "api.example.com@evil.example",
        "evil.example@api.example.com",
        "api.example.com, evil.example",
        "api.example.com/evil",
        "api.example.com:443:443",
        "inner.example",
        ".inner.example",
        "a..inner.example",
        "evilinner.example",
        "a.inner.example.",
        "localhost",
        "localhost:8081",
        "[::1",
        "::1",
        "[::2]",
        "192.0.2.10",
        "null",
    ],
)
def test_no_other_name_is(host: str) -> None:
    assert not is_trusted(host, TRUSTED)


@pytest.mark.parametrize(
    "text", ["https://a.example", "a b", "*", "*.example.com", "a:0", "a:x", "a/b", "a@b", "[::1"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        rules.hosts(text)


def test_health_is_told_under_any_name_and_nothing_else_is() -> None:
    client = create_app(load({"ORCHESTRATOR_TRUSTED_HOSTS": "api.example.com"})).test_client()

    def status(path: str) -> int:
        return client.get(path, headers={"Host": "10.0.0.7:8080"}).status_code

    for path in ("/health", "/health/live", "/health/ready", "/api/v1/health"):
        assert (status(path), status(f"{path}/")) == (200, 200), path
    for path in ("/", "/docs", "/api/v1/models", "/health/other", "/healthy", "/api/v1/health/x"):
        assert status(path) == 400, path
