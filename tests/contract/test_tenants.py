"""What belongs to one tenant is for all others as if it never was, in every store."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.backends.base import Message
from orchestrator.errors import NotFound, OrchestratorError
from orchestrator.events import Completed, Failed, FinishReason, Token
from orchestrator.ids import new_id
from orchestrator.routing.key import key_of, likeness
from orchestrator.service import Service
from orchestrator.stores.base import Idempotency, Listing, Store
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.store import RedisStore
from orchestrator.tenancy import session_id_of
from tests.fakes.asking import a_request

US, THEM = "us", "them"


class Idle:
    """A dispatcher that runs nothing."""

    def start(self) -> None: ...
    def check(self, model: str | None = None) -> None: ...
    def put(self, job: Any) -> None: ...
    def run(self, job_id: str, route: Any = None) -> None: ...
    def cancel(self, job_id: str) -> None: ...
    def position(self, job_id: str, priority: Any) -> int:
        return 0

    def stop_all(self) -> None: ...


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "redis":
        make: Callable[..., RedisStore] = request.getfixturevalue("redis_store")
        yield make()
    else:
        yield MemoryStore(queue_limit=1_000, retention_s=3600.0, memory_limit=1 << 26)


@pytest.fixture
def service(store: Store) -> Service:
    return Service(store, Idle(), [])


def submitted(service: Service, tenant: str, **fields: Any) -> str:
    request = a_request(**({"session_id": new_id()} | fields))
    return service.submit(request, tenant=tenant).request_id


def ended(service: Service, store: Store, tenant: str, **fields: Any) -> str:
    job_id = submitted(service, tenant, **fields)
    claim = store.claim(job_id, "echo")
    assert claim
    store.append(job_id, Token(0, f"said to {tenant}"))
    store.finish(job_id, Completed(FinishReason.STOP, None), claim[0].run)
    return job_id


def outcome(act: Callable[[], object]) -> tuple[type, str, str]:
    with pytest.raises(OrchestratorError) as raised:
        act()
    return type(raised.value), raised.value.code, raised.value.message


WAYS: dict[str, Callable[[Service, str, str], object]] = {
    "get": lambda service, job_id, tenant: service.get(job_id, tenant),
    "wait": lambda service, job_id, tenant: service.wait(job_id, 0.0, tenant),
    "cancel": lambda service, job_id, tenant: service.cancel(job_id, tenant),
    "read": lambda service, job_id, tenant: service.read(job_id, -1, tenant=tenant),
    "resume": lambda service, job_id, tenant: service.resume(job_id, 3, tenant=tenant),
    "follow": lambda service, job_id, tenant: list(service.follow(job_id, -1, 0.1, tenant)),
    "await": lambda service, job_id, tenant: next(service.await_end(job_id, 0.1, tenant)),
    "delete": lambda service, job_id, tenant: service.delete(job_id, tenant),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("other", [THEM, "", "us/", "u", "US"])
def test_anothers_request_is_as_absent_as_one_that_never_was(
    service: Service, store: Store, way: str, other: str
) -> None:
    never = new_id()
    for mine in (submitted(service, US), ended(service, store, US)):
        before = service.get(mine, US)
        said = outcome(lambda mine=mine: WAYS[way](service, mine, other))
        assert said[0] is NotFound
        kind, code, message = outcome(lambda: WAYS[way](service, never, other))
        assert said == (kind, code, message.replace(never, mine))
        assert service.get(mine, US) == before


def test_who_asks_for_no_tenant_sees_what_is_nobodys(service: Service) -> None:
    nobodys = submitted(service, "")
    assert service.get(nobodys, "").request.tenant == ""
    with pytest.raises(NotFound):
        service.get(nobodys, US)


def test_lists_have_ones_own_alone_however_many_others_there_are(
    service: Service, store: Store
) -> None:
    mine = sorted(ended(service, store, US, session_id="chat") for _ in range(3))
    for _ in range(30):
        submitted(service, THEM)
    assert [job.id for job in service.jobs(limit=3, tenant=US).items] == mine[::-1]
    assert service.jobs(limit=3, tenant=US).next_cursor is None
    assert [job.id for job in service.jobs(session_id="chat", tenant=US).items] == mine[::-1]
    assert service.jobs(session_id="chat", tenant=THEM).items == []
    assert service.jobs(tenant="").items == []
    assert len(service.jobs(limit=100, tenant=THEM).items) == 30
    (session,) = service.sessions(tenant=US).items
    assert session.name.endswith("chat")
    assert service.sessions(tenant="").items == []


def test_sessions_of_one_name_are_two_conversations(service: Service, store: Store) -> None:
    ended(service, store, US, session_id="chat")
    ended(service, store, THEM, session_id="chat")
    for tenant in (US, THEM):
        (_, answer) = service.session("chat", tenant).history.messages
        assert answer.content == f"said to {tenant}"
    with pytest.raises(NotFound):
        service.session("chat", "")
    service.delete_session("chat", US)
    assert service.session("chat", THEM)
    assert outcome(lambda: service.session("chat", US)) == outcome(
        lambda: service.session("chat", "nobody")
    )


def test_a_busy_session_keeps_nobody_elses_waiting(service: Service, store: Store) -> None:
    first = submitted(service, US, session_id="chat")
    assert store.claim(first, "echo")
    theirs = service.submit(a_request(session_id="chat"), tenant=THEM)
    assert [job.id for job in theirs.ready] == [theirs.request_id]
    assert store.place(theirs.request_id).ahead == 0


def test_idempotency_keys_are_ones_own(service: Service) -> None:
    key = Idempotency("/api/v1/infer key", b"same")
    mine = service.submit(a_request(), key, tenant=US)
    theirs = service.submit(a_request(), key, tenant=THEM)
    again = service.submit(a_request(), key, tenant=US)
    assert mine.request_id != theirs.request_id
    assert again.request_id == mine.request_id
    assert again.replayed
    # Another body under the same key is no conflict with anybody else's.
    service.submit(a_request(), Idempotency(key.key, b"other"), tenant="third")


def test_idempotency_keys_and_names_of_tenants_can_not_run_together(service: Service) -> None:
    first = service.submit(a_request(), Idempotency("b c", b"same"), tenant="a")
    other = service.submit(a_request(), Idempotency("c", b"same"), tenant="a b")
    assert not other.replayed
    assert other.request_id != first.request_id


def test_lists_of_sessions_tell_nothing_of_others_before_between_or_behind_ones_own(
    service: Service, store: Store
) -> None:
    for number in range(3):
        ended(service, store, THEM)
        ended(service, store, US, session_id=f"chat{number}")
        ended(service, store, THEM)
        submitted(service, THEM)
    whole = service.sessions(limit=3, tenant=US)
    assert [session_id_of(session.name) for session in whole.items] == ["chat2", "chat1", "chat0"]
    assert whole.next_cursor is None
    first = service.sessions(limit=2, tenant=US)
    assert first.next_cursor
    rest = service.sessions(limit=2, cursor=first.next_cursor, tenant=US)
    assert [session.name for session in first.items + rest.items] == [
        session.name for session in whole.items
    ]
    assert rest.next_cursor is None
    assert service.sessions(limit=1, tenant="nobody") == Listing([], None)


def test_a_cursor_of_sessions_counts_nothing_of_others(service: Service, store: Store) -> None:
    def cursor(tenant: str) -> str | None:
        for number in range(2):
            ended(service, store, tenant, session_id=f"chat{number}")
        return service.sessions(limit=1, tenant=tenant).next_cursor

    before = cursor("first")
    assert before
    for _ in range(5):
        ended(service, store, THEM)
    assert cursor("second") == before


def test_what_is_deleted_leaves_the_lists(service: Service, store: Store) -> None:
    mine = ended(service, store, US)
    service.delete(mine, US)
    assert service.jobs(tenant=US).items == []


def test_a_tenant_may_have_any_name(service: Service, store: Store) -> None:
    for name in ("a/b", "é 😀", "auth0|12", "%2F", "a" * 255):
        job_id = ended(service, store, name, session_id="c")
        assert service.session("c", name)
        assert service.get(job_id, name).request.session_id == "c"
        assert [job.id for job in service.jobs(tenant=name).items] == [job_id]
        assert len(service.sessions(tenant=name).items) == 1
    for tenant, session in (("a", "b/c"), ("", "a/b/c"), ("a", "c")):
        with pytest.raises(NotFound):
            service.session(session, tenant)


def test_kept_and_shared_answers_never_cross_tenants() -> None:
    said = [Message("user", "hello")]
    requests = [a_request(prompt="hello", tenant=tenant) for tenant in ("", US, THEM)]
    assert len({key_of("route", request, said) for request in requests}) == 3
    assert len({likeness(request) for request in requests}) == 3


def test_redis_keeps_nothing_of_a_tenant_that_has_nothing(
    redis: Any, redis_store: Callable[..., RedisStore]
) -> None:
    store = redis_store()
    service = Service(store, Idle(), [])
    for _ in range(3):
        service.delete(ended(service, store, US, session_id="chat"), US)
    service.delete_session("chat", US)
    assert not [name for name in redis.client.scan_iter() if US.encode() in name]
    assert not redis.client.exists("o:owners")


def test_memory_keeps_nothing_of_a_tenant_that_has_nothing() -> None:
    store = MemoryStore(queue_limit=10, retention_s=60.0, memory_limit=1 << 20)
    service = Service(store, Idle(), [])
    service.delete(ended(service, store, US, session_id="chat"), US)
    service.delete_session("chat", US)
    assert store.size == 0


def test_a_failed_request_tells_its_own_tenant_alone(service: Service, store: Store) -> None:
    mine = submitted(service, US)
    store.finish(mine, Failed("SHUTDOWN", "Over."), 1)
    assert service.get(mine, US).error == "Over."
    with pytest.raises(NotFound):
        service.get(mine, THEM)
