"""What the package looks like from outside. Which way its imports go is for import-linter: see pyproject.toml."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import stbass

ROOT = Path(stbass.__file__).parent

MODULE_NAMES = {
    "stbass.process": ["Process", "ProcessContext"],
    "stbass.result": ["Budget", "Failure", "FailurePolicy", "FailureReport", "ProcessResult", "RetryPolicy", "Usage"],
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
    "stbass.runs": ["Run", "RunConflictError", "RunEvent", "RunStatus", "find", "run", "run_sync", "start"],
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
    "RunConflictError",
    "RunEvent",
    "RunStatus",
    "SEQResult",
    "SKIP",
    "SequentialProtocol",
    "TimerExpired",
    "VariantProtocol",
    "retry_process",
}


def modules() -> list[str]:
    """Every module of the package, without the package's name before it."""
    return [found.name.removeprefix("stbass.") for found in pkgutil.walk_packages(stbass.__path__, "stbass.")]


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


# Older versions of Ray start a program when they are imported: tests/integration/test_dataflow_ray.py has its modules.
NOT_HERE = ("cli", "testing", "dataflow.distributed.ray_")


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith(NOT_HERE)])
def test_what_is_in_all_exists(module: str) -> None:
    try:
        found = importlib.import_module(f"stbass.{module}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("stbass"):
            raise
        pytest.skip(f"needs an optional package: {error}")
    for name in getattr(found, "__all__", []):
        assert hasattr(found, name), f"stbass.{module}.__all__ has {name!r}, which it does not define"
