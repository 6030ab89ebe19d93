"""A user's own Python callable as a model, run in native threads."""

import importlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from orchestrator.backends.base import Finish, Message, Pieces
from orchestrator.backends.native import Channel, NativeThreads
from orchestrator.backends.text import AnswerText
from orchestrator.errors import ConfigError, UpstreamError
from orchestrator.events import FinishReason
from orchestrator.job import GenerateRequest
from orchestrator.stop import StopSignal

_END = object()

_OPTIONS = (
    "prompt",
    "messages",
    "session_id",
    "metadata",
    "system",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "stopped",
)

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)

_log = logging.getLogger("orchestrator")


class PythonBackend:
    """Answers with what ``package.module:callable`` returns or yields.

    The callable returns a str, or yields many. Its first positional parameter is the prompt;
    further ones get what their names say: messages (a list of {"role", "content"}), session_id,
    metadata, system, max_tokens, temperature, top_p, stop, seed, and stopped, a function that
    returns True once nobody wants the answer any more. ``**options`` gets all of them. What the
    client doesn't say is None, or the parameter's own default.

    It runs in one of ``max_threads`` native threads, so that it may compute. A stop ends the
    answer at once, and the generator at its next yield; until then it holds its thread, and with
    all threads held further calls wait.
    """

    def __init__(self, path: str, max_threads: int) -> None:
        """Raises ConfigError where ``path`` names no callable that can be called so."""
        self.name = path
        self._call = _Call(path)
        self._threads = NativeThreads(max_threads)

    def stream(
        self, request: GenerateRequest, messages: Sequence[Message], stop: StopSignal
    ) -> Pieces:
        """Yield the callable's texts. Raises UpstreamError or Stopped."""
        channel = Channel()

        def stopped() -> bool:
            return stop.requested or channel.closed

        options = _options(request, messages) | {"stopped": stopped}
        task = partial(_answer, self._call, options, channel, stopped)
        try:
            with stop.waking(channel.wake):
                self._threads.submit(task)
                while True:
                    items = channel.take()
                    for item in items:
                        stop.check()
                        if item is _END:
                            yield Finish(FinishReason.STOP)
                            return
                        if isinstance(item, BaseException):
                            raise _failure(self.name, item)
                        yield item
                    stop.check()
                    # A callable that never waits must not keep others waiting here.
                    time.sleep(0)
        finally:
            channel.close()
            self._threads.withdraw(task)


class _Call:
    """A callable, and which options it wants."""

    def __init__(self, path: str) -> None:
        self._function = _load(path)
        try:
            parameters = list(inspect.signature(self._function).parameters.values())
        except (TypeError, ValueError):
            raise ConfigError(
                f"{path}: its parameters can't be read; wrap it in a function."
            ) from None
        self._takes_prompt = bool(parameters) and parameters[0].kind in _POSITIONAL
        if self._takes_prompt:
            _check_first(path, parameters.pop(0))
        # Each with whether it has a default, which then stands for what a client doesn't say.
        self._wanted: dict[str, bool] = {}
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                known = _OPTIONS[1:] if self._takes_prompt else _OPTIONS
                self._wanted = dict.fromkeys(known, False) | self._wanted
            elif parameter.name in _OPTIONS and parameter.kind in _BY_NAME:
                self._wanted[parameter.name] = parameter.default is not parameter.empty
            else:
                _check_optional(path, parameter)

    def __call__(self, options: Mapping[str, Any]) -> Any:
        """Call it with those of ``options`` that it wants."""
        prompt = (options["prompt"],) if self._takes_prompt else ()
        wanted = {
            name: options[name]
            for name, has_default in self._wanted.items()
            if not (has_default and options[name] in (None, []))
        }
        return self._function(*prompt, **wanted)


def _load(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{path}: {module_name} can't be imported ({type(error).__name__}: {error})."
        ) from error
    try:
        function: Callable[..., Any] = attrgetter(name)(module)
    except AttributeError:
        raise ConfigError(f"{path}: {module_name} has no {name}.") from None
    if not callable(function):
        raise ConfigError(f"{path}: {name} can't be called, it is of type {_type_name(function)}.")
    for form in (function, type(function).__call__):
        if inspect.iscoroutinefunction(form) or inspect.isasyncgenfunction(form):
            raise ConfigError(
                f"{path}: {name} is async; write it with def, it has a thread of its own."
            )
    return function


def _check_first(path: str, parameter: inspect.Parameter) -> None:
    if parameter.name in _OPTIONS[1:] and parameter.kind is not parameter.VAR_POSITIONAL:
        raise ConfigError(
            f"{path}: the first parameter is always the prompt, so {parameter.name} must come "
            "after it."
        )


def _check_optional(path: str, parameter: inspect.Parameter) -> None:
    required = parameter.default is parameter.empty
    if required and parameter.kind is not parameter.VAR_POSITIONAL:
        raise ConfigError(
            f"{path}: nothing is known to pass as {parameter.name}; a parameter after the prompt "
            f"can be {', '.join(_OPTIONS[1:-1])} or {_OPTIONS[-1]}."
        )


def _options(request: GenerateRequest, messages: Sequence[Message]) -> dict[str, Any]:
    return {
        "prompt": request.prompt,
        "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
        "session_id": request.session_id,
        "metadata": dict(request.metadata),
        "system": request.system,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop),
        "seed": request.seed,
    }


def _answer(
    call: _Call, options: Mapping[str, Any], channel: Channel, stopped: Callable[[], bool]
) -> None:
    """Run the callable, in a native thread, and hand over what it says."""
    try:
        if not stopped():
            _hand_over(call(options), channel, stopped)
        channel.put(_END)
    except BaseException as error:
        channel.put(error)


def _hand_over(result: Any, channel: Channel, stopped: Callable[[], bool]) -> None:
    answer = AnswerText()
    try:
        for piece in _pieces(result):
            if stopped():
                return
            if not isinstance(piece, str):
                raise _not_text("yielded", piece)
            if text := answer.add(piece):
                channel.put(text)
        if rest := answer.rest():
            channel.put(rest)
    finally:
        if inspect.isgenerator(result):
            result.close()


def _pieces(result: Any) -> Iterable[Any]:
    if isinstance(result, str):
        return (result,)
    if isinstance(result, Iterable) and not isinstance(result, bytes | Mapping):
        return result
    raise _not_text("returned", result)


def _not_text(did: str, value: Any) -> UpstreamError:
    return UpstreamError(
        f"The model callable {did} {_type_name(value)} where it must give str; its author must "
        "correct it.",
        reason="callable",
    )


def _type_name(value: Any) -> str:
    return type(value).__name__


def _failure(name: str, error: BaseException) -> UpstreamError:
    if isinstance(error, UpstreamError):
        return error
    _log.error(
        "The model callable %s failed; with ORCHESTRATOR_LOG_MESSAGES=yes the log has what its "
        "error says.",
        name,
        exc_info=error,
    )
    return UpstreamError("The model callable failed; the server's log says why.", reason="callable")
