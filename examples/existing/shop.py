"""An application as it was before stbass: tasks, a route, a schedule, a pool of its own."""

from __future__ import annotations

import os

from celery import Celery, chain, chord
from celery.canvas import Signature

app = Celery("shop", broker=os.environ.get("SHOP_REDIS", "redis://localhost:6379/0"))
app.conf.update(
    result_backend=app.conf.broker_url,
    task_default_queue="shop",
    task_routes={"shop.receipt": {"queue": "paper"}},
    worker_pool="threads",
    worker_concurrency=4,
    beat_schedule={"stock": {"task": "shop.take_stock", "schedule": 1.0}},
)

PRICES = {"cup": 7, "plate": 12, "pot": 40}


@app.task(name="shop.price")
def price(item: str) -> int:
    """What an item costs."""
    return PRICES[item]


@app.task(name="shop.total")
def total(prices: list[int]) -> int:
    """The sum of an order."""
    return sum(prices)


@app.task(name="shop.with_tax")
def with_tax(amount: int, percent: int = 20) -> int:
    """What it comes to."""
    return amount + amount * percent // 100


@app.task(name="shop.receipt", bind=True)
def receipt(self: object, amount: int) -> str:
    """Written in the queue for paper, which the routes say."""
    queue = getattr(self, "request").delivery_info["routing_key"]  # noqa: B009 - Celery's request has no types
    return f"{amount} EUR, on {queue}"


@app.task(name="shop.take_stock")
def take_stock() -> None:
    """Happens regularly."""
    app.backend.client.incr("shop:stock")


def order(items: list[str]) -> Signature:
    """A chord of prices, and a chain of what is done with their sum."""
    return chain(chord([price.s(item) for item in items], total.s()), with_tax.s(), receipt.s())
