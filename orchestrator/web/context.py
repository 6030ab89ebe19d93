"""What every door works with: the service and its companions, kept on the Flask app."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from werkzeug.local import LocalProxy

from orchestrator.auth.guard import Entrance
from orchestrator.caller import Caller
from orchestrator.limits.limiter import Limiter
from orchestrator.schemas import SubmitReader
from orchestrator.service import Service
from orchestrator.settings import Settings
from orchestrator.web.connections import Connections
from orchestrator.web.request import asked

EXTENSION = "orchestrator"


@dataclass(frozen=True, slots=True)
class Context:
    """The service behind the doors, and what the doors share.

    Without an ``entrance`` anyone may come in, and without a ``limiter`` as often as they like.
    """

    settings: Settings
    service: Service
    reader: SubmitReader
    connections: Connections
    entrance: Entrance | None = None
    limiter: Limiter | None = None


def context() -> Context:
    """Return the context of the app that answers now.

    Past the proxy, which costs five times as much at each look.
    """
    app = cast("LocalProxy[Flask]", current_app)._get_current_object()
    found: Context = app.extensions[EXTENSION]
    return found


def caller() -> Caller:
    """Return who has sent the request that is answered now."""
    return asked().caller


def may_stay() -> Callable[[], bool]:
    """Return a function that tells whether the caller may still watch what it has opened."""
    entrance = context().entrance
    return entrance.lasting(caller()) if entrance else lambda: True


def tenant() -> str:
    """Return whose requests and sessions the request that is answered now may see."""
    return caller().tenant
