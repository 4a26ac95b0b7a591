"""Classes that workers of the fleet's tests import and their producers do not."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass
class Hidden:
    """A value that only the worker can make."""

    number: int
    inside: tuple[int, ...] = ()


class HiddenColour(enum.Enum):
    """Members that only the worker knows."""

    RED = "red"


class HiddenError(LookupError):
    """An error that only the worker knows."""
