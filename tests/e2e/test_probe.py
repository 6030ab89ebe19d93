"""The probe by which an image asks whether its own service lives."""

import subprocess
import sys
from pathlib import Path

from tests.certificates import self_signed
from tests.served import environment, free_port, serve


def probe(port: int, **environ: str) -> int:
    command = [sys.executable, "-m", "orchestrator.probe"]
    env = environment(PORT=str(port), **environ)
    return subprocess.run(command, env=env, timeout=30).returncode


def test_it_succeeds_while_the_service_lives_past_any_proxy() -> None:
    with serve() as server:
        assert probe(server.port, http_proxy=f"http://127.0.0.1:{free_port()}") == 0
    assert probe(server.port) == 1


def test_it_speaks_tls_where_the_service_does_whatever_its_certificate(tmp_path: Path) -> None:
    certificate, key = map(str, self_signed(tmp_path))
    tls = {"ORCHESTRATOR_TLS_CERT": certificate, "ORCHESTRATOR_TLS_KEY": key}
    with serve(**tls) as server:
        assert probe(server.port, **tls) == 0
        assert probe(server.port) == 1
