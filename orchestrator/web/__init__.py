"""The doors over HTTP: a Flask app of blueprints around one service."""

from flask import Flask, Response

from orchestrator import config
from orchestrator.bootstrap.entrance import build_entrance
from orchestrator.bootstrap.limiter import build_limiter
from orchestrator.bootstrap.service import build_reader, build_service
from orchestrator.headers import STRICT_TRANSPORT
from orchestrator.settings import Settings
from orchestrator.web import auth, errors, health, hosts, limits, origins, playground, rest, ws
from orchestrator.web.app import App
from orchestrator.web.connections import Connections
from orchestrator.web.context import EXTENSION, Context
from orchestrator.web.docs import page as docs
from orchestrator.web.openapi import document as openapi
from orchestrator.web.ws_guard import SERVER_OPTIONS

API = "/api/v1"


def create_app(settings: Settings | None = None) -> Flask:
    """Build the app with its service running. Raises ConfigError."""
    settings = settings or config.load()
    service = build_service(settings)
    entrance = build_entrance(settings)
    limiter = build_limiter(settings)
    app = App(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = SERVER_OPTIONS
    app.extensions[EXTENSION] = Context(
        settings,
        service,
        build_reader(settings, service),
        Connections(settings.max_connections * 3 // 4),
        entrance,
        limiter,
    )
    errors.register(app)
    hosts.register(app, settings.trusted_hosts)
    if settings.tls_cert:
        app.after_request(_by_tls_alone)
    if entrance:
        auth.register(app, entrance)
    origins.register(app, settings.cors_origins)
    if limiter:
        # After those two: it counts whom the one knows, and the other marks its refusals, too.
        limits.register(app, limiter)
    app.register_blueprint(rest.bp, url_prefix=API)
    app.register_blueprint(auth.bp, url_prefix=API)
    app.register_blueprint(ws.bp, url_prefix=API)
    app.register_blueprint(openapi.bp, url_prefix=API)
    app.register_blueprint(health.bp)
    app.register_blueprint(docs.bp)
    app.register_blueprint(playground.bp)
    service.start()
    if limiter:
        limiter.start()
    return app


def _by_tls_alone(response: Response) -> Response:
    response.headers.add(*STRICT_TRANSPORT)
    return response
