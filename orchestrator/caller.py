"""Who asks: whose requests they see, what they may do, and whom the limits count."""

from enum import StrEnum
from typing import NamedTuple


class Scope(StrEnum):
    """What a caller may do: ask models, read what there is, look after the service."""

    INFER = "infer"
    READ = "read"
    ADMIN = "admin"


class Caller(NamedTuple):
    """One caller, as its credentials say.

    All that it makes belongs to its ``tenant``, and it sees nothing else. ``name`` is the id of
    its key, or the subject of its token: limits count by it. ``rate`` is a limit of its own, as
    in ``600/minute``. ``expires_at`` is when the credentials end, in seconds since the epoch.
    """

    tenant: str
    name: str
    scopes: frozenset[Scope] = frozenset(Scope)
    rate: str | None = None
    expires_at: float | None = None


ANYONE = Caller(tenant="", name="")
"""Who asks where no credentials are asked for."""
