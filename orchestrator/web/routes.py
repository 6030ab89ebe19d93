"""Finds the view for an address: by a table for plain addresses, by Werkzeug for all others."""

from collections.abc import Callable
from typing import Any

from flask import Request
from werkzeug.routing import Map, MapAdapter, Rule, UnicodeConverter


class RequestId(UnicodeConverter):
    """What stands for an id in an address. UUIDs are read in either case (RFC 9562)."""

    def to_python(self, value: str) -> str:
        """Return the id as we write it."""
        return value.lower()


class Routes:
    """The rules of a map; in a table those that vary in nothing, or in their last part alone.

    Werkzeug would find these as well, but it walks through an address part by part, which is a
    twelfth of all that the app adds to a bare server.
    """

    def __init__(self, rules: Map) -> None:
        self.map = rules
        self._whole: dict[tuple[str, str], Rule] = {}
        self._begun: dict[tuple[str, str], tuple[Rule, str, Callable[[str], Any]]] = {}
        for rule in rules.iter_rules():
            if not rule.websocket:
                self._add(rule)

    def _add(self, rule: Rule) -> None:
        begin, has_variable, variable = rule.rule.partition("<")
        kind, _, name = variable.removesuffix(">").rpartition(":")
        for method in rule.methods or ():
            if not has_variable:
                self._whole[method, begin] = rule
            elif begin.endswith("/") and name in rule.arguments:
                read = self.map.converters[kind or "default"](self.map).to_python
                self._begun[method, begin] = rule, name, read

    def find(self, method: str, path: str) -> tuple[Rule, dict[str, Any]] | None:
        """Return the rule for an address, with the value of what varies in it."""
        rule = self._whole.get((method, path))
        if rule:
            return rule, {}
        begin, slash, value = path.rpartition("/")
        found = self._begun.get((method, begin + slash))
        if found and value:
            rule, name, read = found
            return rule, {name: read(value)}
        return None


class Adapter(MapAdapter):
    """Finds the rule of a request for no other protocol, in the table where it is there.

    Only a redirect would name the server, and there is none.
    """

    def __init__(self, routes: Routes, request: Request) -> None:
        name = request.environ["SERVER_NAME"]
        super().__init__(
            routes.map, name, request.root_path, "", request.scheme, request.path, request.method
        )
        self._routes = routes

    def match(self, *args: Any, **options: Any) -> Any:
        """Return the rule and its values as Flask asks for them, or as werkzeug does."""
        if options == {"return_rule": True} and not args:
            found = self._routes.find(self.default_method, self.path_info)
            if found:
                return found
        return super().match(*args, **options)
