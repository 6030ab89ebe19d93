"""What is wrong with a Redis that fails, and what clients and the log are told."""

from redis import exceptions

from orchestrator.errors import ConfigError, PipelineUnavailable

RETRY_AFTER_S = 2
FULL_AFTER_S = 5

AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError)
NOT_NOW = {
    "MISCONF": "can't write to its disk",
    "BUSY ": "is busy with a script of someone's",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica without its primary",
    "NOREPLICAS": "has fewer replicas than it is to write to",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "TRYAGAIN": "is moving its data",
}
"""What Redis says when it answers, and can't do it now."""
_NAMED = (
    (exceptions.ReadOnlyError, "is a replica, which takes no writes"),
    (exceptions.BusyLoadingError, NOT_NOW["LOADING"]),
    (exceptions.MasterDownError, NOT_NOW["MASTERDOWN"]),
    (exceptions.AuthenticationError, "wants another password"),
)
"""The same where the client has an error of its own for it."""


def is_for_now(error: object) -> bool:
    """Whether an error is one of Redis as a whole, and will pass."""
    return isinstance(error, (*AWAY, exceptions.NoScriptError)) or _state(error) is not None


def translated(error: exceptions.RedisError) -> Exception:
    """Return the error that a client is told, or the error itself where it is a fault of ours."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return full()
    if state := _state(error):
        return PipelineUnavailable(
            f"Redis {state}, so nothing can be looked up or taken now. Try again in a moment.",
            retry_after=RETRY_AFTER_S,
        )
    return away() if is_for_now(error) else error


def away() -> PipelineUnavailable:
    """Return what is told where no answer comes."""
    return PipelineUnavailable(
        "Redis can't be reached, so nothing can be looked up or taken now. Try again in a moment.",
        retry_after=RETRY_AFTER_S,
    )


def full() -> PipelineUnavailable:
    """Return what is told where there is no room."""
    return PipelineUnavailable(
        "Redis is full: it holds as much as its maxmemory allows. Try again later, or allow more.",
        retry_after=FULL_AFTER_S,
    )


def not_admitted(error: exceptions.AuthenticationError) -> ConfigError:
    """Return what the start says to a password that is missing or wrong."""
    if "without any password" in str(error):
        return ConfigError(
            "REDIS_URL has a password, and this Redis asks its default user for none: leave it "
            "out, or name the user, as in redis://user:password@host:6379/0."
        )
    return ConfigError(
        f"REDIS_URL lets nobody in: {str(error).rstrip('.?')}. Set the password in it, as in "
        "redis://:password@host:6379/0, percent-encoded: %2F for /, %23 for #, %3F for ?."
    )


def reason(error: exceptions.RedisError) -> str:
    """Return what the log says of a Redis that can't be reached."""
    if "handshake" in f"{error.__cause__} {error.__context__}":
        return f"{error}: no TLS there? Then its address begins with redis://, not rediss://"
    return str(error)


def _state(error: object) -> str | None:
    if not isinstance(error, exceptions.RedisError):
        return None
    named = (state for kind, state in _NAMED if isinstance(error, kind))
    found = (state for word, state in NOT_NOW.items() if str(error).startswith(word))
    return next(named, None) or next(found, None)
