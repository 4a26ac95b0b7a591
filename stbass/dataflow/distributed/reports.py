"""The messages of a group to its process: reports, and answers to calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stbass._values.usage import Usage
from stbass.dataflow.distributed.groups import GroupListener, GroupView, Quiescence
from stbass.dataflow.engine.arriving import LIMIT, arrived
from stbass.dataflow.engine.runner import Runner
from stbass.dataflow.status import Status
from stbass.errors import NotTransportable, WireError
from stbass.wire import Opaque, dump_error, dumps

__all__ = ["error_answer", "heard", "returned", "views"]


def heard(group: str, report: bytes, listener: GroupListener) -> None:
    """Tell the listener what a report of :class:`~stbass.dataflow.distributed.group_side.RemoteGroup` says.

    Raises:
        WireError: it is none.
    """
    match arrived(report, what="report"):
        case ["snapshot", int(n), dict(parts)]:
            listener.snapshot_done(group, n, {name: part.encode() for name, part in parts.items()})
        case ["no snapshot", int(n), Exception() as error]:
            listener.snapshot_failed(group, n, error)
        case ["status", str(component), str(status)]:
            listener.status_changed(group, component, Status(status))
        case ["stop"]:
            listener.stop_requested(group)
        case ["used", Usage() as total]:
            listener.used(group, total)
        case ["quiet", dict(state)]:
            listener.quiet(group, Quiescence(**state))
        case other:
            raise WireError(f"group {group!r} sent a report that is none: {other!r:.200}")


def returned(answer: bytes) -> Any:
    """What a call of :meth:`~stbass.dataflow.distributed.group_side.RemoteGroup.call` gave.

    Raises:
        BaseException: what it raised.
    """
    match arrived(answer, what="answer"):
        case ["views", dict(shown)]:
            return {name: GroupView(Status(status), *rest) for name, (status, *rest) in shown.items()}
        case ["ok", value]:
            return value
        case ["error", BaseException() as error]:
            raise error
        case other:
            raise WireError(f"a group sent an answer that is none: {other!r:.200}")


def error_answer(error: BaseException) -> bytes:
    """The answer to a call that raised."""
    return b'["error",' + dump_error(error, limit=LIMIT) + b"]"


def views(runners: Mapping[str, Runner]) -> bytes:
    """The answer that shows the components of these runners."""
    shown = {}
    for name, runner in runners.items():
        component = runner.component
        shown[name] = [
            str(runner.wiring.status),
            _that_travel({key: component.__dict__.get(key) for key in component.io.inputs}),
            _that_travel({key: getattr(component, key, None) for key in component.io.outputs}),
            _that_travel({key: getattr(component, key, None) for key in component.exports or ()}),
            runner.steps,
        ]
    return dumps(["views", shown], limit=LIMIT)


def _that_travel(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with a placeholder for each that the wire cannot carry: a view is no reason to fail."""
    found = {}
    for name, value in values.items():
        try:
            dumps(value, limit=LIMIT)
        except NotTransportable as error:
            value = Opaque(f"{type(value).__module__}:{type(value).__qualname__}", str(error))
        found[name] = value
    return found
