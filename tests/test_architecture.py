"""The walls of the package, read from its source: floors, borders, and habits to keep."""

import ast
import graphlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import orchestrator
from orchestrator.service import Service
from orchestrator.stores.base import Store
from orchestrator.stores.memory.store import MemoryStore
from orchestrator.stores.redis.store import RedisStore

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "orchestrator"
THIS = "tests/test_architecture.py"

# From the ground up. A module imports from the floors below its own. Within a floor it imports
# only from its own package, and there only from an earlier line: never sideways.
FLOORS: dict[str, list[str]] = {
    "ground": [
        "orchestrator allowance caller errors events headers ids listening logs parent rate "
        "tenancy tls urls",
        "job routes_file stop variables",
        "setting_rules session",
        "settings",
        "config greeting",
    ],
    "words": ["answers strict_json", "schemas views wire", "frames"],
    "calls to addresses of others": ["net net.addresses", "net.fetch"],
    "credentials": [
        "auth limits",
        "auth.file_lock auth.keys auth.tickets auth.tokens",
        "auth.key_set auth.guard auth.key_file limits.accounts limits.base limits.rules",
        "limits.known",
        "limits.memory",
        "limits.shared",
    ],
    "ports and adapters": [
        "stores backends backends.engine",
        "stores.alarms stores.base stores.cache backends.base backends.native backends.probe",
        "backends.engine.child backends.engine.gguf backends.engine.progress "
        "backends.engine.stillness",
        "backends.engine.environment backends.engine.spawn backends.engine.watch",
        "backends.final backends.reasons backends.retry_after backends.sse_reader backends.text",
        "stores.refusals",
        "stores.memory",
        "stores.memory.allowances stores.memory.cache stores.memory.ranking stores.memory.log "
        "stores.memory.order stores.memory.sizes",
        "stores.memory.lists stores.memory.shelf",
        "stores.memory.idempotency stores.memory.sessions",
        "stores.memory.views",
        "backends.engine.download backends.engine.tiny_llama",
        "backends.engine.models",
        "backends.engine.process",
        "backends.engine.engines",
        "backends.paced",
        "backends.kept",
        "stores.redis",
        "stores.redis.advice stores.redis.clock stores.redis.codec stores.redis.gate "
        "stores.redis.names stores.redis.trouble",
        "stores.redis.scripts stores.redis.hub",
        "stores.redis.link stores.redis.tail",
        "stores.redis.alarms stores.redis.cache stores.redis.credentials stores.redis.limits "
        "stores.redis.replies stores.redis.writer",
        "stores.redis.views",
        "backends.upstream",
        "backends.answer",
        "backends.refusals",
        "stores.memory.store backends.anthropic backends.echo backends.openai backends.python",
        "backends.engine.backend",
        "stores.redis.store",
    ],
    "routing": [
        "routing",
        "routing.base routing.breaker routing.key routing.outage routing.retry routing.silence "
        "routing.slots",
        "routing.target",
        "routing.attempt routing.choice",
        "routing.cache routing.coalesce routing.failover",
    ],
    "engine": ["runner"],
    "dispatch": [
        "dispatch",
        "dispatch.base",
        "dispatch.line",
        "dispatch.pool dispatch.dramatiq dispatch.dramatiq.consumer",
        "dispatch.dramatiq.broker",
        "dispatch.dramatiq.dispatcher dispatch.dramatiq.intake",
        "dispatch.dramatiq.duties",
    ],
    "rules": ["housekeeping limits.limiter", "service"],
    "root": [
        "bootstrap",
        "bootstrap.backends bootstrap.entrance bootstrap.stores",
        "bootstrap.routes",
        "bootstrap.check bootstrap.limiter bootstrap.service",
        "bootstrap.worker",
    ],
    "doors": [
        "body head keys_command probe",
        "web.connections web.dates web.hosts web.json_io web.origins web.params web.request "
        "web.routes",
        "web.ws_followers web.ws_guard",
        "web.app web.context web.errors web.playground web.sse",
        "web.auth web.health",
        "web.limits",
        "web.handshake web.rest",
        "web.ws",
        "web.openapi web.openapi.samples web.docs web.docs.markup",
        "web.openapi.faults web.openapi.parameters web.docs.schema_words",
        "web.openapi.parts web.docs.view",
        "web.openapi.guide web.openapi.requests web.openapi.service web.openapi.watch",
        "web.openapi.document",
        "web.docs.page",
        "web",
        "parts server worker",
        "scaled",
        "cli",
        "__main__",
    ],
}

# Of the packages that these are in, others see no more; what puts all together names the rest.
PORTS = (
    *("stores.base", "stores.alarms", "stores.cache"),
    *("backends.base", "routing.base", "dispatch.base"),
)
TOGETHER = ("bootstrap",)


# Who may import what is not the standard library's. A package stands for all its modules.
BORDERS: dict[str, tuple[str, ...]] = {
    "apispec": ("web.openapi",),
    "dramatiq": ("dispatch", "worker"),
    "flask": ("web",),
    "flask_sock": ("web",),
    "gevent": ("server", "body", "backends.native"),
    "gunicorn": ("server", "body", "head"),
    "jwt": ("auth", "bootstrap"),
    "markupsafe": ("web",),
    "marshmallow": ("answers", "frames", "schemas", "web.openapi"),
    "orjson": ("schemas", "wire", "stores", "backends", "web", "server"),
    "redis": ("stores.redis", "dispatch"),
    "simple_websocket": ("web",),
    "urllib3": ("backends",),
    "werkzeug": ("web",),
    "wsproto": ("web",),
    "xllamacpp": ("backends.engine.child",),
}

LINES_AT_MOST = 400


def short(module: str) -> str:
    """``orchestrator.web.rest`` as ``web.rest``; the package itself keeps its name."""
    return module.removeprefix("orchestrator.")


def name_of(path: Path) -> str:
    """The name that FLOORS has for the module in ``path``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return short(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(SOURCES)
PLACES = {
    module: (floor, step)
    for floor, steps in enumerate(FLOORS.values())
    for step, line in enumerate(steps)
    for module in line.split()
}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def package_of(module: str) -> str:
    """``web`` for all below ``web`` and for itself; ``orchestrator`` for the top level."""
    if "." in module or SOURCES[module].name == "__init__.py":
        return module.partition(".")[0]
    return "orchestrator"


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Full names of the modules that ``module`` imports, as far as they can be told apart."""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively: say the full name."
            source = node.module or ""
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if short(inner) in SOURCES else source)
    return frozenset(found)


def inner_imports_of(module: str) -> list[str]:
    return sorted(
        short(name) for name in imports_of(module) if name.partition(".")[0] == "orchestrator"
    )


def nodes_in_functions(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from ast.walk(node)


def offences(sentences: Iterator[str]) -> None:
    """Fail with all of them, one a line."""
    found = sorted(set(sentences))
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_every_module_has_its_floor() -> None:
    offences(
        f"{module} is on no floor: give it its place in FLOORS at the top of {THIS}."
        for module in MODULES
        if module not in PLACES
    )


def test_every_place_on_a_floor_is_taken() -> None:
    offences(
        f"{module} is on a floor but not in the package: take it out of FLOORS in {THIS}."
        for module in PLACES
        if module not in SOURCES
    )


def test_the_package_says_which_floors_it_has() -> None:
    listed = re.findall(r"^- ([^:]+): ", orchestrator.__doc__ or "", re.MULTILINE)
    assert listed == list(FLOORS)


def test_modules_import_only_from_below() -> None:
    def upward() -> Iterator[str]:
        for module in MODULES:
            for imported in inner_imports_of(module):
                if imported not in PLACES or module not in PLACES:
                    continue
                (floor, step), (its_floor, its_step) = PLACES[module], PLACES[imported]
                beside = floor == its_floor and package_of(module) == package_of(imported)
                if not (its_floor < floor or (beside and its_step < step)):
                    yield f"{module} imports {imported}, which is not below it."

    offences(upward())


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: inner_imports_of(module) for module in MODULES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"Imports go in a circle: {', '.join(error.args[1])}.", pytrace=False)


def test_only_what_puts_all_together_names_what_is_behind_a_port() -> None:
    packages = {port.partition(".")[0] for port in PORTS}

    def named() -> Iterator[str]:
        for module in MODULES:
            for imported in inner_imports_of(module):
                package = imported.partition(".")[0]
                behind = package in packages and imported not in (package, *PORTS)
                if behind and not within(module, (*TOGETHER, package)):
                    yield f"{module} imports {imported}: only {TOGETHER} may, others the port."

    offences(named())


def test_third_party_packages_stay_where_they_belong() -> None:
    def strays() -> Iterator[str]:
        for module in MODULES:
            for imported in imports_of(module):
                package = imported.partition(".")[0]
                if package == "orchestrator" or package in sys.stdlib_module_names:
                    continue
                allowed = BORDERS.get(package)
                if allowed is None:
                    yield f"{module} imports {package}: say who may in BORDERS in {THIS}."
                elif not within(module, allowed):
                    yield f"{module} imports {package}, which only {', '.join(allowed)} may."

    offences(strays())


def test_the_environment_is_read_in_config_alone() -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}

    def readers() -> Iterator[str]:
        for module in MODULES:
            for node in ast.walk(tree_of(module)):
                match node:
                    case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in names:
                        pass
                    case ast.ImportFrom(module="os", names=aliases) if names & {
                        alias.name for alias in aliases
                    }:
                        pass
                    case _:
                        continue
                if module != "config":
                    yield f"{module}:{node.lineno} reads the environment: config does that."

    offences(readers())


def test_no_import_hides_in_a_function() -> None:
    offences(
        f"{module}:{node.lineno} imports inside a function: move it to the top."
        for module in MODULES
        for node in nodes_in_functions(tree_of(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
    )


def test_no_error_is_swallowed() -> None:
    broad = {"Exception", "BaseException"}

    def swallowers() -> Iterator[str]:
        for module in MODULES:
            for node in ast.walk(tree_of(module)):
                match node:
                    case ast.ExceptHandler(type=None):
                        yield f"{module}:{node.lineno} has a bare except: name what it expects."
                    case ast.ExceptHandler(
                        type=ast.Name(id=name),
                        body=[ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Continue()],
                    ) if name in broad:
                        yield f"{module}:{node.lineno} swallows every error: name the one meant."
                    case ast.Call(
                        func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=args
                    ) if any(isinstance(arg, ast.Name) and arg.id in broad for arg in args):
                        yield f"{module}:{node.lineno} suppresses every error: name the one meant."

    offences(swallowers())


def test_no_module_outgrows_its_limit() -> None:
    def outgrown() -> Iterator[str]:
        for module, path in SOURCES.items():
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LINES_AT_MOST:
                yield f"{module} has {lines} lines, more than {LINES_AT_MOST}: split it by concept."

    offences(outgrown())


def test_everything_public_says_what_it_is() -> None:
    def silent() -> Iterator[str]:
        for module in MODULES:
            tree = tree_of(module)
            if not ast.get_docstring(tree):
                yield f"{module} has no docstring."
            for node in tree.body:
                public = isinstance(
                    node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
                ) and not node.name.startswith("_")
                if public and not ast.get_docstring(node):
                    yield f"{module}:{node.lineno} {node.name} has no docstring."
                if public and is_protocol(node):
                    yield from silent_methods(module, node)

    offences(silent())


def is_protocol(node: ast.AST) -> bool:
    """Whether ``node`` is a port: its methods are explained there, not where they are kept."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(part, ast.Name) and part.id == "Protocol"
        for base in node.bases
        for part in ast.walk(base)
    )


def silent_methods(module: str, port: ast.ClassDef) -> Iterator[str]:
    for method in port.body:
        if isinstance(method, ast.FunctionDef) and not ast.get_docstring(method):
            yield f"{module}:{method.lineno} {port.name}.{method.name} has no docstring."


@pytest.mark.parametrize("asked", [Service, Store, MemoryStore, RedisStore])
def test_nobody_asks_without_saying_whose_requests_it_asks_for(asked: type) -> None:
    whose = {
        name: inspect.signature(method).parameters["tenant"].default
        for name, method in inspect.getmembers(asked, inspect.isfunction)
        if "tenant" in inspect.signature(method).parameters
    }
    assert {"jobs", "sessions"} <= set(whose)
    if asked is Service:
        assert {"submit", "get", "wait", "cancel", "read", "follow", "delete"} <= set(whose)
    assert set(whose.values()) == {inspect.Parameter.empty}
