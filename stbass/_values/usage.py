"""What processes use of what costs money, and how much of it they may."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from stbass._values.checks import checked_count, checked_number, is_number
from stbass._values.texts import value_text

__all__ = ["NO_USAGE", "Budget", "Usage", "checked_budget", "checked_usage"]

_TOKENS_MOST = 2**53
_COST_MOST = 1e15
# Decimals that a sum of costs is kept to: finer than any price, and coarser than what floats make of 0.1 + 0.2.
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money.

    Args:
        tokens_in: tokens that models were given.
        tokens_out: tokens that they gave.
        cost: in whatever currency the program reckons.
        models: the same by model, for what was said to be of one.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    models: Mapping[str, Usage] = field(default_factory=dict, hash=False)

    @property
    def tokens(self) -> int:
        """In and out together."""
        return self.tokens_in + self.tokens_out

    @property
    def summary(self) -> str:
        """For people: ``1200 tokens in, 300 out, cost 0.0125``."""
        cost = f", cost {self.cost:g}" if self.cost else ""
        return f"{self.tokens_in} tokens in, {self.tokens_out} out{cost}"

    def __bool__(self) -> bool:
        return bool(self.tokens_in or self.tokens_out or self.cost or self.models)

    def __add__(self, other: Usage) -> Usage:
        return self._with(other, 1)

    def __sub__(self, other: Usage) -> Usage:
        return self._with(other, -1)

    def _with(self, other: Usage, sign: int) -> Usage:
        models = dict(self.models)
        for name, used in other.models.items():
            models[name] = models.get(name, NO_USAGE)._with(used, sign)
        return Usage(
            self.tokens_in + sign * other.tokens_in,
            self.tokens_out + sign * other.tokens_out,
            round(self.cost + sign * other.cost, _DIGITS),
            models,
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data, fit for JSON."""
        made: dict[str, object] = {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "cost": self.cost}
        if self.models:
            made["models"] = {name: used.to_dict() for name, used in self.models.items()}
        return made


NO_USAGE = Usage()


def checked_usage(tokens_in: object, tokens_out: object, cost: object, model: object) -> Usage:
    """What a process says that it has used.

    Raises:
        TypeError: tokens are not whole numbers, the cost is not a number, or the model is not named by a str.
        ValueError: a number is negative, not finite, or beyond all reason.
    """
    if not isinstance(model, (str, type(None))):
        raise TypeError(f"model must be the name of a model, got {value_text(model)}")
    tokens = [checked_count(tokens_in, "tokens_in", 0), checked_count(tokens_out, "tokens_out", 0)]
    money = _checked_money(cost, "cost", zero=True)
    if max(tokens) > _TOKENS_MOST or money > _COST_MOST:
        raise ValueError(f"that is more than anybody can use: {max(tokens)} tokens, cost {money:g}")
    # Not int subclasses, nor numbers of numpy: it is written and sent.
    used = Usage(int(tokens[0]), int(tokens[1]), money)
    return used if model is None else Usage(used.tokens_in, used.tokens_out, money, {str(model): used})


def _checked_money(value: object, what: str, *, zero: bool = False) -> float:
    if isinstance(value, Decimal) and math.isfinite(value):
        value = float(value)
    if not is_number(value):
        raise TypeError(f"{what} must be a number, got {value_text(value)}")
    return checked_number(value, what, zero=zero)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a composition may use; it is ended when either is used up.

    Args:
        tokens: in and out together; None: any number.
        cost: in the currency in which processes tell it; None: any.

    Raises:
        TypeError: ``tokens`` is not a whole number, ``cost`` is not a number, or both are None.
        ValueError: one is not above 0, or not finite.
    """

    tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is None and self.cost is None:
            raise TypeError("Budget(tokens=…, cost=…) takes at least one of the two")
        if self.tokens is not None:
            checked_count(self.tokens, "tokens", 1)
        if self.cost is not None:
            object.__setattr__(self, "cost", _checked_money(self.cost, "cost"))

    def is_used_up(self, used: Usage) -> bool:
        """Whether nothing is left."""
        return (self.tokens is not None and used.tokens >= self.tokens) or (
            self.cost is not None and used.cost >= self.cost
        )

    @property
    def summary(self) -> str:
        """For people."""
        parts = [] if self.tokens is None else [f"{self.tokens} tokens"]
        return " and ".join(parts if self.cost is None else [*parts, f"a cost of {self.cost:g}"])


def checked_budget(value: object) -> Budget | None:
    """``value``, if it is a budget or None.

    Raises:
        TypeError: it is neither.
        ValueError: it came from elsewhere, and what is in it is out of range.
    """
    if isinstance(value, Budget):
        return Budget(value.tokens, value.cost)
    if value is None:
        return None
    raise TypeError(f"budget must be a Budget(tokens=…, cost=…) or None, got {value_text(value)}")
