"""What is remembered of accounts, within bounds that no stranger can fill at others' cost."""

from collections import OrderedDict
from typing import Generic, TypeVar

from orchestrator.limits.accounts import ADDRESS

MOST = 10_000
"""How many accounts of a kind are remembered; the one unseen for longest makes room."""

V = TypeVar("V")


class Known(Generic[V]):
    """Something of each account, addresses apart from callers with a name.

    Anybody may have any number of addresses, and so only addresses are forgotten for them.
    """

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, V] = OrderedDict()
        self._named: OrderedDict[str, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses) + len(self._named)

    def get(self, account: str) -> V | None:
        """Return what is known of an account."""
        return self._kind(account).get(account)

    def put(self, account: str, value: V) -> None:
        """Know this of an account, which has just come. Not to be called by two at once."""
        kind = self._kind(account)
        kind[account] = value
        kind.move_to_end(account)
        if len(kind) > MOST:
            kind.popitem(last=False)

    def _kind(self, account: str) -> OrderedDict[str, V]:
        return self._addresses if account.startswith(ADDRESS) else self._named
