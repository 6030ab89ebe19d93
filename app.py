"""The WSGI application: `gunicorn` serves it, `flask --app app run` as well."""

from orchestrator import config, logs
from orchestrator.web import create_app

settings = config.load()
logs.guard(settings.secrets, settings.log_messages)
app = create_app(settings)
