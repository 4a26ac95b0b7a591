"""Tests with the SDKs that agents are made with: `make test-agents` has them, `make test` leaves these out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

# The extra `agents` brings all of them together.
collect_ignore_glob = [] if find_spec("openai") is not None else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.agents)
