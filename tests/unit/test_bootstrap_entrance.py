"""What lets callers in, as the settings say: a key that checks nothing well stops the start."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from orchestrator import config
from orchestrator.bootstrap.entrance import build_entrance
from orchestrator.errors import ConfigError

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)
CURVE = ec.generate_private_key(ec.SECP256R1())
PEM = serialization.Encoding.PEM


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(PEM, form)


PRIVATE = RSA.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def built(path: Path, algorithm: str = "RS256") -> object:
    return build_entrance(
        config.load(
            {"ORCHESTRATOR_JWT_KEY_FILE": str(path), "ORCHESTRATOR_JWT_ALGORITHM": algorithm}
        )
    )


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (CURVE, "ES256")])
def test_a_public_key_of_the_algorithm_is_taken(
    tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: str
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public(key))
    assert built(path, algorithm)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRIVATE, "private key"),
        (public(SHORT), "fewer than 2048 bits"),
        (public(CURVE), "no public key for RS256"),
        (b"no key", "no public key for RS256"),
    ],
)
def test_any_other_stops_the_start_in_a_sentence(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=f"ORCHESTRATOR_JWT_KEY_FILE: .*{said}"):
        built(path)


def test_a_file_that_is_not_there_stops_the_start_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        built(tmp_path / "nowhere.pem")


def built_for(url: str) -> object:
    return build_entrance(config.load({"ORCHESTRATOR_JWT_JWKS_URL": url}))


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "10.1",
        "167772161",
        "0x0a000001",
        "012.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "2130706433",
        "[fd00::1]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
    ],
)
def test_an_issuer_that_is_never_called_stops_the_start(host: str) -> None:
    with pytest.raises(ConfigError, match=r"ORCHESTRATOR_JWT_JWKS_URL: .*no public address"):
        built_for(f"https://{host}:8443/keys?key=hidden")


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example/keys",
        "https://1.1.1.1/keys",
        "https://[2606:4700:4700::1111]/keys",
        "https://127.0.0.1/keys",
        "http://127.0.0.2:8080/keys",
        "http://[::1]:8080/keys",
        "http://localhost:8080/keys",
    ],
)
def test_an_issuer_that_may_be_called_is_taken(url: str) -> None:
    assert built_for(url)
