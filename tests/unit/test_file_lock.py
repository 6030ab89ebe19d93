"""The locks of the files that keys are kept in: who waits for them, and who never does."""

import argparse
import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import config, keys_command
from orchestrator.auth import key_file, keys
from orchestrator.auth.key_file import LOOK_EVERY_S, KeyFile
from orchestrator.caller import Scope
from orchestrator.errors import ConfigError
from tests.fakes.asking import eventually
from tests.fakes.clock import Clock

PEPPER = "p" * 32


@contextlib.contextmanager
def taken(lock: Path) -> Iterator[None]:
    """As another process would have it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_nobody_waits_for_the_lock_of_the_uses_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_file, "NOTE_PATIENCE_S", 0.1)
    monkeypatch.setattr(key_file, "NOTE_EVERY_S", 0.1)
    clock = Clock()
    file = KeyFile(tmp_path / "keys.json", clock)
    ids = []
    for tenant in ("acme", "bolt"):
        key, _ = keys.create(PEPPER, tenant, frozenset({Scope.INFER}), 1000.0)
        file.add(key)
        ids.append(key.id)
    with taken(tmp_path / "keys.json.used.lock"):
        for now in (5000.0, 5001.0, 5002.0):
            clock.advance(LOOK_EVERY_S)
            for key_id in ids:
                assert file.find(key_id)
                file.note_use(key_id, now)
        eventually(lambda: caplog.text.count("a minute later") >= 2)
        assert [at for _, at in file.all()] == [None, None]
    eventually(lambda: [at for _, at in file.all()] == [5002.0, 5002.0])


def test_the_command_gives_up_on_the_lock_of_the_keys_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "WRITE_PATIENCE_S", 0.1)
    path = tmp_path / "keys.json"
    settings = config.load(
        {"ORCHESTRATOR_API_KEYS_FILE": str(path), "ORCHESTRATOR_KEY_PEPPER": PEPPER}
    )
    options = argparse.Namespace(action="create", tenant="acme", scope=None, rate=None, expires=0)
    with (
        taken(tmp_path / "keys.json.lock"),
        pytest.raises(ConfigError, match=f"fuser {path}.lock"),
    ):
        keys_command.run(settings, options)
    assert keys_command.run(settings, options) == 0
