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

    All that it makes belongs to its ``tenant``, and it sees nothing else. ``name`` is the subject
    of its token, or the id of its key, which then is ``key_id`` as well: limits count by it.
    ``rate`` is a limit of its own, as in ``600/minute``. ``expires_at`` is when the credentials
    end, in seconds since the epoch.
    """

    tenant: str
    name: str
    scopes: frozenset[Scope] = frozenset(Scope)
    rate: str | None = None
    expires_at: float | None = None
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it may do this. Who may ask models may read, and an admin may do all."""
        implied = {scope, Scope.ADMIN} | ({Scope.INFER} if scope is Scope.READ else set())
        return not implied.isdisjoint(self.scopes)


ANYONE = Caller(tenant="", name="")
"""Who asks where no credentials are asked for: it may do all."""
STRANGER = Caller(tenant="", name="", scopes=frozenset())
"""Who asks where credentials are asked for, and has not shown any yet: it may do nothing."""
