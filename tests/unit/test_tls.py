"""What is said of a certificate and a key that can't be served with."""

import subprocess
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.tls import fault
from tests.certificates import self_signed
from tests.needs import needs
from tests.served import environment


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    certificate, key = self_signed(tmp_path)
    return str(certificate), str(key)


def test_a_certificate_with_its_key_is_taken(pair: tuple[str, str]) -> None:
    assert fault(*pair) is None


def test_one_without_the_other_is_refused(pair: tuple[str, str]) -> None:
    assert "set both or neither" in str(fault(pair[0], None))
    assert "set both or neither" in str(fault(None, pair[1]))


def test_a_missing_file_is_named(pair: tuple[str, str]) -> None:
    assert fault("no.pem", pair[1]) == (
        "ORCHESTRATOR_TLS_CERT: no.pem can't be read (No such file or directory)."
    )
    assert fault(pair[0], "no.pem") == (
        "ORCHESTRATOR_TLS_KEY: no.pem can't be read (No such file or directory)."
    )


def test_files_that_were_swapped_are_told(pair: tuple[str, str]) -> None:
    assert "holds no certificate in PEM form" in str(fault(pair[1], pair[0]))


def test_a_key_of_another_certificate_is_told(pair: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert "is not the key of the certificate" in str(fault(pair[0], str(self_signed(other)[1])))


def test_a_key_that_is_none_is_told_and_not_quoted(pair: tuple[str, str], tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("sk-secret")
    said = str(fault(pair[0], str(junk)))
    assert "holds no key in PEM form" in said
    assert "sk-secret" not in said


def test_a_key_with_a_passphrase_is_refused_without_asking(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    command = [needs("openssl"), "pkey", "-in", pair[1], "-out", str(locked), "-aes256"]
    subprocess.run([*command, "-passout", "pass:x"], check=True, capture_output=True)
    assert "has a passphrase" in str(fault(pair[0], str(locked)))


def test_check_config_says_it_too(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"ORCHESTRATOR_TLS_CERT": pair[0], "ORCHESTRATOR_TLS_KEY": "no.pem"}
    for name, value in environment(**settings).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["check-config"]) == 1
    assert "ORCHESTRATOR_TLS_KEY: no.pem can't be read" in capsys.readouterr().err
