"""A model with files at both ends, a fan-out, a join and a loop, for tests that run it in several places.

::

    orders ─┬─ article ───────────────────────────────┐
            ├─ pieces ─┐                              │
            └─ price ──┴─ multiply ─ amount ─┬────────┼─ sums
                                             └─ purse ┴─ balance
                                                 ↑  └─ tithe ─┐
                                                 └────────────┘
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, ClassVar

from stbass.dataflow import Component, IOController, component

__all__ = ["LIBRARY", "Purse", "expected", "model", "multiply", "tithe", "write_orders"]

LIBRARY = "stbass.dataflow.library"
MODULE = __name__


@component(inputs={"pieces": int, "price": int}, outputs={"amount": int})
async def multiply(pieces: int, price: int) -> dict[str, int]:
    """What an order costs."""
    return {"amount": pieces * price}


@component(inputs={"balance": int}, outputs={"due": int})
def tithe(balance: int) -> dict[str, int]:
    """A tenth of what is in the purse, to be taken out before the next order."""
    return {"due": balance // 10}


class Purse(Component):
    """Adds up amounts, less what was due after the one before."""

    io = IOController(inputs={"amount": int, "due": int}, outputs={"balance": int})
    exports: ClassVar[list[str] | None] = ["orders"]

    def __init__(self, pause: float = 0.0, **kwargs: Any) -> None:
        super().__init__(initial_values={"due": [0]}, **kwargs)
        self.pause = pause
        self.held = 0
        self.orders = 0

    async def step(self) -> None:
        if self.pause:
            await asyncio.sleep(self.pause)
        self.held += self.amount - self.due
        self.orders += 1
        self.balance = self.held

    amount: int
    due: int


def write_orders(path: Path, rows: int) -> None:
    """Orders in a file; their articles are not easy to write."""
    dice = random.Random(rows)
    lines = [f'"tea, no {row}",{dice.randint(1, 9)},{dice.randint(1, 999)}\n' for row in range(rows)]
    path.write_text("article,pieces,price per piece\n" + "".join(lines))


def expected(orders: Path) -> bytes:
    """What the model makes of such a file."""
    held = 0
    lines = ["article,amount,balance"]
    for line in orders.read_text().splitlines()[1:]:
        article, pieces, price = line.rsplit(",", 2)
        amount = int(pieces) * int(price)
        held += amount - held // 10
        lines.append(f"{article},{amount},{held}")
    return ("\n".join(lines) + "\n").encode()


def model(folder: Path, *, kind: str = "LocalProcess", pause: float = 0.0, args: str = "") -> str:
    """The model as YAML: from ``orders.csv`` to ``sums.csv`` in the folder."""
    return f"""
stbass:
  process:
    type: stbass.dataflow.{kind}
    args:
      name: orders
      {args}
      components:
      - type: {LIBRARY}.FileReader
        args:
          name: orders
          path: {folder}/orders.csv
          field_names: {{article: article, pieces: pieces, price: price per piece}}
      - {{type: {MODULE}.multiply, args: {{name: multiply}}}}
      - {{type: {MODULE}.Purse, args: {{name: purse, pause: {pause}}}}}
      - {{type: {MODULE}.tithe, args: {{name: tithe}}}}
      - type: {LIBRARY}.FileWriter
        args: {{name: sums, path: {folder}/sums.csv, field_names: [article, amount, balance]}}
      connectors:
      - {{source: orders.pieces, target: multiply.pieces}}
      - {{source: orders.price, target: multiply.price}}
      - {{source: orders.article, target: sums.article}}
      - {{source: multiply.amount, target: sums.amount}}
      - {{source: multiply.amount, target: purse.amount}}
      - {{source: purse.balance, target: sums.balance}}
      - {{source: purse.balance, target: tithe.balance}}
      - {{source: tithe.due, target: purse.due}}
"""
