"""Bringing a model to this machine, from a real server that breaks off, lies or isn't there."""

import fcntl
import hashlib
import os
import pty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from orchestrator.backends.engine.download import download
from orchestrator.backends.engine.models import model_source
from orchestrator.errors import UpstreamError
from tests.fakes.hub import Hub, serving_hub
from tests.served import free_port

CONTENT = b"GGUF" + os.urandom(1_000_000)
HALF = len(CONTENT) // 2
NAME = "hf:owner/repo/model.gguf"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving_hub(CONTENT) as hub:
        yield hub


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.gguf"


def never() -> bool:
    return False


def bring(hub: Hub, target: Path, cancelled: Callable[[], bool] = never) -> None:
    download(hub.file_url, target, None, cancelled)


def refusal(hub: Hub, target: Path) -> str:
    with pytest.raises(UpstreamError) as caught:
        bring(hub, target)
    assert not target.exists()
    assert caught.value.message.startswith("The model can't be downloaded: ")
    assert caught.value.message.endswith(".")
    return caught.value.message


def part_of(target: Path) -> Path:
    return target.with_name("model.gguf.part")


def test_a_file_comes_whole_and_its_size_is_said_first(
    hub: Hub, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bring(hub, target)

    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Downloading model.gguf from 127.0.0.1: 1.0 MB."
    assert lines[-1].startswith("100% of 1.0 MB")


def test_a_terminal_shows_a_bar(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", buffering=0) as shown, os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        bring(hub, target)
        text = ""
        while "100%" not in text:
            text += shown.read(10_000).decode()
    lines = text.splitlines()
    assert lines[0] == "Downloading model.gguf from 127.0.0.1: 1.0 MB."
    assert f"[{'#' * 30}] 100%" in text


def test_a_connection_that_breaks_is_gone_on_with_where_it_broke(hub: Hub, target: Path) -> None:
    hub.cuts = [HALF, 1000]

    bring(hub, target)

    assert target.read_bytes() == CONTENT
    assert hub.asked == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_what_came_before_a_failure_is_kept_for_the_next_time(hub: Hub, target: Path) -> None:
    hub.cuts = [HALF, 0]

    assert "what has come is kept" in refusal(hub, target)
    assert part_of(target).stat().st_size == HALF

    bring(hub, target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[-1] == f"bytes={HALF}-"


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, target: Path) -> None:
    hub.ranges, hub.cuts = False, [HALF]

    bring(hub, target)

    assert target.read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_not_asked_for_again(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)

    bring(hub, target)

    assert target.read_bytes() == CONTENT
    assert hub.asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("length", [HALF, len(CONTENT)])
def test_a_part_of_something_else_is_thrown_away_and_then_it_works(
    hub: Hub, target: Path, length: int
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(bytes(length))

    assert "wrong checksum" in refusal(hub, target)
    assert part_of(target).stat().st_size == 0

    bring(hub, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [True, False], ids=["and its checksum", "alone"])
def test_a_part_that_is_too_long_is_begun_anew(hub: Hub, target: Path, checksum: bool) -> None:
    """A server may say that there is no such range, and no checksum with it."""
    hub.checksum_without_range = checksum
    target.parent.mkdir()
    part_of(target).write_bytes(bytes(len(CONTENT) + 5))

    bring(hub, target)

    assert target.read_bytes() == CONTENT
    assert hub.asked == [f"bytes={len(CONTENT) + 5}-", None]


def test_a_model_that_another_process_finished_meanwhile_is_left_alone(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.parent.mkdir()
    part = part_of(target)
    part.write_bytes(CONTENT)
    lock, finished = fcntl.flock, []

    def lock_too_late(file: BinaryIO, how: int) -> None:
        if not finished:
            finished.append(part.replace(target))
        lock(file, how)

    monkeypatch.setattr("orchestrator.backends.engine.download.fcntl.flock", lock_too_late)
    bring(hub, target)

    assert target.read_bytes() == CONTENT
    assert hub.asked == []
    assert not part.exists()


def test_a_wrong_checksum_is_no_model(hub: Hub, target: Path) -> None:
    hub.checksum = hashlib.sha256(b"another").hexdigest()
    assert "wrong checksum" in refusal(hub, target)


def test_a_checksum_of_our_own_counts_more_than_the_hubs(hub: Hub, target: Path) -> None:
    with pytest.raises(UpstreamError, match="wrong checksum"):
        download(hub.file_url, target, hashlib.sha256(b"another").hexdigest(), never)


def test_a_file_that_nothing_vouches_for_is_refused(hub: Hub, target: Path) -> None:
    hub.checksum = None
    assert "says no checksum" in refusal(hub, target)
    assert part_of(target).stat().st_size == 0


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "without a login"),
        (404, "has no model; check its name"),
        (418, "HTTP status 418"),
        (429, "HTTP status 429"),
        (503, "HTTP status 503"),
    ],
)
def test_a_refusal_says_what_it_means(hub: Hub, target: Path, status: int, said: str) -> None:
    hub.status = status
    assert said in refusal(hub, target)


def test_no_network_is_said_to_be_none(target: Path) -> None:
    hub = Hub(CONTENT, url=f"http://127.0.0.1:{free_port()}")
    assert "can't be reached; this machine may be offline" in refusal(hub, target)
    hub.url = "http://no-such-host.invalid"
    assert "can't be found; this machine may be offline" in refusal(hub, target)


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(hub: Hub, target: Path) -> None:
    hub.claimed_size = 10**16
    assert "10,000,000,000.0 MB, and the disk has" in refusal(hub, target)
    assert part_of(target).stat().st_size == 0


def test_a_folder_that_cannot_be_written_is_named(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "set XDG_CACHE_HOME" in refusal(hub, tmp_path / "file" / "model.gguf")


def test_a_download_ends_when_it_is_told_to(hub: Hub, target: Path) -> None:
    with pytest.raises(UpstreamError, match="stopped"):
        bring(hub, target, cancelled=lambda: True)
    assert 0 < part_of(target).stat().st_size < len(CONTENT)


def test_a_name_of_the_hub_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    source = model_source(NAME, tmp_path, hub.url, "MODEL")
    path = source.fetch(never)

    assert path.read_bytes() == CONTENT
    assert source.fetch(never) == path
    assert model_source(NAME, tmp_path, hub.url, "MODEL").fetch(never) == path
    assert len(hub.asked) == 1


def test_small_is_a_name_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match=r"has no qwen.*\.gguf; check its name"):
        model_source("small", tmp_path, hub.url, "MODEL").fetch(never)
