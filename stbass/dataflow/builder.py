"""Building a process from its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from stbass._values.nearest import did_you_mean
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.connector import AsyncioConnector, Connector, ConnectorSpec
from stbass.dataflow.model.function import ComponentFunction
from stbass.dataflow.process import Process
from stbass.dataflow.spec.lookup import NotThere, find, is_ours
from stbass.dataflow.spec.model import ConnectorEntry, Findings, Part, ProcessSpec, parse
from stbass.dataflow.spec.plain import alternatives, hints_of, restored
from stbass.dataflow.spec.validation import check_names, findings, name_findings
from stbass.dataflow.state.base import StateBackend
from stbass.errors import InvalidProcessError, MissingDependencyError

__all__ = ["ProcessBuilder"]

_KINDS = {
    "local": "stbass.dataflow.LocalProcess",
    "ray": "stbass.dataflow.RayProcess",
    "celery": "stbass.dataflow.CeleryProcess",
}
_SHARED = ("name", "parameters", "checkpoint_every")
"""Arguments that every kind of process has, beside its parts and its state."""
_FIXED = (int, float, str, bool, type(None))


class ProcessBuilder:
    """Builds processes from descriptions of them."""

    @staticmethod
    def build(spec: ProcessSpec | Mapping[str, Any], *, kind: str | None = None) -> Process:
        """Make the process, its components, connectors and state. Classes are imported by their names.

        Args:
            spec: from :func:`stbass.dataflow.spec.model.load`, or plain data: the whole of a file, or what
                :meth:`Process.export` gives.
            kind: ``"local"``, ``"ray"`` or ``"celery"`` makes a process of that kind, whatever the spec says. Of the
                process's own arguments those that every kind has are kept then (name, parameters, checkpoint_every; not
                placement, which means another thing elsewhere), and connectors that it cannot use are plain ones.

        Raises:
            SpecError: it is wrong; ``findings`` are all that is wrong with it, each with its place. What is wrong with
                how the parts are connected is among them if there is anything else; else ``init`` of the process
                says it.
            MissingDependencyError: a class needs a package that is not installed.
        """
        if not isinstance(spec, ProcessSpec):
            spec = parse(spec)
        return _Maker(spec.findings.copy(), kind).process(spec)

    @staticmethod
    def check(spec: ProcessSpec | Mapping[str, Any], *, kind: str | None = None) -> None:
        """Check what can be checked of a description that somebody else has written: nothing but stbass is imported.

        That is its form, all names, the ends of connectors, and the parts that are stbass's own. Whether the other
        classes are there, and take their arguments, only :meth:`build` finds out.

        Args:
            spec: as of :meth:`build`.
            kind: as of :meth:`build`.

        Raises:
            SpecError: it is wrong; ``findings`` are all that is wrong with it, each with its place.
            MissingDependencyError: a class of stbass needs a package that is not installed.
        """
        if not isinstance(spec, ProcessSpec):
            spec = parse(spec)
        _Maker(spec.findings.copy(), kind, imports=False).check(spec)


class _Maker:
    """Makes the parts of a process, and notes which cannot be made, and why.

    Args:
        found: what is wrong already.
        wanted: the kind of the process, whatever the description says.
        imports: whether parts are made that are not stbass's own.
    """

    def __init__(self, found: Findings, wanted: str | None, *, imports: bool = True) -> None:
        self.found = found
        self.wanted = wanted
        self.imports = imports
        self.unmade: set[str] = set()

    def process(self, spec: ProcessSpec) -> Process:
        kind = self.class_of(Part(spec.type, path=("process",)), Process, "a process")
        if self.wanted is not None and (kind is None or kind.kind != self.wanted):
            kind = find(_KINDS[self.wanted])
            spec = replace(spec, args={name: one for name, one in spec.args.items() if name in _SHARED})
        components, connectors, args = self.parts(spec)
        if kind is None or self.found:
            self.rest(components, connectors, kind)
            self.found.raise_if_any()
        made = self.make(kind, Part(spec.type, args, ("process",)), components=components, connectors=connectors)
        self.found.raise_if_any()
        assert isinstance(made, Process)
        return made

    def check(self, spec: ProcessSpec) -> None:
        """See :meth:`ProcessBuilder.check`."""
        kind = self.class_of(Part(spec.type, path=("process",)), Process, "a process")
        if self.wanted is not None:
            kind = find(_KINDS[self.wanted])
        components, connectors, _ = self.parts(spec)
        names = [name for part in spec.components if isinstance(name := part.args.get("name"), str)]
        for finding in name_findings(names):
            self.found.note(str(finding))
        self.rest(components, connectors, kind)
        self.found.raise_if_any()

    def parts(self, spec: ProcessSpec) -> tuple[list[Component], list[Connector], dict[str, Any]]:
        """The components and connectors that can be made, and the arguments of the process with its state."""
        components = [made for part in spec.components if (made := self.component(part)) is not None]
        connectors = list(self.connectors(spec))
        args = dict(spec.args)
        if spec.state is not None:
            args["state"] = self.state(spec.state)
        self.names(spec, components, connectors)
        return components, connectors, args

    def rest(self, components: list[Component], connectors: list[Connector], kind: Any) -> None:
        """Note the rest of what is wrong, as far as it does not come of what is wrong already."""
        name = "local" if kind is None else kind.kind
        for finding in findings(components, connectors, kind=name, unmade=self.unmade):
            self.found.note(str(finding))

    def names(self, spec: ProcessSpec, components: list[Component], connectors: list[Connector]) -> None:
        """Note what the constructor of a process would refuse."""
        try:
            check_names(spec.args.get("name"), [], [])
        except InvalidProcessError as error:
            for finding in error.findings:
                self.found.add(("process", "args", "name"), finding)
        try:
            check_names(None, components, connectors)
        except InvalidProcessError as error:
            for finding in error.findings:
                self.found.note(finding)

    def component(self, part: Part) -> Component | None:
        found = self.class_of(part, Component, "a component")
        args = dict(part.args)
        if isinstance(args.get("state"), Mapping) and found is not None:
            state = args["state"]
            known = {key: state.get(key) or {} for key in ("type", "args")}
            args["state"] = self.state(Part(str(known["type"]), known["args"], (*part.path, "args", "state")))
        made = None if found is None else self.make(found, Part(part.type, args, part.path))
        if made is None and isinstance(part.args.get("name"), str):
            self.unmade.add(part.args["name"])
        return made

    def connectors(self, spec: ProcessSpec) -> Iterable[Connector]:
        usual = spec.connector_builder
        default = AsyncioConnector if usual is None else self.class_of(usual, Connector, "a connector")
        for entry in spec.connectors:
            kind, args, path = default, {} if usual is None else usual.args, entry.path
            if entry.kind is not None:
                kind, args = self.class_of(entry.kind, Connector, "a connector"), entry.kind.args
            if kind is None and not self.imports:
                kind, args = AsyncioConnector, {}  # one that is not looked at, for what it connects
            if kind is not None:
                made = self.connector(entry, kind, args, path)
                if made is not None:
                    yield made

    def connector(
        self, entry: ConnectorEntry, kind: Any, args: Mapping[str, Any], path: tuple[str | int, ...]
    ) -> Connector | None:
        given = {key: one for key, one in args.items() if key != "spec"}
        spec = ConnectorSpec(entry.source, entry.target, entry.mode)
        if self.wanted is not None and self.wanted not in kind.kinds:
            kind, given = AsyncioConnector, {key: one for key, one in given.items() if key == "maxsize"}
        made = self.make(kind, Part(kind.__name__, given, path), spec=spec)
        return made if isinstance(made, Connector) else None

    def state(self, part: Part) -> StateBackend | None:
        kind = self.class_of(part, StateBackend, "a state backend")
        return None if kind is None else self.make(kind, part)

    def class_of(self, part: Part, base: type, what: str) -> Any:
        """The class, or component function, that the part names; None, and a finding, if it is none of that kind.

        None, and no finding, if it is not to be looked at.
        """
        path = (*part.path, "type")
        try:
            if not self.imports and not is_ours(part.type):
                return None
            found = find(part.type)
        except NotThere as error:
            cause = error.__cause__
            self.found.add(path, str(error), cause if isinstance(cause, Exception) else None)
            return None
        if base is Component and isinstance(found, ComponentFunction):
            return found
        problem = None
        if not isinstance(found, type):
            problem = f"{part.type} is no class"
            if base is Component and inspect.isfunction(found):
                problem += "; a function becomes a component by @component(inputs=[…], outputs=[…])"
        elif not issubclass(found, base):
            problem = f"{part.type} is not {what}"
            if any(parent.__module__.partition(".")[0] == "plugboard" for parent in found.__mro__):
                problem += f": it derives from the other tool's; let it derive from {base.__name__} of stbass.dataflow"
        elif inspect.isabstract(found):
            lacks = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            problem = f"{part.type} is abstract: it lacks {lacks}"
        if problem is not None:
            self.found.add(path, problem)
            return None
        return found

    def make(self, kind: Any, part: Part, **more: Any) -> Any:
        """An instance; None, and findings, if it cannot be made."""
        cls = kind.kind if isinstance(kind, ComponentFunction) else kind
        factory = kind.component if isinstance(kind, ComponentFunction) else kind
        hints = hints_of(cls)
        args: dict[str, Any] = {}
        wrong = False
        for name, value in part.args.items():
            args[name] = restored(value, hints.get(name))
            problem = _mismatch(value, hints.get(name))
            if problem is not None:
                wrong = True
                self.found.add((*part.path, "args", name), problem)
        if wrong:
            return None
        try:
            return factory(**args, **more)
        except MissingDependencyError:
            raise
        except Exception as error:
            # A constructor is user code, and may raise anything.
            unknown = _unknown(cls, part.args) if isinstance(error, TypeError) else []
            for name, hint in unknown:
                self.found.add((*part.path, "args", name), f"{part.type} takes no such argument{hint}", error)
            if not unknown:
                text = f"{part.type} cannot be made: {type(error).__name__}: {error}"
                self.found.add((*part.path, "args"), text, error)
            return None


def _mismatch(value: Any, hint: Any) -> str | None:
    """The mistake in an argument that has to be a number, text, truth or nothing; None if there is none."""
    takes = alternatives(hint)
    if not takes or not all(one in _FIXED for one in takes):
        return None
    if type(value) in takes or (type(value) is int and float in takes):
        return None
    text = repr(value)
    wanted = " or ".join("null" if one is type(None) else one.__name__ for one in takes)
    return f"it must be {wanted}, got {type(value).__name__} {text if len(text) <= 40 else text[:39] + '…'}"


def _unknown(cls: Callable[..., Any], args: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Arguments that no constructor of the class takes, each with a name that is near."""
    takes: set[str] = set()
    for parent in inspect.getmro(cls) if isinstance(cls, type) else ():
        own = parent.__dict__.get("__init__")
        if inspect.isfunction(own):
            parameters = inspect.signature(own).parameters.values()
            takes.update(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
            if not any(one.kind is one.VAR_KEYWORD for one in parameters):
                break
    takes.discard("self")
    return [(name, did_you_mean(name, takes)) for name in args if name not in takes]
