"""The processes of local models: one for each model, shared by all that name it."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from orchestrator.backends.engine.environment import for_engine
from orchestrator.backends.engine.models import ModelSource, model_source
from orchestrator.backends.engine.process import EngineProcess
from orchestrator.errors import ConfigError

_PACKAGE = "xllamacpp"


class Engines:
    """Makes the process of each model once, so that all who name it with the same room share it.

    Models are downloaded from ``hub_url`` to ``cache_home``, where ``~`` is the user's home. Of
    ``environ`` the processes get what is no secret.
    """

    def __init__(self, cache_home: Path, hub_url: str, environ: Mapping[str, str]) -> None:
        self._cache_home = cache_home
        self._hub_url = hub_url
        self._environment = for_engine(environ)
        self._processes: dict[tuple[ModelSource, int, int], EngineProcess] = {}

    def process(self, model: str, *, slots: int, context: int, where: str) -> EngineProcess:
        """Return the process that answers for ``model``, which does not run yet.

        Raises ConfigError, which says ``where`` the model is named, where there is no such model
        or no engine.
        """
        if find_spec(_PACKAGE) is None:
            raise ConfigError(
                f"The engine needs {_PACKAGE}, which is not installed: run 'pip install -r "
                "requirements-local.txt', or 'ORCHESTRATOR_BACKEND=engine make install'."
            )
        source = model_source(model, self._cache(), self._hub_url, where)
        room = (source, slots, context)
        if room not in self._processes:
            self._processes[room] = EngineProcess(*room, self._environment)
        return self._processes[room]

    def start(self) -> None:
        """Begin to fetch and load every model, in the background."""
        for process in self._processes.values():
            process.start()

    def close(self) -> None:
        """End every process, at once."""
        for process in self._processes.values():
            process.close()

    def _cache(self) -> Path:
        try:
            return self._cache_home.expanduser() / "orchestrator" / "models"
        except RuntimeError:
            raise ConfigError(
                "XDG_CACHE_HOME is not set, and this user has no home: set it to a folder."
            ) from None
