"""W1: values as bytes, and back. Ours beside msgpack, pydantic's JSON and pickle, which each need more or keep less.

msgpack and JSON have no classes: msgpack is given dicts that were made before, pydantic is told the type, and pickle
runs whatever a message says. Ours keeps every class, is told nothing, and runs nothing.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import msgpack
from pydantic import TypeAdapter

from benchmarks.harness import Row, median_alternating, rows_of, versions
from stbass.wire import dumps, loads

__all__ = ["w1"]

_REPEATS = 20


@dataclass
class Order:
    """A small dataclass."""

    number: int
    customer: str
    price: float
    paid: bool = False


def _message(number: int) -> dict[str, Any]:
    call = {"id": f"call_{number}", "type": "function", "function": {"name": "search", "arguments": '{"query": "sky"}'}}
    return {
        "role": ("user", "assistant")[number % 2],
        "content": f"{number}: why is the sky blue, and what has that to do with the sea? " * 8,
        "tool_calls": [call] * (number % 3),
        "usage": {"prompt_tokens": 300 + number, "completion_tokens": 2 * number},
    }


HISTORY = [_message(number) for number in range(100)]
FRAME = {f"column{number}": [(row * 37 + number) / 7 for row in range(1_000)] for number in range(10)}
ORDERS = [Order(number, f"customer {number % 50}", number / 7) for number in range(1_000)]

VALUES: dict[str, tuple[Any, Any, Any]] = {
    "chat": (HISTORY, list[dict[str, Any]], HISTORY),
    "frame": (FRAME, dict[str, list[float]], FRAME),
    "dataclasses": (ORDERS, list[Order], [asdict(order) for order in ORDERS]),
}
"""What is sent, its type, and what msgpack is given instead."""


def _milliseconds(work: Callable[[], Any]) -> float:
    """The best of some runs: what disturbs one only adds to it."""
    best = float("inf")
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best * 1e3


def w1() -> list[Row]:
    """A chat history of 100 messages, 10 columns of 1,000 floats, 1,000 small dataclasses: each way."""
    versions.update({name: version(name) for name in ("msgpack", "pydantic")})
    rows = []
    for what, (value, kind, plain) in VALUES.items():
        adapter = TypeAdapter(kind)
        packed, text, pickled, ours = msgpack.packb(plain), adapter.dump_json(value), pickle.dumps(value), dumps(value)
        assert loads(ours) == adapter.validate_json(text) == pickle.loads(pickled) == value  # noqa: S301 - made here
        ways: dict[str, dict[str, Callable[[], Any]]] = {
            "write": {
                "stbass": partial(dumps, value),
                "msgpack": partial(msgpack.packb, plain),
                "pydantic JSON": partial(adapter.dump_json, value),
                "pickle": partial(pickle.dumps, value),
            },
            "read": {
                "stbass": partial(loads, ours),
                "msgpack": partial(msgpack.unpackb, packed),
                "pydantic JSON": partial(adapter.validate_json, text),
                "pickle": partial(pickle.loads, pickled),
            },
        }
        for way, subjects in ways.items():
            medians = median_alternating({subject: partial(_milliseconds, work) for subject, work in subjects.items()})
            sizes = {
                "stbass": f"{len(ours):,} bytes; msgpack {len(packed):,}, JSON {len(text):,}, pickle {len(pickled):,}"
            }
            rows += rows_of(f"W1 {what} {way}", medians, "ms", higher_is_better=False, notes=sizes)
    return rows
