"""YAML with line numbers, and without surprises: a key that stands twice is a mistake, and so is anything that a
reader would read back differently.

Only YAML's safe part is read: no tag makes an object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from stbass.errors import MissingDependencyError, SpecError

if TYPE_CHECKING:
    from types import ModuleType

    from yaml import MappingNode, Node, SequenceNode

__all__ = ["Document", "Path", "path_text", "read_yaml", "write_yaml"]

Path = tuple[str | int, ...]
"""Where in a document: keys and indexes from its top."""

_DEEP = 100
"""How deep a document may be nested. Ours are about ten; Python's own limit would be met within a thousand."""

_LARGE = 200_000
"""How many values a document may have, those counted again that are referred to again: nine short lines can refer to
each other in a way that makes a thousand million."""

_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML file holds, and on which line each part of it stands (from 1)."""

    data: Any
    lines: Mapping[Path, int]


def path_text(path: Path) -> str:
    """As in ``process.args.components[2].type``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def read_yaml(text: str) -> Document:
    """Read one YAML document.

    Raises:
        MissingDependencyError: PyYAML is not installed.
        SpecError: it is no YAML, nested too deeply, contains itself, or has a key twice.
    """
    yaml = _yaml()
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Path, int] = {}
            findings: list[str] = []
            if node is not None:
                _walk(node, (), (), lines, findings)
            if findings:
                raise SpecError("\n".join(findings), findings=tuple(findings))
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except SpecError:
        raise
    except yaml.YAMLError as error:
        raise _unreadable(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise _unreadable("it is nested too deeply") from error
    except (ValueError, OverflowError, TypeError) as error:
        # PyYAML lets Python's own errors out of values such as the date 2020-99-99.
        raise _unreadable(f"a value in it is none ({error})") from error
    return Document(data, lines)


def write_yaml(data: Any) -> str:
    """The data as YAML, which reads back as the same data.

    Raises:
        MissingDependencyError: PyYAML is not installed.
        SpecError: YAML cannot express it.
    """
    yaml = _yaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[name-defined,misc]
        def ignore_aliases(self, data: Any) -> bool:
            # The same list in two places is two lists for who reads the file.
            return True

    # In the same order each time, whatever a set's own is.
    Dumper.add_representer(
        set, lambda dumper, members: dumper.represent_set(dict.fromkeys(sorted(members, key=_order)))
    )
    try:
        text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
        again = yaml.load(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise SpecError(f"YAML cannot express this: {problem}", findings=(problem,)) from error
    for path in differences(data, again):
        problem = f"{path_text(path)}: YAML cannot express this value so that it reads back the same"
        raise SpecError(problem, findings=(problem,))
    return text


def differences(one: Any, other: Any, path: Path = ()) -> Iterator[Path]:
    """Where two values of plain data differ, by value or by type."""
    if type(one) is not type(other):
        yield path
    elif isinstance(one, dict):
        if list(one) != list(other) or [type(key) for key in one] != [type(key) for key in other]:
            yield path
            return
        for key in one:
            yield from differences(one[key], other[key], (*path, str(key)))
    elif isinstance(one, list):
        if len(one) != len(other):
            yield path
            return
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, (*path, index))
    elif isinstance(one, set):
        if sorted(map(_order, one)) != sorted(map(_order, other)):
            yield path
    elif isinstance(one, float):
        if not (one == other and math.copysign(1, one) == math.copysign(1, other)) and not (one != one != other):
            yield path
    elif one != other or str(one) != str(other):
        # (Two times that are equal may be written in different zones.)
        yield path


def _order(member: Any) -> tuple[str, str]:
    return type(member).__name__, str(member)


def _walk(node: Node, path: Path, above: tuple[int, ...], lines: dict[Path, int], findings: list[str]) -> None:
    """Note where everything stands, and what stands twice; a node is looked at as often as it is referred to."""
    lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        raise _unreadable(f"{path_text(path)} contains itself")
    if len(above) >= _DEEP:
        raise _unreadable("it is nested too deeply")
    if len(lines) > _LARGE:
        raise _unreadable("it is too large")
    inside = (*above, id(node))
    if _is_sequence(node):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), inside, lines, findings)
    elif _is_mapping(node):
        seen: set[tuple[str, str]] = set()
        for key, value in node.value:
            name = str(key.value) if key.id == "scalar" else f"<{key.id}>"
            line = key.start_mark.line + 1
            if key.id == "scalar" and (key.tag, name) in seen and key.tag != _MERGE:
                findings.append(f"{path_text((*path, name))} (line {line}): it stands there twice")
            seen.add((key.tag, name))
            lines[(*path, name)] = line
            _walk(value, (*path, name), inside, lines, findings)


def _is_sequence(node: Node) -> TypeGuard[SequenceNode]:
    return getattr(node, "id", None) == "sequence"


def _is_mapping(node: Node) -> TypeGuard[MappingNode]:
    return getattr(node, "id", None) == "mapping"


def _unreadable(why: str) -> SpecError:
    problem = f"this is no YAML that can be read: {why}"
    return SpecError(problem, findings=(problem,))


def _yaml() -> ModuleType:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("models in YAML need PyYAML: pip install 'stbass-celery[dataflow]'") from error
    return yaml
