"""Health: for people, for probes, for load balancers."""

from flask import Blueprint, Response

from orchestrator import __version__
from orchestrator.web.context import context
from orchestrator.web.json_io import json_response

bp = Blueprint("health", __name__)


@bp.get("/health")
@bp.get("/api/v1/health")
def health() -> Response:
    """Say that the service is up, and what answers prompts."""
    model = context().service.models[0]
    return json_response(
        {
            "status": "healthy",
            "service": "web-api",
            "version": __version__,
            "model": model.id,
            "backend": model.backend,
        }
    )


@bp.get("/health/live")
def live() -> Response:
    """Say that the process answers: restart it when this fails."""
    return json_response({"status": "healthy"})


@bp.get("/health/ready")
def ready() -> Response:
    """Say whether to send requests here."""
    context().service.check()
    return json_response({"status": "ready"})
