"""Import paths that programs and other people's backends and transports use, wherever the thing itself stands."""

from __future__ import annotations

import importlib

import pytest

DOORS = {
    "stbass.backends.base": ["ExecutionBackend"],
    "stbass.backends.celery.pool": ["AsyncioPool"],
    "stbass.backends.pools": ["ProcessPoolBackend", "ThreadBackend"],
    "stbass.context": ["ProcessContext"],
    "stbass.dataflow.spec": ["load", "loads", "parse"],
    "stbass.dataflow.state.base": ["StateBackend"],
    "stbass.dataflow.status": ["Status"],
    "stbass.observe": ["Event", "active", "progress", "subscribe"],
    "stbass.transports": ["MemoryTransport", "Transport", "Link", "Choice", "Arm"],
    "stbass.transports.base": ["NOTHING", "ChannelStats", "Happened", "Link", "LinkSpec", "Side", "Transport"],
    "stbass.transports.choice": ["DECIDING", "Arm", "Choice"],
    "stbass.transports.memory": ["MEMORY", "MemoryLink", "MemoryTransport"],
    "stbass.transports.redis": ["RedisTransport"],
}


@pytest.mark.parametrize("module", DOORS)
def test_each_name_is_found_where_programs_look_for_it(module: str) -> None:
    found = importlib.import_module(module)
    for name in DOORS[module]:
        assert getattr(found, name) is not None
        assert name in found.__all__, f"{module}.__all__ does not name {name}"
