"""Whether the server can listen at the address that it is to serve."""

import errno
import socket


def fault(host: str, port: int, by_bind: bool = False) -> str | None:
    """Return a sentence on why nothing can listen there, or None.

    ``by_bind`` says that gunicorn's ``--bind`` names the address, and no setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                other = port + 1 if port < 65535 else 8080
                choice = f"--bind {_joined(host, other)}" if by_bind else f"PORT={other}"
                return f"Port {port} is taken. Choose another one, as in {choice}."
            here = (
                f"--bind {_joined(host, port)}"
                if by_bind
                else f"ORCHESTRATOR_HOST={host}, PORT={port}"
            )
            return f"Nothing can listen on {here} ({error.strerror})."
    return None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
