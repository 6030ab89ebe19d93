"""deploy/nginx.conf in a real nginx, in front of servers of this machine."""

import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.needs import needs
from tests.served import ROOT, START_S, Served, free_port

CONF = ROOT / "deploy" / "nginx.conf"


def replaced(pattern: str, by: str, text: str) -> str:
    """Replace what has to be there."""
    text, count = re.subn(pattern, by, text)
    assert count, f"deploy/nginx.conf has no {pattern}"
    return text


def rendered(folder: Path, port: int, upstreams: Sequence[int], **directives: str) -> Path:
    """Write the configuration for this machine: other addresses, and ``directives`` changed."""
    text = CONF.read_text(encoding="utf-8")
    servers = "".join(f"server 127.0.0.1:{one} fail_timeout=2s;" for one in upstreams)
    text = replaced(r"server web1:8080 .*\n\s*server web2:8080 .*", servers, text)
    text = replaced(r"listen 8080;", f"listen 127.0.0.1:{port};", text)
    text = replaced(r"/tmp/", f"{folder}/", text)
    for name, value in directives.items():
        text = replaced(rf"(?m)^(\s*){name} .*;$", rf"\g<1>{name} {value};", text)
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path


def command(conf: Path, *arguments: str) -> list[str]:
    """The command line of nginx with ``conf``, which writes nothing outside its folder."""
    # Started by root, nginx gives its processes to nobody, who can't reach the folder.
    user = f" user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    return [
        *(needs("nginx"), "-p", str(conf.parent), "-c", str(conf), "-e", "stderr"),
        *("-g", f"daemon off;{user}", *arguments),
    ]


@contextmanager
def proxy(*upstreams: int, **directives: str) -> Iterator[Served]:
    """Run nginx in front of the ports ``upstreams`` while inside."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        conf = rendered(folder, port, upstreams, **directives)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command(conf), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        served = Served(port, process, folder / "log")
        try:
            await_listening(served)
            yield served
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_listening(served: Served) -> None:
    """Wait until nginx has its processes, by the file that it writes then."""
    deadline = time.monotonic() + START_S
    while not (served.log_path.parent / "nginx.pid").exists():
        assert served.process.poll() is None, f"nginx did not start:\n{served.log}"
        assert time.monotonic() < deadline, f"nginx did not start in time:\n{served.log}"
        time.sleep(0.01)
