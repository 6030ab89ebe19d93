"""The WSGI application: `gunicorn` serves it, `flask --app app run` as well."""

from orchestrator.web import create_app

app = create_app()
