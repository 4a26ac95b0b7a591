"""Decoding values from another group of components, or from a checkpoint."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from stbass.wire import loads

__all__ = ["LIMIT", "arrived"]

LIMIT = 2**30
"""How many bytes a message between groups may have."""


def arrived(text: bytes | str, *, what: str, limit: int = LIMIT) -> Any:
    """The value that :func:`stbass.wire.dumps` wrote.

    An array is an array here, if NumPy is installed, whether or not anything has imported it before: a component that
    takes an array's mean need not import NumPy for it on one event loop, so it need not anywhere. (NumPy is all that
    is ever imported because of a value.)

    Raises:
        WireError: it is not what ``dumps`` writes, or it is larger than ``limit`` bytes.
    """
    name = b"numpy:" if isinstance(text, bytes) else "numpy:"
    if name in text and "numpy" not in sys.modules and find_spec("numpy") is not None:  # type: ignore[operator]
        importlib.import_module("numpy")
    return loads(text, what=what, limit=limit)
