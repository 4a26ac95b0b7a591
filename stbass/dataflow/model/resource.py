"""What a component needs of the machine that it runs on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from stbass._values.checks import is_number
from stbass._values.texts import value_text

__all__ = ["Resource"]

_SUFFIXES: dict[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{sign: Fraction(1000**power) for power, sign in enumerate("kMGTPE", 1)},
    **{f"{sign}i": Fraction(1024**power) for power, sign in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(r"([0-9]{1,24}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})([a-zA-Z]{0,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resource:
    """What a component needs: a share of processors and accelerators, memory, and things that a cluster has names for.

    A quantity is a number, or text as Kubernetes writes it: ``"250m"`` is 0.25, ``"10Mi"`` is 10 * 1024 ** 2 and
    ``"2k"`` is 2000. However it was given, it is kept as a number.

    Args:
        cpu: processors.
        gpu: accelerators.
        memory: bytes.
        resources: further quantities by name, for example ``{"licence": 1}``.

    Raises:
        TypeError: a quantity is neither a number nor text, or ``resources`` is no mapping of names.
        ValueError: a quantity cannot be read, is negative, or is no finite number.
    """

    cpu: float | str = 0
    gpu: float | str = 0
    memory: float | str = 0
    resources: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.resources, Mapping):
            raise TypeError(
                f"Resource.resources must be a mapping of names to quantities, got {value_text(self.resources)}"
            )
        names: Iterable[object] = self.resources
        for name in names:
            if not isinstance(name, str) or not name:
                raise TypeError(f"Resource.resources: a name must be text, got {value_text(name)}")
        keep = object.__setattr__
        keep(self, "cpu", _number(self.cpu, "cpu"))
        keep(self, "gpu", _number(self.gpu, "gpu"))
        # There is no part of a byte; what is asked for is what must be there at least.
        keep(self, "memory", math.ceil(_number(self.memory, "memory")))
        keep(
            self,
            "resources",
            {name: _number(amount, f"resources[{name!r}]") for name, amount in self.resources.items()},
        )

    def __hash__(self) -> int:
        return hash((self.cpu, self.gpu, self.memory, tuple(sorted(self.resources))))

    def to_ray_options(self) -> dict[str, Any]:
        """The same as options of a Ray actor or task: ``num_cpus``, ``num_gpus``, ``memory`` and ``resources``.

        Memory and further quantities are there only if something is asked for: Ray takes 0 of them for a mistake.
        """
        options: dict[str, Any] = {"num_cpus": self.cpu, "num_gpus": self.gpu}
        if self.memory:
            options["memory"] = self.memory
        wanted = {name: amount for name, amount in self.resources.items() if amount}
        if wanted:
            options["resources"] = wanted
        return options

    def dict(self) -> dict[str, Any]:
        """What was asked for, as plain data that :class:`Resource` takes as its arguments."""
        found: dict[str, Any] = {"cpu": self.cpu, "gpu": self.gpu, "memory": self.memory}
        found["resources"] = dict(self.resources)
        return {name: amount for name, amount in found.items() if amount}


def _number(given: Any, name: str) -> float:
    """The quantity as a number: an ``int`` where it is whole."""
    if isinstance(given, str):
        match = _QUANTITY.fullmatch(given.strip())
        if match is None or match[2] not in _SUFFIXES:
            known = ", ".join(suffix for suffix in _SUFFIXES if suffix)
            raise ValueError(
                f'Resource.{name}: {value_text(given)} is no quantity; give a number, or text such as "250m" or "10Mi" '
                f"(suffixes: {known})"
            )
        exact = Fraction(Decimal(match[1])) * _SUFFIXES[match[2]]
        return int(exact) if exact.denominator == 1 else float(exact)
    if not is_number(given):
        raise TypeError(f'Resource.{name} must be a number, or text such as "250m", got {value_text(given)}')
    if not math.isfinite(given) or given < 0:
        raise ValueError(f"Resource.{name} must be 0 or more, got {value_text(given)}")
    return int(given) if given == int(given) else given
