"""A module that says what is public."""

from __future__ import annotations

__all__ = ["_listed"]


def _listed() -> str:
    """Public, because it is listed."""
    return "listed"


listed = _listed


def unlisted() -> str:
    """Not public, because it is not."""
    return "unlisted"
