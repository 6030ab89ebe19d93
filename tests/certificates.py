"""Certificates that nobody vouches for."""

import subprocess
from pathlib import Path

from tests.needs import needs


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 in ``folder``; return its path and that of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [needs("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
