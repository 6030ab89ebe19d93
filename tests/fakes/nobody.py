"""A service for tests that are not about tenants: all that they ask is nobody's."""

from functools import partial
from inspect import signature
from typing import Any

from orchestrator.service import Service


class Nobodys:
    """The service, which is told for each call that its tenant is nobody."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._service, name)
        asks_whose = callable(found) and "tenant" in signature(found).parameters
        return partial(found, tenant="") if asks_whose else found
