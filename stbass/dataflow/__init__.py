"""Networks of stateful components, each of which takes values, makes a step, and sends what it has set.

The names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.dataflow.builder import ProcessBuilder
    from stbass.dataflow.fleet import CeleryProcess as CeleryProcess
    from stbass.dataflow.local import LocalProcess
    from stbass.dataflow.model.components import Component, IOController
    from stbass.dataflow.model.connector import (
        AsyncioConnector,
        Connector,
        ConnectorBuilder,
        ConnectorMode,
        ConnectorSpec,
        RayConnector,
        RedisConnector,
    )
    from stbass.dataflow.model.events import Event, StopEvent
    from stbass.dataflow.model.function import component
    from stbass.dataflow.model.resource import Resource
    from stbass.dataflow.process import Process
    from stbass.dataflow.ray import RayProcess
    from stbass.dataflow.state import DictStateBackend, SqliteStateBackend, StateBackend
    from stbass.dataflow.state import PostgresStateBackend as PostgresStateBackend
    from stbass.dataflow.state import RedisStateBackend as RedisStateBackend
    from stbass.dataflow.status import Status

# Without what needs a package that may not be installed: `from stbass.dataflow import *` works everywhere.
__all__ = [
    "AsyncioConnector",
    "Component",
    "Connector",
    "ConnectorBuilder",
    "ConnectorMode",
    "ConnectorSpec",
    "DictStateBackend",
    "Event",
    "IOController",
    "LocalProcess",
    "Process",
    "ProcessBuilder",
    "RayConnector",
    "RayProcess",
    "RedisConnector",
    "Resource",
    "SqliteStateBackend",
    "StateBackend",
    "Status",
    "StopEvent",
    "component",
]

_HOME = {
    "AsyncioConnector": "model.connector",
    "CeleryProcess": "fleet",
    "Component": "model.components",
    "Connector": "model.connector",
    "ConnectorBuilder": "model.connector",
    "ConnectorMode": "model.connector",
    "ConnectorSpec": "model.connector",
    "DictStateBackend": "state",
    "Event": "model.events",
    "IOController": "model.components",
    "LocalProcess": "local",
    "PostgresStateBackend": "state",
    "Process": "process",
    "ProcessBuilder": "builder",
    "RayConnector": "model.connector",
    "RayProcess": "ray",
    "RedisConnector": "model.connector",
    "RedisStateBackend": "state",
    "Resource": "model.resource",
    "SqliteStateBackend": "state",
    "StateBackend": "state",
    "Status": "status",
    "StopEvent": "model.events",
    "component": "model.function",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
