"""A caller: whose requests it sees, what it may do, and by what name limits count it."""

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
        """Whether it may do this. INFER includes READ, and ADMIN everything."""
        implied = {scope, Scope.ADMIN} | ({Scope.INFER} if scope is Scope.READ else set())
        return not implied.isdisjoint(self.scopes)


ANYONE = Caller(tenant="", name="")
"""The caller where no credentials are asked for: it may do everything."""
STRANGER = Caller(tenant="", name="", scopes=frozenset())
"""The caller that has yet to show its credentials, where they are asked for: it may do nothing."""
