"""What the server prints once it serves: the address, the model, and a first request to paste."""

from collections.abc import Mapping

from orchestrator import __version__
from orchestrator.settings import Settings

_ASKED = "_ORCHESTRATOR_GREETING"


def asked(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server that is to greet."""
    return {**environ, _ASKED: "yes"}


def is_asked(environ: Mapping[str, str]) -> bool:
    """Whether a server with this environment is to greet: gunicorn started directly only logs."""
    return _ASKED in environ


def text(settings: Settings, command: str = "make run") -> str:
    """Return what is said: where, which model, a first request, how to attach a model.

    ``command`` is what has started this.
    """
    is_echo = settings.backend == "echo" and not settings.routes
    key = "-H 'X-API-Key: ...' " if settings.asks_for_credentials else ""
    lines = [
        f"Orchestrator {__version__} at {settings.address}",
        f"Model: {settings.model_name}{_note(settings)}",
        "Callers: who has a key or a token (docs/authentication.md)"
        if settings.asks_for_credentials
        else "Callers: anyone who reaches this port; ORCHESTRATOR_API_KEYS_FILE asks for keys",
        "",
        "Try:",
        f"  curl -N {settings.address}/api/v1/infer {key}-H 'Content-Type: application/json' "
        "-H 'Accept: text/event-stream' -d '{\"prompt\": \"Hello\"}'",
    ]
    if is_echo:
        lines += [
            "",
            "Attach a model:",
            "  ORCHESTRATOR_BACKEND=openai ORCHESTRATOR_MODEL=gpt-4o-mini OPENAI_API_KEY=... "
            f"{command}",
            "  ORCHESTRATOR_BACKEND=openai ORCHESTRATOR_MODEL=llama3.2 "
            f"OPENAI_BASE_URL=http://127.0.0.1:11434/v1 {command}",
            "  ORCHESTRATOR_BACKEND=anthropic ORCHESTRATOR_MODEL=claude-haiku-4-5 "
            f"ANTHROPIC_API_KEY=... {command}",
            f"  ORCHESTRATOR_BACKEND=engine ORCHESTRATOR_MODEL=model.gguf {command}",
            f"  ORCHESTRATOR_BACKEND=package.module:callable {command}",
        ]
    return "\n".join(lines) + "\n\n"


def _note(settings: Settings) -> str:
    """Return a warning where echo answers, which is not a model."""
    if settings.routes:
        return ""
    match settings.backend, settings.model:
        case "echo", _:
            return " (it repeats your prompt; it is no language model)"
        case "engine", "demo":
            return " (it says the same to every prompt; it only shows that the engine runs)"
    return ""
