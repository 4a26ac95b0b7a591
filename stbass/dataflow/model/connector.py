"""Connectors: from the output of one component to the input of another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, Self, TypeVar

from stbass._values.checks import is_whole, member_of
from stbass._values.texts import value_text
from stbass.dataflow.export import Exportable

__all__ = [
    "DEFAULT_MAXSIZE",
    "AsyncioConnector",
    "Connector",
    "ConnectorBuilder",
    "ConnectorMode",
    "ConnectorSpec",
    "RayConnector",
    "RedisConnector",
]

DEFAULT_MAXSIZE = 64
"""How many values a connector holds that nobody has taken yet, unless it is told otherwise."""


class ConnectorMode(StrEnum):
    """How values are distributed. Both modes mean the same here: every connected input gets every value."""

    PIPELINE = "pipeline"
    PUBSUB = "pubsub"


@dataclass(frozen=True)
class ConnectorSpec:
    """From which output to which input.

    Args:
        source: ``"component.output"``.
        target: ``"component.input"``.
        mode: ``"pipeline"`` or ``"pubsub"``; both mean the same: one output may lead to many inputs, each of which gets
            every value, and many outputs to one input, which gets them in the order in which they arrive.

    Raises:
        TypeError: an end is not text.
        ValueError: an end is not of the form ``component.field``, or there is no such mode.
    """

    source: str
    target: str
    mode: ConnectorMode | str = ConnectorMode.PIPELINE

    def __post_init__(self) -> None:
        for end, text in (("source", self.source), ("target", self.target)):
            if not isinstance(text, str):
                raise TypeError(f"ConnectorSpec({end}=…) takes text such as 'component.field', got {value_text(text)}")
            component, dot, name = text.rpartition(".")
            if not (component and dot and name):
                raise ValueError(f"ConnectorSpec({end}={text!r}): it has to be of the form 'component.field'")
        mode = member_of(ConnectorMode, self.mode)
        if mode is None:
            known = ", ".join(repr(mode.value) for mode in ConnectorMode)
            raise ValueError(f"ConnectorSpec(mode={value_text(self.mode)}): the modes are {known}")
        object.__setattr__(self, "mode", mode)

    @property
    def id(self) -> str:
        """What it is known by: ``source..target``."""
        return f"{self.source}..{self.target}"

    @property
    def source_component(self) -> str:
        """The name of the component that sends."""
        return self.source.rpartition(".")[0]

    @property
    def output(self) -> str:
        """The name of its output."""
        return self.source.rpartition(".")[2]

    @property
    def target_component(self) -> str:
        """The name of the component that receives."""
        return self.target.rpartition(".")[0]

    @property
    def input(self) -> str:
        """The name of its input."""
        return self.target.rpartition(".")[2]

    def dict(self) -> dict[str, Any]:
        """Plain data that this class takes as its arguments."""
        return {"source": self.source, "target": self.target, "mode": str(self.mode)}


class Connector(Exportable):
    """A connection between two fields, and what it runs on. Use one of its kinds.

    Args:
        spec: from where to where.
        maxsize: how many values may lie in it that nobody has taken yet. A component that sends more waits.

    Raises:
        TypeError: ``spec`` is no :class:`ConnectorSpec`, or ``maxsize`` is not a whole number.
        ValueError: ``maxsize`` is less than 1.
    """

    kinds: ClassVar[frozenset[str]] = frozenset()
    """The kinds of process that can use it: ``"local"``, ``"ray"``, ``"celery"``."""

    def __init__(self, spec: ConnectorSpec, *, maxsize: int = DEFAULT_MAXSIZE) -> None:
        if type(self) is Connector:
            raise TypeError("Connector is what its kinds have in common; use one of them, such as AsyncioConnector")
        if not isinstance(spec, ConnectorSpec):
            raise TypeError(f"{type(self).__name__}(spec=…) takes a ConnectorSpec, got {value_text(spec)}")
        if not is_whole(maxsize):
            raise TypeError(f"{type(self).__name__}(maxsize=…) takes a whole number, got {value_text(maxsize)}")
        if maxsize < 1:
            raise ValueError(
                f"{type(self).__name__}(maxsize={maxsize}): at least 1; a connector without bounds does not exist"
            )
        self.spec = spec
        self.maxsize = maxsize

    @property
    def id(self) -> str:
        """What it is known by: ``source..target``."""
        return self.spec.id

    @property
    def copies(self) -> bool:
        """Whether who receives a value gets a copy of it."""
        return True

    @classmethod
    def builder(cls, **kwargs: Any) -> ConnectorBuilder[Self]:
        """A function that makes such connectors from specs, with these arguments for each."""
        return ConnectorBuilder(cls, **kwargs)

    def export(self) -> dict[str, Any]:
        """What it takes to make it again; see :meth:`Exportable.export`. The spec is plain data."""
        made = super().export()
        if isinstance(made["args"].get("spec"), ConnectorSpec):
            made["args"]["spec"] = made["args"]["spec"].dict()
        return made

    def dict(self) -> dict[str, Any]:
        """What there is to know about it, as data."""
        return {"id": self.id, **self.export()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.source} → {self.spec.target}>"


C = TypeVar("C", bound=Connector)


class ConnectorBuilder(Generic[C]):
    """Makes connectors of one kind; see :meth:`Connector.builder`.

    Args:
        connector_cls: the class.
        **arguments: what each is given beside its spec.
    """

    def __init__(self, connector_cls: type[C], **arguments: Any) -> None:
        self.kind = connector_cls
        self.arguments = arguments

    def __call__(self, spec: ConnectorSpec) -> C:
        """A connector for this spec."""
        return self.kind(spec, **self.arguments)

    def build(self, spec: ConnectorSpec) -> C:
        """The same as calling it."""
        return self(spec)

    def build_event_connectors(self, components: Iterable[object]) -> list[C]:
        """None: an event goes from who sends it to who handles it without a connector.

        For programs that add them to the connectors of a process, as they have to elsewhere.
        """
        return []


class AsyncioConnector(Connector):
    """Between components on one event loop. Where a process runs them in several places, it goes between those too.

    Args:
        spec: from where to where.
        maxsize: how many values may lie in it that nobody has taken yet.
        copy: whether a value that could be changed later is copied for who receives it. False hands it over itself:
            faster for large values, and right as long as the component that sends it does not change it any more.
            (Between places it travels, and so is another one anyway.)
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"local", "ray", "celery"})

    def __init__(self, spec: ConnectorSpec, *, maxsize: int = DEFAULT_MAXSIZE, copy: bool = True) -> None:
        super().__init__(spec, maxsize=maxsize)
        if not isinstance(copy, bool):
            raise TypeError(f"AsyncioConnector(copy=…) takes True or False, got {value_text(copy)}")
        self._copy = copy

    @property
    def copies(self) -> bool:
        """Whether who receives a value gets a copy of it."""
        return self._copy


class RedisConnector(Connector):
    """Between components on different machines of a fleet, through its Redis server.

    Between components that run on one event loop after all it is the same as an :class:`AsyncioConnector`.

    It takes what :class:`Connector` takes.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"celery", "local"})


class RayConnector(Connector):
    """Between Ray actors.

    Between components that run on one event loop after all it is the same as an :class:`AsyncioConnector`.

    It takes what :class:`Connector` takes.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"ray", "local"})
