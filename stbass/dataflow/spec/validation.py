"""Validation: everything that is wrong with a process, found before any of its components runs."""

from __future__ import annotations

import keyword
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stbass._channels.typespec import ChannelType
from stbass._channels.typewire import describe
from stbass._values.nearest import did_you_mean
from stbass._values.texts import value_text
from stbass.dataflow.export import arguments_of
from stbass.dataflow.model.components import Component, field_types, is_framework_name, wiring_of
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.model.events import Event, StopEvent
from stbass.dataflow.model.fitting import may_fit
from stbass.dataflow.spec.cycles import deadlocked_cycles
from stbass.errors import ChannelTypeError, InvalidProcessError

__all__ = ["Finding", "check_model", "check_names", "findings", "name_findings"]

_PROCESS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_COMPONENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake.

    Args:
        problem: what it is, and what to do about it.
        component: the name of the component that it is about, if it is about one.
        field: the name of the field, or of the event, with ``input``, ``output`` or ``event`` before it.
        connector: the connector that it is about, ``source..target``.
    """

    problem: str
    component: str | None = None
    field: str | None = None
    connector: str | None = None

    def __str__(self) -> str:
        place = []
        if self.component is not None:
            place.append(f"component {self.component!r}")
        if self.field is not None:
            place.append(self.field)
        if self.connector is not None:
            place.append(f"connector {self.connector!r}")
        return f"{', '.join(place)}: {self.problem}" if place else self.problem


def check_names(name: str | None, components: Iterable[Any], connectors: Iterable[Any]) -> None:
    """Refuse parts of the wrong type, and names that are malformed or there twice.

    Raises:
        InvalidProcessError: with all that is wrong of that kind.
    """
    _raise(name, [*_process_name(name), *_parts(list(components), list(connectors))])


def check_model(name: str, components: Iterable[Component], connectors: Iterable[Connector], *, kind: str) -> None:
    """Refuse a process that cannot work.

    Args:
        name: of the process.
        components: what it consists of.
        connectors: what connects them.
        kind: the kind of process: ``"local"``, ``"ray"``, ``"celery"``.

    Raises:
        InvalidProcessError: with all that is wrong.
    """
    _raise(name, findings(components, connectors, kind=kind))


def findings(
    components: Iterable[Component],
    connectors: Iterable[Connector],
    *,
    kind: str,
    unmade: Collection[str] = (),
) -> list[Finding]:
    """Find everything that is wrong with a process.

    Args:
        components: what it consists of.
        connectors: what connects them.
        kind: the kind of process: ``"local"``, ``"ray"``, ``"celery"``.
        unmade: names of components that could not be made. Nothing is said of what depends on them.
    """
    all_components, all_connectors = list(components), list(connectors)
    found = _parts(all_components, all_connectors)
    if any(finding.component is None and finding.connector is None for finding in found):
        return found  # something in there is no component or connector at all
    # Of one whose constructor did not come to its end there is nothing more to be said.
    made = [one for one in all_components if wiring_of(one).is_made]
    unmade = {*unmade, *(str(arguments_of(one)[1].get("name")) for one in all_components if not wiring_of(one).is_made)}
    model = _Model(made, all_connectors, frozenset(unmade))
    found += model.fields()
    found += model.ends(kind)
    found += model.events()
    found += model.cycles()
    return found


def _raise(name: str | None, found: list[Finding]) -> None:
    if found:
        texts = tuple(str(finding) for finding in found)
        what = "the process" if name is None else f"process {name!r}"
        head = f"{what} cannot work:" if len(texts) == 1 else f"{what} cannot work, for {len(texts)} reasons:"
        raise InvalidProcessError("\n".join([head, *(f"  {text}" for text in texts)]), findings=texts)


def _process_name(name: Any) -> Iterator[Finding]:
    if name is None:
        return
    if not isinstance(name, str):
        yield Finding(f"the name of a process is text, got {value_text(name)}")
    elif _PROCESS_NAME.fullmatch(name) is None:
        yield Finding(
            f"{name!r} is no name for a process: a letter or _, then letters, digits, '_', '.' and '-', as in "
            f"{_repaired(name, '.')!r}"
        )


def _parts(components: list[Any], connectors: list[Any]) -> list[Finding]:
    found: list[Finding] = []
    names: list[str] = []
    for index, one in enumerate(components):
        if not isinstance(one, Component):
            hint = ""
            if isinstance(one, type) and issubclass(one, Component):
                hint = f"; make one of it: {one.__name__}(name=…)"
            elif callable(getattr(one, "component", None)):
                hint = "; make a component of it: .component(name=…)"
            found.append(Finding(f"components[{index}] is no component: {value_text(one)}{hint}"))
            continue
        names.append(one.name)
        if not wiring_of(one).is_made:
            found.append(
                Finding(f"the __init__ of {type(one).__name__} does not call super().__init__(name=…)", one.name)
            )
    found += name_findings(names)
    ids: Counter[str] = Counter()
    for index, one in enumerate(connectors):
        if isinstance(one, Connector):
            ids[one.id] += 1
        else:
            found.append(Finding(f"connectors[{index}] is no connector: {value_text(one)}"))
    found += [
        Finding(f"it is there {count} times; once is enough", connector=name)
        for name, count in ids.items()
        if count > 1
    ]
    return found


def name_findings(names: Iterable[str]) -> Iterator[Finding]:
    """What is wrong with the names of components."""
    for name, count in Counter(names).items():
        if _COMPONENT_NAME.fullmatch(name) is None:
            problem = "a name is a letter or _, then letters, digits, '_' and '-', as in " + repr(_repaired(name))
            yield Finding(problem, name)
        if count > 1:
            yield Finding(f"there are {count} components of that name; each needs one of its own", name)


class _Model:
    """The parts of a process, and how they are connected."""

    def __init__(self, components: list[Component], connectors: list[Connector], unmade: frozenset[str]) -> None:
        self.all = components
        self.components = {component.name: component for component in components}
        self.connectors = {connector.id: connector for connector in connectors}
        self.unmade = unmade
        self.loose: set[str] = set()
        """Connectors of which an end is wrong."""
        self.types: dict[str, Mapping[str, Any]] = {}
        self.populated = {
            name: {field for _, handled in wiring_of(one).handlers.values() for field in handled.populates_fields}
            for name, one in self.components.items()
        }
        self.fed: dict[tuple[str, str], list[Connector]] = defaultdict(list)
        for connector in self.connectors.values():
            self.fed[connector.spec.target_component, connector.spec.input].append(connector)

    def fields(self) -> Iterator[Finding]:
        """Mistakes within a component."""
        for component in self.all:
            name, io = component.name, component.io
            for what, names in (("input", io.inputs), ("output", io.outputs)):
                for field, count in Counter(names).items():
                    problem = _field_problem(field)
                    if problem is None and count > 1:
                        problem = f"it is there {count} times"
                    if problem is None and what == "output" and field in io.inputs:
                        problem = "there is an input of that name; an output needs another"
                    if problem is not None:
                        yield Finding(problem, name, f"{what} {field!r}")
            cls = type(component)
            if cls.step is Component.step and cls.run is Component.run and (io.inputs or not io.input_events):
                yield Finding(f"its class {cls.__name__} has no step: `async def step(self)`", name)
            yield from self._types_of(component)
            yield from self._initial_values(component)
            for field in io.inputs:
                if not self.fed[name, field] and field not in self.populated[name]:
                    yield Finding(
                        "nothing is connected to it, and no event handler populates it", name, f"input {field!r}"
                    )

    def _types_of(self, component: Component) -> Iterator[Finding]:
        self.types[component.name] = {}
        try:
            types = field_types(component)
        except TypeError as error:
            yield Finding(str(error).removeprefix(f"component {component.name!r}: "), component.name)
            return
        usable: dict[str, Any] = {}
        for field in (*component.io.inputs, *component.io.outputs):
            if field not in types:
                continue
            try:
                ChannelType(types[field], field)
            except TypeError as error:
                what = "input" if field in component.io.inputs else "output"
                yield Finding(f"its type cannot be checked: {error}", component.name, f"{what} {field!r}")
            else:
                usable[field] = types[field]
        self.types[component.name] = usable

    def _initial_values(self, component: Component) -> Iterator[Finding]:
        for field, values in component.initial_values.items():
            where = f"input {field!r}"
            if field not in component.io.inputs:
                yield Finding(
                    f"there are initial values for it, but no such input{did_you_mean(field, component.io.inputs)}",
                    component.name,
                    where,
                )
            elif field in self.types[component.name]:
                expected = ChannelType(self.types[component.name][field], field)
                for index, value in enumerate(values):
                    try:
                        expected.fit(value)
                    except ChannelTypeError as error:
                        yield Finding(
                            f"initial value {index + 1} must be {error.expected}, got {error.actual}",
                            component.name,
                            where,
                        )

    def ends(self, kind: str) -> Iterator[Finding]:
        """Mistakes in a connector and its ends."""
        for connector in self.connectors.values():
            if kind not in connector.kinds:
                runs = ", ".join(sorted(connector.kinds)) or "none"
                yield Finding(
                    f"a {type(connector).__name__} cannot be used by a {kind} process (only by: {runs})",
                    connector=connector.id,
                )
            spec = connector.spec
            ends = [
                (spec.source_component, spec.output, "output"),
                (spec.target_component, spec.input, "input"),
            ]
            wrong = [one for one in (self._end(connector, *end) for end in ends) if one is not None]
            yield from wrong
            if wrong:
                self.loose.add(connector.id)
                continue
            sent = self.types.get(spec.source_component, {}).get(spec.output, Any)
            taken = self.types.get(spec.target_component, {}).get(spec.input, Any)
            if not may_fit(sent, taken):
                yield Finding(
                    f"it takes {describe(taken)}, but {spec.source} sends {describe(sent)}",
                    spec.target_component,
                    f"input {spec.input!r}",
                    connector.id,
                )

    def _end(self, connector: Connector, name: str, field: str, what: str) -> Finding | None:
        if name in self.unmade:
            return None
        component = self.components.get(name)
        if component is None:
            problem = f"there is no such component{did_you_mean(name, (*self.components, *self.unmade))}"
            return Finding(problem, name, f"{what} {field!r}", connector.id)
        io = component.io
        own, other = (io.outputs, io.inputs) if what == "output" else (io.inputs, io.outputs)
        if field in own:
            return None
        if field in other:
            turned = "input" if what == "output" else "output"
            problem = f"{field!r} is an {turned}; a connector leads from an output to an input"
        else:
            has = ", ".join(own) or "none"
            problem = f"there is no such {what}{did_you_mean(field, own)}; its {what}s: {has}"
        return Finding(problem, name, f"{what} {field!r}", connector.id)

    def events(self) -> Iterator[Finding]:
        """Mistakes in which component sends and which handles an event."""
        sent = [event for one in self.all for event in one.io.output_events]
        for component in self.all:
            name, handled = component.name, wiring_of(component).handlers
            for event in component.io.input_events:
                where = f"event {event.__name__}"
                if not issubclass(event, StopEvent):
                    if not self.unmade and not any(issubclass(one, event) for one in sent):
                        close = did_you_mean(event.__name__, {one.__name__ for one in sent})
                        yield Finding(f"no component has it in its output_events{close}", name, where)
                    alone = not component.io.inputs and type(component).step is not Component.step
                    if not alone and not any(issubclass(event, one) for one in handled):
                        yield Finding(f"it has no handler: @{event.__name__}.handler", name, where)
            for event, (method, what) in handled.items():
                where = f"event {event.__name__}"
                if not _is_listed(event, component.io.input_events):
                    yield Finding(f"{method} handles it, but it is not in the component's input_events", name, where)
                for field in what.populates_fields:
                    if field not in component.io.inputs:
                        close = did_you_mean(field, component.io.inputs)
                        yield Finding(
                            f"{method} populates it, but there is no such input{close}", name, f"input {field!r}"
                        )

    def cycles(self) -> Iterator[Finding]:
        """Cycles that deadlock."""
        for cycle in deadlocked_cycles(self._needs()):
            route = " → ".join(connector.id.replace("..", " → ") for connector in cycle)
            field = cycle[-1].spec.target
            yield Finding(
                f"a cycle enters here that can never begin ({route}): give initial values to an input on it, "
                f"such as initial_values={{{cycle[-1].spec.input!r}: […]}} of {field.rpartition('.')[0]!r}",
                cycle[-1].spec.target_component,
                f"input {cycle[-1].spec.input!r}",
            )

    def _needs(self) -> dict[str, list[list[Connector]]]:
        """For every component what it needs for its first step: of each list one connector that brings something."""
        needs: dict[str, list[list[Connector]]] = {}
        for name, component in self.components.items():
            needs[name] = []
            if component.io.input_events:
                continue  # its handlers may set outputs without a step
            for field in component.io.inputs:
                fed = self.fed[name, field]
                # What is fed by something that is wrong itself may be fed when that is right.
                sure = all(one.id not in self.loose and one.spec.source_component in self.components for one in fed)
                if fed and sure and not component.initial_values.get(field) and field not in self.populated[name]:
                    needs[name].append(fed)
        return needs


def _is_listed(event: type[Event], listed: Iterable[type[Event]]) -> bool:
    return any(issubclass(one, event) for one in listed)


def _field_problem(name: str) -> str | None:
    if not name.isidentifier() or keyword.iskeyword(name):
        return "a field is an attribute: its name has to be one that Python allows for a variable"
    if is_framework_name(name):
        return "a component has an attribute of that name already; call the field something else"
    return None


def _repaired(name: str, further: str = "") -> str:
    repaired = re.sub(rf"[^A-Za-z0-9_{re.escape(further)}-]+", "_", name).lstrip("-.") or "_"
    return repaired if repaired[0].isalpha() or repaired[0] == "_" else f"_{repaired}"
