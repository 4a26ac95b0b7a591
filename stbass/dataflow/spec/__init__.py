"""Models as they are written in files: reading, checking and drawing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.dataflow.spec.model import ConnectorEntry, Part, ProcessSpec, load, loads, parse

__all__ = ["ConnectorEntry", "Part", "ProcessSpec", "load", "loads", "parse"]

__getattr__, __dir__ = lazy(__name__, globals(), dict.fromkeys(__all__, "model"))
