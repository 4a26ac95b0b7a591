"""Networks of stateful components, each of which takes values, makes a step, and sends what it has set.

The names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stbass._lazy import lazy

if TYPE_CHECKING:
    from stbass.dataflow.builder import ProcessBuilder
    from stbass.dataflow.components import Component
    from stbass.dataflow.connector import (
        AsyncioConnector,
        Connector,
        ConnectorMode,
        ConnectorSpec,
        RayConnector,
        RedisConnector,
    )
    from stbass.dataflow.events import Event, StopEvent
    from stbass.dataflow.fleet import CeleryProcess as CeleryProcess
    from stbass.dataflow.function import component
    from stbass.dataflow.io import IOController
    from stbass.dataflow.local import LocalProcess
    from stbass.dataflow.process import Process
    from stbass.dataflow.ray import RayProcess
    from stbass.dataflow.resource import Resource
    from stbass.dataflow.state import DictStateBackend, SqliteStateBackend, StateBackend
    from stbass.dataflow.state import PostgresStateBackend as PostgresStateBackend
    from stbass.dataflow.state import RedisStateBackend as RedisStateBackend
    from stbass.dataflow.status import Status

# Without what needs a package that may not be installed: `from stbass.dataflow import *` works everywhere.
__all__ = [
    "AsyncioConnector",
    "Component",
    "Connector",
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
    "AsyncioConnector": "connector",
    "CeleryProcess": "fleet",
    "Component": "components",
    "Connector": "connector",
    "ConnectorMode": "connector",
    "ConnectorSpec": "connector",
    "DictStateBackend": "state",
    "Event": "events",
    "IOController": "io",
    "LocalProcess": "local",
    "PostgresStateBackend": "state",
    "Process": "process",
    "ProcessBuilder": "builder",
    "RayConnector": "connector",
    "RayProcess": "ray",
    "RedisConnector": "connector",
    "RedisStateBackend": "state",
    "Resource": "resource",
    "SqliteStateBackend": "state",
    "StateBackend": "state",
    "Status": "status",
    "StopEvent": "events",
    "component": "function",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
