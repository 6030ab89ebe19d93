"""Sessions, models and health, as the OpenAPI document tells it."""

from orchestrator import answers
from orchestrator.strict_json import Json
from orchestrator.web.openapi import samples
from orchestrator.web.openapi.parts import faults, operation, reply

_sessions = operation(
    "Converse",
    "listSessions",
    "List sessions",
    "Last used first.",
    reply(200, "A page.", answers.SessionListSchema, {"A page": samples.SESSION_LIST}),
    faults("bad_limit", "bad_cursor", "redis_away"),
    parameters=("Limit", "SessionCursor"),
)

_session = operation(
    "Converse",
    "getSession",
    "Read a conversation",
    "A session with its messages in order: what the model is told before the next prompt.",
    reply(200, "The session.", answers.ConversationSchema, {"One turn": samples.CONVERSATION}),
    faults("no_session", "redis_away"),
    parameters=("SessionIdInPath",),
)

_delete_session = operation(
    "Converse",
    "deleteSession",
    "Forget a conversation",
    "Its requests are kept; the next prompt of the session is the first again.",
    reply(204, "It is forgotten."),
    faults("no_session", "session_in_progress", "redis_away"),
    parameters=("SessionIdInPath",),
)

_models = operation(
    "Service",
    "listModels",
    "List the models",
    "What a submit may name as `model`.",
    reply(200, "The models.", answers.ModelListSchema, {"One model": samples.MODEL_LIST}),
    faults(),
)


def _health(name: str) -> Json:
    return operation(
        "Service",
        name,
        "Ask whether the service is up",
        "For people and load balancers: it also says what answers prompts.",
        reply(200, "It is.", answers.HealthSchema, {"Healthy": samples.HEALTH}),
        faults(is_open=True),
    )


_live = operation(
    "Service",
    "getLiveness",
    "Ask whether the process answers",
    "For a platform that restarts what doesn't.",
    reply(200, "It does.", answers.LiveSchema, {"Alive": {"status": "healthy"}}),
    faults(is_open=True),
)

_ready = operation(
    "Service",
    "getReadiness",
    "Ask whether to send requests here",
    "For a platform that stops a server: from then on it takes no new ones.",
    reply(200, "Send them.", answers.ReadySchema, {"Ready": {"status": "ready"}}),
    faults("restarting", "no_worker", "redis_away", is_open=True),
)

_openapi = operation(
    "Service",
    "getOpenApi",
    "Get this document",
    "OpenAPI 3.1, for generators of clients and for tests.",
    reply(200, "The document.", {"type": "object"}, headers=("ETag", "Cache-Control")),
    reply(304, "You have it already.", headers=("ETag", "Cache-Control")),
    faults(),
    parameters=("IfNoneMatch",),
)

PATHS: dict[str, Json] = {
    "/api/v1/sessions": {"get": _sessions},
    "/api/v1/sessions/{session_id}": {"get": _session, "delete": _delete_session},
    "/api/v1/models": {"get": _models},
    "/api/v1/health": {"get": _health("getHealth")},
    "/health": {"get": _health("getHealthAtRoot")},
    "/health/live": {"get": _live},
    "/health/ready": {"get": _ready},
    "/api/v1/openapi.json": {"get": _openapi},
}
