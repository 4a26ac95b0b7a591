"""Reviews, of which a language model says whether they are bad: those go on, the others don't.

Run it with ``python -m examples.llm_filter``: without a key it asks a model that is made up, on this machine. With

    LLM_URL=https://api.openai.com LLM_MODEL=gpt-4o-mini LLM_API_KEY=… python -m examples.llm_filter

or any other server with the same interface it asks a real one. Or from its file, for which ``LLM_URL`` has to be set:
``stbass process run examples/llm_filter.yaml``.

Four judges work at the same time, so no more than four requests are ever under way; if all are busy, no review is dealt
out. A component sends only what it has set in a step: so a dealer gives each review to one judge, and a judge passes on
bad ones only.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from collections.abc import Sequence
from typing import Any, ClassVar

from stbass.dataflow import AsyncioConnector, Component, ConnectorSpec, IOController, LocalProcess
from stbass.testing import FakeLLM

__all__ = ["Dealer", "Judge", "Tray"]

REVIEWS = [
    "It came a day early, thanks!",
    "The parcel never came.",
    "It is blue.",
    "The box was broken and so was the cup.",
    "Great cup, kind people.",
    "Two weeks late, and nobody answered.",
    "I have not opened it yet.",
    "The driver was rude.",
]


class Dealer(Component):
    """Deals reviews out, one after the other, to each judge in turn."""

    io = IOController(outputs=["to_1", "to_2", "to_3", "to_4"])

    def __init__(self, reviews: Sequence[str] = REVIEWS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reviews, self.dealt = list(reviews), 0

    async def step(self) -> None:
        """One review to one judge."""
        if self.dealt == len(self.reviews):
            await self.io.close()
            return
        setattr(self, f"to_{self.dealt % 4 + 1}", self.reviews[self.dealt])
        self.dealt += 1


class Judge(Component):
    """Asks the model, and passes on what it says is bad."""

    io = IOController(inputs=["review"], outputs=["bad"])
    exports: ClassVar[list[str]] = ["asked"]
    review: str
    bad: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = 0

    async def step(self) -> None:
        """One question."""
        question = f"Is this review good, bad or neither? Answer with one word.\n{self.review}"
        answer = await asyncio.to_thread(ask, question)
        self.asked += 1
        if "bad" in answer.lower():
            self.bad = self.review


class Tray(Component):
    """Collects them."""

    io = IOController(inputs=["bad"])
    exports: ClassVar[list[str]] = ["reviews"]
    bad: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reviews: list[str] = []

    async def step(self) -> None:
        """Put one in."""
        self.reviews.append(self.bad)
        print(f"bad: {self.bad}")


def ask(question: str) -> str:
    """Ask the model."""
    body = {"model": os.environ.get("LLM_MODEL", "made-up"), "messages": [{"role": "user", "content": question}]}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("LLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    url = f"{os.environ['LLM_URL'].rstrip('/')}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


async def main() -> None:
    """Judge them."""
    judges = [Judge(name=f"judge_{number}") for number in range(1, 5)]
    edges = [
        *((f"dealer.to_{number}", f"judge_{number}.review") for number in range(1, 5)),
        *((f"judge_{number}.bad", "tray.bad") for number in range(1, 5)),
    ]
    process = LocalProcess(
        name="llm-filter",
        components=[Dealer(name="dealer"), *judges, Tray(name="tray")],
        connectors=[
            AsyncioConnector(ConnectorSpec(source=source, target=target), maxsize=1) for source, target in edges
        ],
    )
    async with process:
        await process.run()
    print(f"{sum(judge.asked for judge in judges)} reviews judged")


def with_a_model() -> None:
    """Run it with the model that is set, or with one that is made up."""
    if "LLM_URL" in os.environ:
        asyncio.run(main())
        return
    with FakeLLM(latency=0.1) as model:
        os.environ["LLM_URL"] = model.url
        asyncio.run(main())
        print(f"at most {model.most_waiting} at the same time")


if __name__ == "__main__":
    with_a_model()
