"""A component in a module that no worker includes."""

from __future__ import annotations

from typing import Any

from stbass.dataflow import Component, IOController


class Stranger(Component):
    """Takes values and keeps none."""

    io = IOController(inputs=["x"])
    x: Any

    async def step(self) -> None:
        return
