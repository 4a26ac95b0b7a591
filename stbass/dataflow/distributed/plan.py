"""The plan of a group: class and arguments of each component, from which it is made again where the group runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from stbass.dataflow.distributed.groups import Group
from stbass.dataflow.engine.arriving import LIMIT, arrived
from stbass.dataflow.engine.edge import Edge
from stbass.dataflow.export import Exportable, class_path
from stbass.dataflow.model.components import Component, wiring_of
from stbass.dataflow.model.function import ComponentFunction
from stbass.errors import DataflowError, NotTransportable
from stbass.wire import Opaque, dumps, loads

__all__ = ["Named", "made_of_plan", "plan_of"]

Named = Callable[[str], Any]
"""Gives the class, or the component function, of a name."""


def plan_of(group: Group, parameters: Mapping[str, Any]) -> bytes:
    """What it takes to make the group elsewhere.

    Raises:
        NotTransportable: an argument of a component cannot travel, or has no name; says which.
    """
    return dumps(
        {
            "components": [[one.name, *_made_of(one, one.name)] for one in group.components],
            "edges": [asdict(edge) for edge in group.edges],
            "job": wiring_of(group.components[0]).job,
            # For later: only when the components' modules are imported are the classes of such values known.
            "parameters": _text(parameters, "parameters of the process"),
        },
        limit=LIMIT,
    )


def made_of_plan(plan: bytes, named: Named) -> tuple[list[Component], list[Edge]]:
    """Components and edges of a plan.

    Raises:
        DataflowError: a component cannot be made here.
        WireError: it is no plan.
    """
    made = loads(plan, what="plan", limit=LIMIT)
    components = [
        _make(path, text, nested, named, f"component {name!r}") for name, path, text, nested in made["components"]
    ]
    parameters = arrived(made["parameters"], what="parameters")
    for component in components:
        wiring = wiring_of(component)
        wiring.process_parameters = parameters
        wiring.job = made["job"]
    return components, [Edge(**edge) for edge in made["edges"]]


def _made_of(thing: Exportable, name: str) -> list[Any]:
    try:
        arguments = thing.arguments()
    except TypeError as error:
        raise NotTransportable(f"component {name!r} cannot travel: {error}") from error
    plain, nested = {}, {}
    for key, value in arguments.items():
        if key == "state" and isinstance(thing, Component):
            continue  # the state of jobs is kept by whoever runs the process
        if isinstance(value, Exportable):
            nested[key] = _made_of(value, name)
        else:
            plain[key] = value
    path = class_path(type(thing))
    if path.startswith("__main__.") or "<locals>" in path:
        raise NotTransportable(
            f"component {name!r} cannot travel: its class {path} cannot be imported elsewhere. Define it at the top "
            f"of a module"
        )
    return [path, _text(plain, f"arguments of component {name!r}"), nested]


def _text(value: Any, what: str) -> str:
    return dumps(value, limit=LIMIT, what=what).decode()


def _make(path: str, text: str, nested: Mapping[str, Any], named: Callable[[str], Any], what: str) -> Any:
    cls = named(path)
    arguments = arrived(text, what=what)
    for key, value in arguments.items():
        unknown = _opaque_in(value)
        if unknown is not None:
            raise DataflowError(
                f"{what}: {key!r} holds a {unknown.type_name}, which is not known where the component runs"
                f"{f' ({unknown.reason})' if unknown.reason else ''}: import its module in that of {path}"
            )
    for key, (inner, inner_text, inner_nested) in nested.items():
        arguments[key] = _make(inner, inner_text, inner_nested, named, what)
    return cls.component(**arguments) if isinstance(cls, ComponentFunction) else cls(**arguments)


def _opaque_in(value: Any) -> Opaque | None:
    if isinstance(value, Opaque):
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return next((found for one in inside if (found := _opaque_in(one)) is not None), None)
