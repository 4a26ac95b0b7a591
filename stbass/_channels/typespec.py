"""What a channel's type admits."""

from __future__ import annotations

import sys
import types
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from stbass._channels.typewire import SequentialProtocol, Unresolved, VariantProtocol, describe, type_name
from stbass._values.numbers import plain_number
from stbass._values.opaque import Opaque
from stbass.errors import ChannelProtocolError, ChannelTypeError

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["ChannelType", "Checker", "Misfit", "checker_for"]


class Misfit(Exception):
    """A value does not fit. The text says more than the two types would, or is empty."""


class Checker(ABC):
    """Checks values against one type spec."""

    __slots__ = ("exact", "name")

    def __init__(self, name: str, exact: type | None = None) -> None:
        self.name = name
        # A value of exactly this class fits: the channel looks at that before it calls anything.
        self.exact: type | None = exact

    @abstractmethod
    def fits(self, value: Any) -> bool:
        """Whether it fits as it is."""

    def convert(self, value: Any) -> Any:
        """What it becomes.

        Raises:
            Misfit: it does not fit.
        """
        if self.fits(value):
            return value
        raise Misfit


class _Anything(Checker):
    __slots__ = ()

    def fits(self, value: Any) -> bool:
        return True


class _Class(Checker):
    __slots__ = ("cls",)

    def __init__(self, cls: type) -> None:
        super().__init__(describe(cls), cls)
        self.cls = cls

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.cls)


class _Plain(_Class):
    """NumPy's numbers and truth values arrive as Python's."""

    __slots__ = ()

    def convert(self, value: Any) -> Any:
        return super().convert(plain_number(value))


class _Int(_Plain):
    """``bool`` is a subclass of ``int`` for historical reasons only."""

    __slots__ = ()

    def fits(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)


class _Float(_Plain):
    """An ``int`` is welcome, as everywhere in Python's typing, and arrives as a float, as everywhere in pydantic."""

    __slots__ = ()

    def convert(self, value: Any) -> Any:
        value = plain_number(value)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                made = float(value)
            except OverflowError as error:
                raise Misfit(str(error)) from None
            if made != value:
                raise Misfit(f"a float does not hold {value!r}, but {made!r}")
            return made
        return super().convert(value)


class _Model(_Class):
    """A pydantic model: a dict becomes one, by the rules of the model itself."""

    __slots__ = ()

    def convert(self, value: Any) -> Any:
        if isinstance(value, dict):
            from pydantic import ValidationError

            try:
                return self.cls.model_validate(value)  # type: ignore[attr-defined]
            except ValidationError as error:
                raise Misfit(_reasons(error)) from error
        return super().convert(value)


class _Literal(Checker):
    __slots__ = ("values",)

    def __init__(self, spec: Any) -> None:
        super().__init__(describe(spec))
        self.values = get_args(spec)

    def fits(self, value: Any) -> bool:
        # By class too: True == 1, and is another value.
        return any(type(value) is type(one) and value == one for one in self.values)


class _OneOf(Checker):
    """A union, or a variant protocol."""

    __slots__ = ("members",)

    def __init__(self, name: str, members: tuple[Any, ...]) -> None:
        super().__init__(name)
        self.members = [checker_for(one) for one in members]

    def fits(self, value: Any) -> bool:
        return any(one.fits(value) for one in self.members)

    def convert(self, value: Any) -> Any:
        if self.fits(value):
            return value
        reasons = []
        for one in self.members:
            try:
                return one.convert(value)
            except Misfit as misfit:
                if str(misfit):
                    reasons.append(f"{one.name}: {misfit}")
        raise Misfit("; ".join(reasons))


class _Pydantic(Checker):
    """Any other annotation: pydantic's strict mode, in which nothing is parsed out of text or rounded."""

    __slots__ = ("adapter",)

    def __init__(self, spec: Any) -> None:
        super().__init__(describe(spec))
        # Only here, because importing pydantic takes longer than importing all of this package.
        from pydantic import ConfigDict, PydanticUserError, TypeAdapter
        from pydantic.warnings import ArbitraryTypeWarning

        try:
            with warnings.catch_warnings():
                # Pydantic accepts any value for an annotation that is not a type, and only warns.
                warnings.simplefilter("error", ArbitraryTypeWarning)
                try:
                    self.adapter: TypeAdapter[Any] = TypeAdapter(spec, config=ConfigDict(arbitrary_types_allowed=True))
                except PydanticUserError as error:
                    if error.code != "type-adapter-config-unused":
                        raise
                    self.adapter = TypeAdapter(spec)
        except Exception as error:
            # Pydantic has several families of errors for an annotation that it can do nothing with.
            raise TypeError(f"a channel cannot check values against {spec!r}: {error}") from error

    def fits(self, value: Any) -> bool:
        return False  # not known without validating: convert decides

    def convert(self, value: Any) -> Any:
        from pydantic import ValidationError

        try:
            return self.adapter.validate_python(value, strict=True)
        except ValidationError as error:
            try:
                plain = _with_plain_numbers(value)
            except RecursionError:
                raise Misfit("it is nested too deep to be checked") from error
            if plain is not value:
                return self.convert(plain)
            raise Misfit(_reasons(error)) from error


def _with_plain_numbers(value: Any) -> Any:
    """The same with Python's numbers instead of NumPy's, in lists, tuples and dicts too; itself if there are none."""
    if type(value) not in (list, tuple, dict):
        return plain_number(value)
    parts = [*value, *value.values()] if type(value) is dict else value
    made = [_with_plain_numbers(part) for part in parts]
    if all(one is part for one, part in zip(made, parts, strict=True)):
        return value
    return dict(zip(made[: len(value)], made[len(value) :], strict=True)) if type(value) is dict else type(value)(made)


def _reasons(error: ValidationError) -> str:
    """Where and why, without the values: they may be secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in found)


def checker_for(spec: Any) -> Checker:
    """The checker of one type spec that is not a sequential protocol.

    Raises:
        TypeError: it is not something that values can be checked against; says what to do.
    """
    if spec is Any or spec is object or isinstance(spec, (TypeVar, Unresolved)):
        return _Anything(describe(spec))
    if spec is None:
        return _Class(type(None))
    if isinstance(spec, VariantProtocol):
        return _OneOf(repr(spec), spec.types)
    if isinstance(spec, SequentialProtocol):
        raise TypeError(f"{spec!r} is the protocol of a whole channel and cannot be a part of another type")
    if isinstance(spec, str):
        raise TypeError(f"a channel takes a type, not text: Chan[{spec}](name), or Chan(type, name={spec!r})")
    if isinstance(spec, NewType):
        return checker_for(spec.__supertype__)
    origin = get_origin(spec)
    if origin is Union or origin is types.UnionType:
        return _OneOf(describe(spec), get_args(spec))
    if origin is Literal:
        return _Literal(spec)
    if isinstance(spec, type) and origin is None and not hasattr(spec, "__required_keys__"):
        # (Those are of a TypedDict, whether it is typing's or typing_extensions'.)
        return _checker_for_class(spec)
    return _Pydantic(spec)


def _checker_for_class(cls: type) -> Checker:
    if cls is int:
        return _Int(cls)
    if cls is float:
        return _Float(cls)
    if cls is bool:
        return _Plain(cls)
    if getattr(cls, "_is_protocol", False) and not getattr(cls, "_is_runtime_protocol", False):
        raise TypeError(
            f"a channel cannot check values against {cls.__qualname__}: decorate it with @runtime_checkable"
        )
    # A class that is a model has made pydantic be imported already.
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(cls, pydantic.BaseModel):
        return _Model(cls)
    return _Class(cls)


class _NoClass:
    """No value is of this class."""


class ChannelType:
    """The type of a channel: one checker, or one per place in a sequence.

    Args:
        spec: as given to the channel.
        channel_name: for messages.

    Raises:
        TypeError: values cannot be checked against ``spec``.
    """

    __slots__ = ("_checkers", "_name", "exact", "is_sequence", "spec")

    def __init__(self, spec: Any, channel_name: str) -> None:
        self.spec = spec
        self._name = channel_name
        self.is_sequence = isinstance(spec, SequentialProtocol) and not isinstance(spec, VariantProtocol)
        self._checkers = [checker_for(one) for one in (spec.types if self.is_sequence else (spec,))]
        # A value of exactly this class fits, wherever it comes: no need to call anything.
        self.exact: type = (None if self.is_sequence else self._checkers[0].exact) or _NoClass

    def fit(self, value: Any, position: int = 0) -> Any:
        """The value as it goes over the channel, as number ``position`` (from 0) of its life.

        Raises:
            ChannelTypeError: it does not fit.
            ChannelProtocolError: the sequence is complete.
        """
        if not self.is_sequence:
            position = 0
        elif position >= len(self._checkers):
            raise ChannelProtocolError(
                f"channel {self._name!r} carries {describe(self.spec)}, which is complete: "
                f"there is no place for another value ({type(value).__name__})",
                channel_name=self._name,
            )
        checker = self._checkers[position]
        if type(value) is checker.exact:
            return value
        try:
            return checker.convert(value)
        except Misfit as misfit:
            expected, actual = checker.name, type(value).__name__
            if actual == expected or type(value).__module__.partition(".")[0] == "numpy":
                # Two classes of one name, or of almost one.
                actual = type_name(type(value)).replace(":", ".")
                expected = type_name(self.spec.types[position] if self.is_sequence else self.spec).replace(":", ".")
            if type(value) is Opaque:
                actual = f"Opaque of {value.type_name}" + (f" ({value.reason})" if value.reason else "")
            place = f" as value {position + 1} of {describe(self.spec)}" if self.is_sequence else ""
            reason = f": {misfit}" if str(misfit) else ""
            raise ChannelTypeError(
                f"channel {self._name!r} expects {expected}{place}, got {actual}{reason}",
                expected=expected,
                actual=actual,
                channel_name=self._name,
            ) from misfit.__cause__
