"""Hares and lynxes: two populations that depend on each other, which makes a loop in the model.

Run it with ``python -m examples.predator_prey``, or from its file: ``stbass process run examples/predator_prey.yaml``.

A loop needs something to begin with: the hares are told how many lynxes there are at first (``initial_values``).
Everything after that comes out of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess

__all__ = ["Chart", "Hares", "Lynxes"]

DAYS = 0.02
"""How long a step is, in years."""


class Hares(Component):
    """They multiply, and are eaten; after some steps the model ends with them.

    Args:
        start: how many there are at first, in thousands.
        steps: how many steps.
    """

    io = IOController(inputs={"lynxes": float}, outputs={"hares": float})
    lynxes: float

    def __init__(self, start: float, steps: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.left = start, steps

    async def step(self) -> None:
        """Some days."""
        self.hares = self.count
        self.count += (1.1 * self.count - 0.4 * self.count * self.lynxes) * DAYS
        self.left -= 1
        if not self.left:
            await self.io.close()


class Lynxes(Component):
    """They multiply where there are hares, and die.

    Args:
        start: how many there are at first, in thousands.
    """

    io = IOController(inputs={"hares": float}, outputs={"lynxes": float})
    hares: float

    def __init__(self, start: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = start

    async def step(self) -> None:
        """Some days."""
        self.count += (0.1 * self.hares * self.count - 0.4 * self.count) * DAYS
        self.lynxes = self.count


class Chart(Component):
    """Draws both.

    Args:
        every: steps between two lines.
    """

    io = IOController(inputs={"hares": float, "lynxes": float})
    hares: float
    lynxes: float

    def __init__(self, every: int = 50, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.every, self.step_number = every, 0

    async def step(self) -> None:
        """One line, now and then."""
        if self.step_number % self.every == 0:
            marks = [" "] * 50
            marks[min(49, round(4 * self.lynxes))] = "l"
            marks[min(49, round(4 * self.hares))] = "h"
            print(f"{self.step_number * DAYS:5.1f} years |{''.join(marks).rstrip()}")
        self.step_number += 1


async def main() -> None:
    """Thirty years."""
    edges = [
        ("hares.hares", "lynxes.hares"),
        ("lynxes.lynxes", "hares.lynxes"),
        ("hares.hares", "chart.hares"),
        ("lynxes.lynxes", "chart.lynxes"),
    ]
    process = LocalProcess(
        name="predator-prey",
        components=[
            Hares(name="hares", start=10.0, steps=1500, initial_values={"lynxes": [5.0]}),
            Lynxes(name="lynxes", start=5.0),
            Chart(name="chart"),
        ],
        connectors=[AsyncioConnector(ConnectorSpec(source=source, target=target)) for source, target in edges],
    )
    async with process:
        await process.run()


if __name__ == "__main__":
    asyncio.run(main())
