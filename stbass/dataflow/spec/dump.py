"""A process as data, and as a file that it can be built from again.

What is written of a process is its class, its arguments and what it consists of: these functions are given that.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from stbass._values.masking import without_secrets
from stbass.dataflow.export import Exportable, class_path
from stbass.dataflow.model.components import Component, wiring_of
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.model.function import ComponentFunction
from stbass.dataflow.spec.lookup import NotThere, find
from stbass.dataflow.spec.model import Findings
from stbass.dataflow.spec.plain import NotPlain, hints_of, plain
from stbass.dataflow.spec.yamlfile import Path, path_text, write_yaml

__all__ = ["dump_process", "export_process"]


def export_process(
    process: Exportable, name: str, components: Iterable[Component], connectors: Iterable[Connector]
) -> dict[str, Any]:
    """What it takes to make the process again: see :mod:`stbass.dataflow.spec.model`, below ``process``.

    Arguments are as they were given, but for passwords, which are masked.
    """
    return _Exporter(None).process(process, name, components, connectors)


def dump_process(
    path: FilePath | str,
    process: Exportable,
    name: str,
    components: Iterable[Component],
    connectors: Iterable[Connector],
) -> None:
    """Write the process to a YAML file, which ``stbass process`` and ``ProcessBuilder`` read.

    Args:
        path: the file; it is overwritten if it exists. Folders above it are made.
        process: the process.
        name: its name.
        components: what it consists of.
        connectors: what connects them.

    Raises:
        ValueError: the file's name ends neither in ``.yaml`` nor in ``.yml``.
        SpecError: an argument is nothing that YAML has, or a class cannot be found by its name; says all of them.
        MissingDependencyError: PyYAML is not installed.
    """
    file = FilePath(path)
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"the name of a model's file ends in .yaml or .yml, got {str(path)!r}")
    findings = Findings()
    data = _Exporter(findings).process(process, name, components, connectors)
    findings.raise_if_any()
    text = write_yaml({"stbass": {"process": data}})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


class _Exporter:
    """Puts a process down as data.

    Args:
        findings: where to note what a file cannot hold; without it, arguments stay as they are.
    """

    def __init__(self, findings: Findings | None) -> None:
        self.findings = findings

    def process(
        self,
        process: Exportable,
        process_name: str,
        components: Iterable[Component],
        connectors: Iterable[Connector],
    ) -> dict[str, Any]:
        path: Path = ("process",)
        given = process.arguments()
        data: dict[str, Any] = {"type": self.type_of(process, path)}
        connectors = list(connectors)
        kinds = [self.kind_of(one, (*path, "args", "connectors", index)) for index, one in enumerate(connectors)]
        usual = _most_common(kinds)
        if usual is not None:
            data["connector_builder"] = usual
        args: dict[str, Any] = {"name": process_name}
        takes = inspect.signature(type(process)).parameters
        for name, value in given.items():
            # None is left out where it is what nothing means.
            means = value is not None or (name in takes and takes[name].default is not None)
            if name not in ("components", "connectors", "name") and means:
                args[name] = self.argument(process, name, value, (*path, "args", name))
        args["components"] = [
            {"type": self.type_of(one, here), "args": self.arguments(one, here)}
            for index, one in enumerate(components)
            for here in [(*path, "args", "components", index)]
        ]
        args["connectors"] = [
            one.spec.dict() if kind == usual else {**one.spec.dict(), **kind}
            for one, kind in zip(connectors, kinds, strict=True)
        ]
        data["args"] = args
        return data

    def kind_of(self, connector: Connector, path: Path) -> dict[str, Any]:
        """What a connector is, whatever it connects."""
        args = {name: one for name, one in self.arguments(connector, path).items() if name != "spec"}
        return {"type": self.type_of(connector, path), **({"args": args} if args else {})}

    def arguments(self, made: Exportable, path: Path) -> dict[str, Any]:
        try:
            given = made.arguments()
        except TypeError as error:
            if self.findings is None:
                raise
            self.findings.add((*path, "args"), str(error))
            return {}
        if isinstance(made, Component) and isinstance(given.get("initial_values"), Mapping):
            # Whatever values they were taken from, lists are as good.
            taken = wiring_of(made).initial_values
            given["initial_values"] = {field: list(taken.get(field, ())) for field in given["initial_values"]}
        if isinstance(made, Component) and given.get("resources") is not None and made.resources is not None:
            given["resources"] = made.resources.dict()
        return {name: self.argument(made, name, one, (*path, "args", name)) for name, one in given.items()}

    def argument(self, made: Exportable, name: str, value: Any, path: Path) -> Any:
        return without_secrets(name, self._argument(made, name, value, path))

    def _argument(self, made: Exportable, name: str, value: Any, path: Path) -> Any:
        if isinstance(value, Exportable) and (name == "state" or self.findings is None):
            return {"type": self.type_of(value, path), "args": self.arguments(value, path)}
        if self.findings is None or (isinstance(made, Connector) and name == "spec"):
            return value
        try:
            return plain(value, hints_of(type(made)).get(name))
        except NotPlain as problem:
            self.findings.note(f"{path_text(path)}{problem.path}: {problem.why}")
            return None

    def type_of(self, made: Exportable, path: Path) -> str:
        """The name of its class; in a file it has to lead back to the class."""
        name = class_path(type(made))
        if self.findings is None:
            return name
        problem = None
        if "<" in name:
            problem = f"{name} is defined inside a function; only what stands in a module can be found by its name"
        elif name.startswith("__main__."):
            problem = f"{name} is defined in an interactive session; only what stands in a module can be found again"
        else:
            try:
                found = find(name)
            except NotThere as error:
                problem = str(error)
            else:
                kind = found.kind if isinstance(found, ComponentFunction) else found
                if kind is not type(made):
                    problem = f"{name} is something else than what this is of: {type(made)!r}"
        if problem is not None:
            self.findings.add((*path, "type"), problem)
        return name


def _most_common(kinds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What most are; the first of those that are equally many."""
    if not kinds:
        return None
    counted = Counter(next(index for index, one in enumerate(kinds) if one == kind) for kind in kinds)
    return kinds[max(counted, key=lambda index: (counted[index], -index))]
