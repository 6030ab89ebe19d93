"""Which names the service answers to: those in the settings, or any where none are."""

from collections.abc import Collection, Sequence

from flask import Flask, request

from orchestrator.errors import InvalidRequest

PROBED = "health"
"""The blueprint that probes and load balancers ask by address. It says the same to everyone."""


def is_trusted(host: str, trusted: Collection[str]) -> bool:
    """Whether a Host header names one of ``trusted``; its port counts where that has one.

    ``.example.com`` stands for all names below it.
    """
    host = host.lower()
    if host.startswith("."):
        return False
    if host in trusted:
        return True
    name, colon, port = host.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        host = name
        if host in trusted:
            return True
    if host.startswith("["):
        return False
    label, dot, above = host.partition(".")
    while dot:
        if label and f".{above}" in trusted:
            return all(host.split("."))
        label, dot, above = above.partition(".")
    return False


def register(app: Flask, trusted: Sequence[str]) -> None:
    """Refuse requests whose Host is none of ``trusted``; with none there, take any.

    To be registered before all other hooks: nothing is to be done for such a request.
    """
    if not trusted:
        return
    names = frozenset(trusted)

    @app.before_request
    def _check() -> None:
        if request.blueprint == PROBED:
            return
        if not is_trusted(request.environ.get("HTTP_HOST", ""), names):
            raise InvalidRequest(
                "This server does not go by that name. Call it by one that "
                "ORCHESTRATOR_TRUSTED_HOSTS has."
            )
