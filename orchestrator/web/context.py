"""What every door works with, kept on the Flask app."""

from dataclasses import dataclass

from flask import current_app

from orchestrator.config import Settings
from orchestrator.schemas import SubmitReader
from orchestrator.service import Service
from orchestrator.web.connections import Connections

EXTENSION = "orchestrator"


@dataclass(frozen=True, slots=True)
class Context:
    """The service behind the doors, and what the doors share."""

    settings: Settings
    service: Service
    reader: SubmitReader
    connections: Connections


def context() -> Context:
    """Return the context of the app that answers now."""
    found: Context = current_app.extensions[EXTENSION]
    return found
