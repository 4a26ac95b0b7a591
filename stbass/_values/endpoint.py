"""Where a process should run, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stbass._values.texts import value_text

__all__ = ["Placement", "place_of"]


@dataclass(frozen=True, slots=True, repr=False)
class Placement:
    """Where a process should execute. Frozen, and hashable by its content.

    Its texts for people name what is in ``config``, and never show a value of that: keys are put there.

    Args:
        model: model name, free text for the process to use.
        endpoint: identifier of the endpoint; on a fleet, the name of the queue.
        config: arbitrary configuration for the backend or the process.
    """

    model: str | None = None
    endpoint: str | None = None
    config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for field in ("model", "endpoint"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"Placement.{field} must be a str or None, got {value_text(value)}")
        if self.config is not None and not isinstance(self.config, Mapping):
            raise TypeError(f"Placement.config must be a mapping or None, got a {type(self.config).__name__}")

    def __hash__(self) -> int:
        return hash((self.model, self.endpoint, None if self.config is None else _frozen(self.config)))

    @property
    def summary(self) -> str:
        """What is set, joined for people to read, for example ``opus @ anthropic (temperature)``."""
        parts = list(filter(None, [place_of(self)]))
        if self.config:
            parts.append(f"({', '.join(map(str, self.config))})")
        return " ".join(parts) or "anywhere"

    def __repr__(self) -> str:
        config = "None" if self.config is None else f"{{{', '.join(f'{key!r}: …' for key in self.config)}}}"
        return f"Placement(model={self.model!r}, endpoint={self.endpoint!r}, config={config})"


def place_of(placement: Placement) -> str:
    """Model and endpoint, as in ``summary``."""
    return " ".join(filter(None, (placement.model, placement.endpoint and f"@ {placement.endpoint}")))


def _frozen(value: Any) -> Any:
    """A hashable stand-in that is equal for equal content."""
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_frozen(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
