"""A model as it is written in a file::

    stbass:
      process:
        type: stbass.dataflow.LocalProcess      # may be left out
        connector_builder:                      # what connectors are, unless they say otherwise; may be left out
          type: stbass.dataflow.AsyncioConnector
          args: {maxsize: 100}
        args:
          name: my-process
          parameters: {rate: 0.5}
          state: {type: stbass.dataflow.SqliteStateBackend, args: {db_path: jobs.db}}
          components:
          - type: my_model.Counter
            args: {name: counter, iters: 10}
          - type: my_model.Writer
            args: {name: writer}
          connectors:
          - {source: counter.out, target: writer.in, mode: pipeline}
          - {source: counter.log, target: writer.log, type: stbass.dataflow.RedisConnector, args: {maxsize: 8}}

A file of the other tool, whose top key is ``plugboard``, is read in the same way.

**A model file is code**: the classes that it names are imported and called with its arguments. Run only files that
you would run as programs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from stbass._values.masking import has_mask
from stbass._values.nearest import did_you_mean
from stbass.dataflow.model.connector import ConnectorMode
from stbass.dataflow.spec.yamlfile import Path, path_text, read_yaml
from stbass.errors import SpecError

__all__ = ["ConnectorEntry", "Findings", "Part", "ProcessSpec", "load", "loads", "parse"]

TOP_KEYS = ("stbass", "plugboard")
LOCAL = "stbass.dataflow.LocalProcess"


@dataclass(frozen=True, slots=True)
class Part:
    """Something to make: the name of its class, and the arguments. ``path`` is where in the file it stands."""

    type: str
    args: Mapping[str, Any] = field(default_factory=dict)
    path: Path = ()


@dataclass(frozen=True, slots=True)
class ConnectorEntry:
    """A connector: from where to where, and what it is if it says so."""

    source: str
    target: str
    mode: str = "pipeline"
    kind: Part | None = None
    path: Path = ()


class Findings:
    """The mistakes in a file, each with its place.

    Args:
        lines: where each part of the file stands.
        top: what all paths begin with in the file; it is not shown.
        earlier: what was found before.
    """

    def __init__(self, lines: Mapping[Path, int] | None = None, top: Path = (), earlier: Iterable[str] = ()) -> None:
        self._lines = lines or {}
        self._top = top
        self._found = dict.fromkeys(earlier)
        self._causes: list[Exception] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, problem: str, cause: Exception | None = None) -> None:
        """Note what is wrong with what stands at this path."""
        line = None
        place = (*self._top, *path)
        while line is None and place:
            # What is missing stands nowhere; what it is missing in does.
            line = self._lines.get(place)
            place = place[:-1]
        where = path_text(path) or "the file"
        self._found[f"{where}{'' if line is None else f' (line {line})'}: {problem}"] = None
        if cause is not None:
            self._causes.append(cause)

    def copy(self) -> Findings:
        """The same, to which more can be added."""
        return Findings(self._lines, self._top, self._found)

    def note(self, finding: str) -> None:
        """Note a finding that says by itself where it is."""
        self._found[finding] = None

    @property
    def all(self) -> tuple[str, ...]:
        """One text for each."""
        return tuple(self._found)

    def raise_if_any(self) -> None:
        """Raise them all in one error.

        Raises:
            SpecError: there are some. Its cause are the errors that came of making the parts, if any did.
        """
        if not self._found:
            return
        count = len(self._found)
        head = "the model has a mistake" if count == 1 else f"the model has {count} mistakes"
        error = SpecError("\n".join([f"{head}:", *(f"  {finding}" for finding in self._found)]), findings=self.all)
        if self._causes:
            raise error from ExceptionGroup("what came of making its parts", self._causes)
        raise error


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A model as it is written, of which nothing is made yet.

    Args:
        type: the class of the process.
        args: its further arguments, by name: all but ``components``, ``connectors`` and ``state``.
        components: what it consists of.
        connectors: what connects them.
        connector_builder: what connectors are that do not say it themselves.
        state: where its state is kept.
        findings: what is wrong with it, as far as that can be told before anything is made.
    """

    type: str = LOCAL
    args: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[Part, ...] = ()
    connectors: tuple[ConnectorEntry, ...] = ()
    connector_builder: Part | None = None
    state: Part | None = None
    findings: Findings = field(default_factory=Findings, compare=False)

    def with_state(self, state: Part) -> ProcessSpec:
        """The same model with another state."""
        return replace(self, state=state)

    def with_job(self, job_id: str) -> ProcessSpec:
        """The same model, as this job.

        Raises:
            ValueError: it has no state that could keep a job.
        """
        if self.state is None:
            raise ValueError("the model has no state that lasts, so there is no job to go on with")
        return replace(self, state=replace(self.state, args={**self.state.args, "job_id": job_id}))


def load(path: FilePath | str) -> ProcessSpec:
    """Read a model from a file. Nothing is imported or made.

    Raises:
        OSError: it cannot be read.
        MissingDependencyError: PyYAML is not installed.
        SpecError: it is no YAML.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem = f"this is no text in UTF-8: {error.reason} at byte {error.start}"
        raise SpecError(problem, findings=(problem,)) from error
    return loads(text)


def loads(text: str) -> ProcessSpec:
    """Read a model from text; see :func:`load`."""
    document = read_yaml(text)
    return parse(document.data, document.lines)


def parse(data: Any, lines: Mapping[Path, int] | None = None) -> ProcessSpec:
    """A model from plain data: the whole of a file, or what stands below ``process``, as ``Process.export()`` gives it.

    What is wrong is noted in the spec's ``findings``; :meth:`ProcessBuilder.build` raises it, together with what turns
    out to be wrong when things are made.
    """
    if isinstance(data, Mapping) and "args" in data:
        return _Reader({}, ()).process({"process": data})
    if isinstance(data, Mapping) and "process" in data:
        return _Reader({}, ()).process(data)
    found = Findings(lines)
    if not isinstance(data, Mapping):
        found.add((), f"a model stands below {_or(TOP_KEYS)}; this is {_kind(data)}")
        return ProcessSpec(findings=found)
    present = [key for key in TOP_KEYS if key in data]
    for key in data:
        if key not in TOP_KEYS:
            found.add((str(key),), f"unknown key{did_you_mean(key, TOP_KEYS)}; a model stands below {_or(TOP_KEYS)}")
    if len(present) > 1:
        found.add((present[1],), f"there is a model below {present[0]!r} already")
    if not present:
        found.add((), f"there is no model in it; a model stands below {_or(TOP_KEYS)}")
        return ProcessSpec(findings=found)
    return _Reader(lines or {}, (present[0],), found.all).process(data[present[0]])


def _or(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)


class _Reader:
    """Takes a model apart, and notes what is not as it should be."""

    def __init__(self, lines: Mapping[Path, int], top: Path, earlier: Iterable[str] = ()) -> None:
        self.found = Findings(lines, top, earlier)
        self.foreign = top == ("plugboard",)

    def process(self, data: Any) -> ProcessSpec:
        outer = self.mapping(data, (), ("process", "tune") if self.foreign else ("process",), ("process",))
        path: Path = ("process",)
        body: dict[str, Any] = {}
        args: dict[str, Any] = {}
        if outer.get("process") is not None:
            body = self.mapping(outer["process"], path, ("type", "connector_builder", "args"), ("args",))
        inside = (*path, "args")
        if body.get("args") is not None:
            args = self.mapping(body["args"], inside, None, ("components",))
        spec = ProcessSpec(
            type=self.text(body.get("type"), (*path, "type")) or LOCAL,
            args={key: one for key, one in args.items() if key not in ("components", "connectors", "state")},
            components=tuple(self.components(args.get("components"), (*inside, "components"))),
            connectors=tuple(self.connectors(args.get("connectors"), (*inside, "connectors"))),
            connector_builder=self.builder(body.get("connector_builder"), (*path, "connector_builder")),
            state=self.part(args.get("state"), (*inside, "state")),
            findings=self.found,
        )
        if spec.args.get("name") is None:
            spec = replace(spec, args={key: one for key, one in spec.args.items() if key != "name"})
        return spec

    def components(self, data: Any, path: Path) -> Iterable[Part]:
        for index, one in enumerate(self.items(data, path)):
            part = self.part(one, (*path, index), needed=True)
            if part is not None:
                yield part

    def connectors(self, data: Any, path: Path) -> Iterable[ConnectorEntry]:
        keys = ("source", "target", "mode", "type", "args")
        for index, one in enumerate(self.items(data, path)):
            here = (*path, index)
            entry = self.mapping(one, here, keys, ("source", "target"))
            source = self.end(entry.get("source"), (*here, "source"))
            target = self.end(entry.get("target"), (*here, "target"))
            mode = self.text(entry.get("mode"), (*here, "mode")) or "pipeline"
            modes = [mode.value for mode in ConnectorMode]
            if mode not in modes:
                self.found.add(
                    (*here, "mode"), f"there is no mode {mode!r}{did_you_mean(mode, modes)}; the modes are {_or(modes)}"
                )
                mode = "pipeline"
            kind = None
            if entry.get("type") is not None or entry.get("args") is not None:
                what = {key: entry[key] for key in ("type", "args") if key in entry}
                kind = self.part(what, here, needed=True)
            if source and target:
                yield ConnectorEntry(source, target, mode, kind, here)

    def builder(self, data: Any, path: Path) -> Part | None:
        part = self.part(data, path)
        if part is None or not self.foreign:
            return part
        # The other tool writes these for every connector, and they say nothing.
        empty = [key for key in ("parameters", "constraints") if not part.args.get(key, True)]
        return replace(part, args={key: one for key, one in part.args.items() if key not in empty})

    def part(self, data: Any, path: Path, *, needed: bool = False) -> Part | None:
        if data is None and not needed:
            return None
        entry = self.mapping(data, path, ("type", "args"), ("type",))
        kind = self.text(entry.get("type"), (*path, "type"))
        args = self.mapping({} if entry.get("args") is None else entry["args"], (*path, "args"), None, ())
        if self.foreign and kind is not None and kind.startswith("plugboard."):
            # Its classes are written with all of their arguments; null says nothing, also of those that ours lack.
            args = {key: one for key, one in args.items() if one is not None}
            if kind.endswith(".SqliteStateBackend"):
                args.setdefault("db_path", "plugboard.db")  # what it is there if nothing is said
        for name, value in args.items():
            if has_mask(value):
                self.found.add(
                    (*path, "args", name), "the password was left out when this was written: put it in, in place of ***"
                )
        return None if kind is None else Part(kind, args, path)

    def end(self, data: Any, path: Path) -> str | None:
        """One end of a connector, ``component.field``."""
        if isinstance(data, Mapping) and set(data) == {"entity", "descriptor"}:
            data = ".".join(str(data[key]) for key in ("entity", "descriptor"))
        text = self.text(data, path)
        if text is None:
            return None
        component, dot, name = text.rpartition(".")
        if not (component and dot and name):
            self.found.add(path, f"{text!r} is not of the form 'component.field'")
            return None
        return text

    def mapping(self, data: Any, path: Path, known: Collection[str] | None, needed: Iterable[str]) -> dict[str, Any]:
        """The data as a mapping with these keys; empty if it is none."""
        if data is None and needed:
            data = {}  # what is missing in it says enough
        if not isinstance(data, Mapping):
            self.wrong(data, path, "a mapping")
            return {}
        for key in data:
            if not isinstance(key, str):
                self.found.add((*path, str(key)), f"a key must be text, got {_kind(key)}")
            elif known is not None and key not in known:
                self.found.add((*path, key), f"unknown key{did_you_mean(key, known)}; there is {_or(known)}")
        for key in needed:
            if data.get(key) is None:
                self.found.add((*path, key), "it is missing")
        return {key: one for key, one in data.items() if isinstance(key, str)}

    def items(self, data: Any, path: Path) -> list[Any]:
        if data is None:
            return []
        if not isinstance(data, list | tuple):
            self.wrong(data, path, "a list")
            return []
        return list(data)

    def text(self, data: Any, path: Path) -> str | None:
        if data is None:
            return None
        if not isinstance(data, str) or not data.strip():
            self.wrong(data, path, "text")
            return None
        return str(data)

    def wrong(self, data: Any, path: Path, wanted: str) -> None:
        self.found.add(path, f"it must be {wanted}, got {_kind(data)}")


def _kind(data: Any) -> str:
    """What it is, in the words of YAML."""
    if data is None:
        return "nothing"
    if data == "":
        return "empty text"
    if isinstance(data, Mapping):
        return "a mapping"
    if isinstance(data, list | tuple):
        return "a list"
    text = repr(data)
    return f"{type(data).__name__} {text if len(text) <= 40 else text[:39] + '…'}"
