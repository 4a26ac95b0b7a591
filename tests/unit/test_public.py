"""What the package looks like from outside, and which way its imports go."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import stbass

ROOT = Path(stbass.__file__).parent

MODULE_NAMES = {
    "stbass.process": ["Process", "ProcessContext"],
    "stbass.result": ["Failure", "FailurePolicy", "FailureReport", "ProcessResult", "RetryPolicy"],
    "stbass.failure": ["FailureAggregator", "retry_process"],
    "stbass.channel": [
        "Chan",
        "ChannelClosedError",
        "ChannelProtocolError",
        "ChannelTopologyError",
        "ChannelTypeError",
        "SequentialProtocol",
        "VariantProtocol",
    ],
    "stbass.alt": ["ALT", "PRI_ALT", "SKIP", "AllGuardsDisabledError", "Guard"],
    "stbass.timer": ["DEADLINE", "TIMER", "TimerExpired"],
    "stbass.seq": ["SEQ", "SEQResult"],
    "stbass.par": ["PAR", "PARResult"],
    "stbass.replicator": ["PAR_FOR", "SEQ_FOR"],
    "stbass.topology": ["ChanArray", "Collector", "Distributor"],
    "stbass.placement": ["PLACED_PAR", "BackendRegistry", "ExecutionBackend", "LocalBackend", "Placement"],
}
ONLY_IN_MODULES = {
    "AllGuardsDisabledError",
    "ChannelClosedError",
    "ChannelProtocolError",
    "ChannelTopologyError",
    "ChannelTypeError",
    "FailureAggregator",
    "PARResult",
    "ProcessContext",
    "RetryPolicy",
    "SEQResult",
    "SKIP",
    "SequentialProtocol",
    "TimerExpired",
    "VariantProtocol",
    "retry_process",
}

# From the bottom up. A module may import from its own layer and from those below it.
LAYERS: list[set[str]] = [
    {"_ids", "_lazy", "endpoint", "errors", "observe", "outcome", "policy", "report", "result"},
    {
        "_cancellation",
        "_guard",
        "_hot",
        "_typespec",
        "_typewire",
        "_waiting",
        "alt",
        "channel",
        "redis_address",
        "timer",
        "transports",
    },
    # A channel over Redis carries what the wire can; `channel` itself knows nothing of it.
    {"call", "composite", "context", "process", "stage", "transports.redis", "wire"},
    {"backends.base", "backends.local", "promotion"},
    {
        "failure",
        "gate",
        "members",
        "nest",
        "par",
        "placement",
        "progress",
        "registry",
        "replicator",
        "seq",
        "supervise",
        "topology",
    },
    {"backends", "quiet"},
    {"dataflow", "mcp", "tasklist", "workflow"},
    {"testing"},
    {"cli"},
]


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package, without the package's name before it."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts:
            yield ".".join(parts), path


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports when it runs, wherever in it."""
    found: set[str] = set()
    names = {name for name, _ in modules()}

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.orelse:
                visit(statement)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name.removeprefix("stbass.") for alias in node.names if alias.name.startswith("stbass."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "stbass":
            base = node.module.removeprefix("stbass").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in names else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found - {""}


def layer_of(module: str) -> int:
    """The index of its layer: that of the longest name that it begins with."""
    known = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        index = known.get(".".join(parts[:length]))
        if index is not None:
            return index
    raise AssertionError(f"stbass/{module.replace('.', '/')} is in no layer: put it into LAYERS")


GRAPH = {name: imports(path) for name, path in modules()}


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_down(module: str) -> None:
    own = layer_of(module)
    upwards = {other for other in GRAPH[module] if layer_of(other) > own}
    assert not upwards, f"stbass.{module} imports from above itself: {upwards}"


def test_there_are_no_circles() -> None:
    # graphlib raises CycleError with the circle in it. A package's own __init__ may import its parts.
    graph = {name: {other for other in uses if not other.startswith(f"{name}.")} for name, uses in GRAPH.items()}
    assert list(TopologicalSorter(graph).static_order())


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_names_live_in_their_modules(module: str) -> None:
    home = importlib.import_module(module)
    for name in MODULE_NAMES[module]:
        assert getattr(home, name) is not None
        assert name in home.__all__, f"{name} is not in {module}.__all__"


def test_the_package_gives_the_public_names_and_nothing_else() -> None:
    public = {name for names in MODULE_NAMES.values() for name in names} - ONLY_IN_MODULES
    assert set(stbass.__all__) == public
    for name in stbass.__all__:
        homes = [module for module, names in MODULE_NAMES.items() if name in names]
        assert getattr(stbass, name) is getattr(importlib.import_module(homes[0]), name)


def test_star_import() -> None:
    found: dict[str, Any] = {}
    exec("from stbass import *", found)  # noqa: S102 - there is no other way to write it
    assert set(stbass.__all__) <= set(found)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'stbass' has no attribute 'nonsense'"):
        _ = stbass.nonsense
    assert isinstance(stbass.__version__, str)
    assert set(stbass.__all__) <= set(dir(stbass))


@pytest.mark.parametrize("name", stbass.__all__)
def test_public_names_are_documented(name: str) -> None:
    found = getattr(stbass, name)
    assert inspect.getdoc(found), f"{name} has no docstring"
    for attribute, value in vars(found).items():
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(getattr(found, attribute)), f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize("module", [name for name in GRAPH if not name.startswith(("cli", "testing"))])
def test_what_is_in_all_exists(module: str) -> None:
    try:
        found = importlib.import_module(f"stbass.{module}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("stbass"):
            raise
        pytest.skip(f"needs an optional package: {error}")
    for name in getattr(found, "__all__", []):
        assert hasattr(found, name), f"stbass.{module}.__all__ has {name!r}, which it does not define"


# What an import costs ----------------------------------------------------------------------------


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("what", ["import stbass", "from stbass import *"])
def test_importing_loads_nothing_heavy(what: str) -> None:
    code = f"{what}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = set(in_a_fresh_interpreter(code).split())
    assert not loaded & {
        "celery",
        "redis",
        "kombu",
        "pydantic",
        "numpy",
        "rich",
        "typer",
        "mcp",
        "ray",
        "opentelemetry",
    }


def test_importing_loads_only_what_is_asked_for() -> None:
    code = "import stbass, sys\nprint(*sorted(name for name in sys.modules if name.startswith('stbass.')))"
    assert in_a_fresh_interpreter(code) == ""
