"""API keys: made once, kept as digests, and in force until they are not."""

import json
import stat
import threading
from pathlib import Path

import pytest

from orchestrator.auth import key_file, keys
from orchestrator.auth.guard import Entrance, Guard, require
from orchestrator.auth.key_file import LOOK_EVERY_S, KeyFile
from orchestrator.auth.keys import NOTE_EVERY_S, Key
from orchestrator.auth.tickets import MemoryTickets
from orchestrator.caller import ANYONE, STRANGER, Caller, Scope
from orchestrator.errors import ConfigError, Forbidden, PipelineUnavailable, Unauthorized
from tests.fakes.asking import eventually
from tests.fakes.clock import Clock

PEPPER = "p" * 32
INFER = frozenset({Scope.INFER})


def made(tenant: str = "acme", **options: float | str) -> tuple[Key, str]:
    return keys.create(PEPPER, tenant, INFER, 1000.0, **options)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", clock)


def guard(file: KeyFile, now: float = 2000.0, pepper: str = PEPPER) -> Guard:
    return Guard(file, pepper, None, clock=lambda: now)


def test_a_key_is_known_by_what_was_shown_once(file: KeyFile) -> None:
    key, shown = made()
    file.add(key)
    expected = Caller("acme", key.id, INFER, key_id=key.id)
    assert guard(file).admit(None, shown) == expected
    assert guard(file).admit(f"Bearer {shown}", None) == expected
    assert guard(file).admit(f"bearer {shown}", None) == expected


def test_no_two_keys_are_alike() -> None:
    assert len({made()[1] for _ in range(1000)}) == 1000


def test_what_is_kept_can_not_be_used(file: KeyFile, tmp_path: Path) -> None:
    key, shown = made()
    file.add(key)
    kept = (tmp_path / "keys.json").read_text()
    assert shown.partition(".")[2] not in kept
    assert key.digest in kept
    with pytest.raises(Unauthorized):
        guard(file).admit(None, f"{key.id}.{key.digest}")


def test_only_its_owner_may_read_the_file(file: KeyFile, tmp_path: Path) -> None:
    file.add(made()[0])
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def wrong(shown: str) -> dict[str, str]:
    key_id, secret = shown.split(".")
    return {
        "empty": "",
        "no secret": key_id,
        "no secret after the dot": f"{key_id}.",
        "a prefix": shown[:-1],
        "more": shown + "A",
        "another secret": f"{key_id}.{'A' * 43}",
        "another id": f"ok_{'0' * 16}.{secret}",
        "blanks around": f" {shown} ",
        "a line break": f"{shown}\n",
        "NUL": f"{shown}\x00",
        "not ASCII": shown[:-1] + "é",
        "twice": f"{shown},{shown}",
        "large": "A" * 1_000_000,
        "other case": shown.upper(),
    }


@pytest.mark.parametrize("kind", list(wrong("ok_x.y")))
def test_what_is_not_the_key_is_refused(file: KeyFile, kind: str) -> None:
    key, shown = made()
    file.add(key)
    text = wrong(shown)[kind]
    with pytest.raises(Unauthorized):
        guard(file).admit(None, text)
    with pytest.raises(Unauthorized):
        guard(file).admit(f"Bearer {text}", None)


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer  {}"])
def test_no_other_form_of_authorization_is_taken(file: KeyFile, value: str) -> None:
    key, shown = made()
    file.add(key)
    with pytest.raises(Unauthorized):
        guard(file).admit(value.format(shown), None)


def test_two_credentials_are_one_too_many(file: KeyFile) -> None:
    key, shown = made()
    file.add(key)
    with pytest.raises(Unauthorized, match="not both"):
        guard(file).admit(f"Bearer {shown}", shown)


def test_another_pepper_voids_all_keys(file: KeyFile) -> None:
    key, shown = made()
    file.add(key)
    with pytest.raises(Unauthorized, match="not known"):
        guard(file, pepper="q" * 32).admit(None, shown)


def test_a_key_expires(file: KeyFile) -> None:
    key, shown = made(expires_at=1500.0)
    file.add(key)
    caller = guard(file, now=1499.9).admit(None, shown)
    guard(file, now=1499.9).check(caller)
    with pytest.raises(Unauthorized, match="has expired"):
        guard(file, now=1500.0).admit(None, shown)
    with pytest.raises(Unauthorized, match="no longer"):
        guard(file, now=1500.0).check(caller)


def test_a_key_expires_even_while_nobody_can_be_asked_about_it() -> None:
    key, _ = made(expires_at=1500.0)

    class Away(KeyFile):
        def find(self, key_id: str) -> Key | None:
            raise PipelineUnavailable("Redis can't be reached.")

    def may_stay(now: float) -> bool:
        entrance = Entrance(guard(Away(Path("keys")), now=now), MemoryTickets())
        return entrance.lasting(key.caller())()

    assert may_stay(1499.9), "who is here stays until somebody can tell"
    assert not may_stay(1500.0)


def test_a_revoked_key_is_out_of_force_a_moment_later_for_who_is_in_as_well(
    file: KeyFile, clock: Clock, tmp_path: Path
) -> None:
    key, shown = made()
    file.add(key)
    caller = guard(file).admit(None, shown)
    # By another process, as `orchestrator keys revoke` is.
    assert KeyFile(tmp_path / "keys.json").revoke(key.id, 1999.0)
    clock.advance(LOOK_EVERY_S)
    with pytest.raises(Unauthorized, match="was revoked"):
        guard(file).admit(None, shown)
    with pytest.raises(Unauthorized, match="no longer"):
        guard(file).check(caller)


def test_a_key_that_is_revoked_while_the_server_starts_is_out_of_force_as_well(
    clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    key, shown = made()
    KeyFile(path).add(key)

    class Starting(KeyFile):
        is_revoked = False

        def _load(self) -> dict[str, Key]:
            found = super()._load()
            if not self.is_revoked:
                self.is_revoked = KeyFile(path).revoke(key.id, 1999.0)
            return found

    file = Starting(path, clock)
    file.check()
    clock.advance(LOOK_EVERY_S)
    with pytest.raises(Unauthorized, match="was revoked"):
        guard(file).admit(None, shown)


def test_the_first_revocation_counts_and_an_unknown_id_is_told(file: KeyFile) -> None:
    key, _ = made()
    file.add(key)
    assert file.revoke(key.id, 1.0)
    assert file.revoke(key.id, 2.0)
    assert [kept.revoked_at for kept, _ in file.all()] == [1.0]
    assert not file.revoke("ok_" + "0" * 16, 1.0)


def test_a_key_that_is_taken_out_of_the_file_is_unknown(
    file: KeyFile, clock: Clock, tmp_path: Path
) -> None:
    key, shown = made()
    file.add(key)
    caller = guard(file).admit(None, shown)
    (tmp_path / "keys.json").write_text('{"keys": []}')
    clock.advance(LOOK_EVERY_S)
    with pytest.raises(Unauthorized, match="not known"):
        guard(file).admit(None, shown)
    with pytest.raises(Unauthorized):
        guard(file).check(caller)


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"keys": 1}', '{"keys": [{}]}', '{"keys": [1]}', "[" * 100_000]
)
def test_a_file_that_is_broken_stops_the_start_and_later_leaves_keys_in_force(
    file: KeyFile, clock: Clock, tmp_path: Path, text: str
) -> None:
    key, shown = made()
    file.add(key)
    file.check()
    (tmp_path / "keys.json").write_text(text)
    clock.advance(LOOK_EVERY_S)
    assert guard(file).admit(None, shown)
    with pytest.raises(ConfigError, match="ORCHESTRATOR_API_KEYS_FILE"):
        KeyFile(tmp_path / "keys.json").check()


@pytest.mark.parametrize("field", list(made()[0].as_json()))
def test_what_is_wrong_with_a_key_is_told_and_what_was_written_instead_is_not(
    tmp_path: Path, field: str
) -> None:
    path = tmp_path / "keys.json"
    good, (key, shown) = made()[0], made()
    for wrong in (f"{shown}!", [shown], {shown: 1}):
        records = [good.as_json(), key.as_json() | {field: wrong}]
        path.write_text(json.dumps({"keys": records}))
        with pytest.raises(
            ConfigError, match=f"key number 2 can't be read, its {field} is none"
        ) as it:
            KeyFile(path).check()
        assert shown.partition(".")[2] not in str(it.value)


def test_a_key_may_have_what_rate_the_settings_may_have(file: KeyFile) -> None:
    key, shown = made(rate="10/second, 5000/day")
    file.add(key)
    assert guard(file).admit(None, shown).rate == "10/second, 5000/day"


def test_a_file_that_is_missing_stops_the_start_with_what_to_do(file: KeyFile) -> None:
    with pytest.raises(ConfigError, match="orchestrator keys create"):
        file.check()


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    writers = [threading.Thread(target=lambda: KeyFile(path).add(made()[0])) for _ in range(20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(list(KeyFile(path).all())) == 20


def test_uses_are_noted_to_the_minute(file: KeyFile, clock: Clock) -> None:
    key, shown = made()
    file.add(key)
    guard(file, now=5000.0).admit(None, shown)
    eventually(lambda: [at for _, at in file.all()] == [5000.0])
    clock.advance(NOTE_EVERY_S)
    guard(file, now=5060.0).admit(None, shown)
    eventually(lambda: [at for _, at in file.all()] == [5060.0])


def test_uses_of_many_keys_are_written_at_once_and_none_is_lost(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    real = key_file._replace

    def counted(path: Path, value: object, **options: bool) -> None:
        written.append(path)
        real(path, value, **options)

    monkeypatch.setattr(key_file, "NOTE_EVERY_S", 0.2)
    several = [made() for _ in range(50)]
    for key, _ in several:
        file.add(key)
    monkeypatch.setattr(key_file, "_replace", counted)
    for _, shown in several:
        assert guard(file).admit(None, shown)
    eventually(lambda: all(at for _, at in file.all()))
    assert len(written) <= 5


def test_a_use_that_can_not_be_noted_costs_nobody_an_answer(
    file: KeyFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, shown = made()
    file.add(key)
    (tmp_path / "keys.json.used.lock").mkdir()
    assert guard(file).admit(None, shown)
    eventually(lambda: "is not noted" in caplog.text)


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        ({Scope.INFER}, {Scope.INFER, Scope.READ}),
        ({Scope.READ}, {Scope.READ}),
        ({Scope.ADMIN}, set(Scope)),
        (set(), set()),
    ],
)
def test_scopes(scopes: set[Scope], may: set[Scope]) -> None:
    caller = Caller("acme", "name", frozenset(scopes))
    assert {scope for scope in Scope if caller.may(scope)} == may
    for scope in set(Scope) - may:
        with pytest.raises(Forbidden, match=scope):
            require(caller, scope)


def test_who_has_not_said_who_it_is_may_do_nothing() -> None:
    assert not any(STRANGER.may(scope) for scope in Scope)
    assert all(ANYONE.may(scope) for scope in Scope)
