"""What a function takes beside its context: checked when it is given, and again where it arrives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import CodeType
from typing import Any, NamedTuple

from stbass._channels.typespec import Checker, Misfit, checker_for
from stbass._values.arguments import Arguments
from stbass._values.masking import MASK, is_secret_name
from stbass._values.opaque import Opaque
from stbass._values.texts import outline_of, shortened, value_text

__all__ = ["NO_ARGUMENTS", "Lacking", "Parameters", "call_text"]

NO_ARGUMENTS: Arguments = ((), {})

_LONGEST_VALUE = 60
_MOST_SHOWN = 10
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Lacking(NamedTuple):
    """A process without arguments that it needs.

    Args:
        name: of the process.
        arguments: their names.
        accepts_none: whether there is one, and it may be None: what comes on ``input`` when nothing does.
    """

    name: str
    arguments: tuple[str, ...]
    accepts_none: bool

    def error(self) -> TypeError:
        """What to do about it."""
        names = " and ".join(f"`{one}`" for one in self.arguments)
        call = ", ".join(f"{one}=…" for one in self.arguments)
        return TypeError(f"{self.name} needs {names}: write {self.name}({call})")


class Parameters:
    """What a function takes beside its context.

    Args:
        function: takes a context first. If it does not tell what else it takes, nothing is checked.
    """

    __slots__ = ("_checkers", "_function", "_signature")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._signature = _signature(function)
        self._checkers: dict[str, Checker | None] = {}

    def bound(self, name: str, known: Arguments, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """Arguments as :func:`functools.partial` would put them together, the new ones checked.

        A value becomes what a channel of the parameter's annotation would make of it: a dict a pydantic model, say.
        What is annotated with something that values cannot be checked against may be anything.

        Args:
            name: of the process, for messages.
            known: what was bound before.
            args, kwargs: what is bound now.

        Raises:
            TypeError: the function does not take them, or a value does not fit its annotation.
        """
        first = len(known[0])
        positional, named = [*known[0], *args], {**known[1], **kwargs}
        if self._signature is not None:
            try:
                self._signature.bind_partial(*positional, **named)
            except TypeError as error:
                given = call_text(name, args, kwargs, islice(self.names, first, None))
                raise TypeError(f"{given}: {error}; {name!r} takes {self._text}") from None
            for index, parameter in zip(range(first, len(positional)), islice(self.names, first, None), strict=False):
                positional[index] = self.fitted(name, parameter, positional[index])
            for key in kwargs:
                named[key] = self.fitted(name, key, named[key])
        return tuple(positional), named

    def fitted(self, name: str, parameter: str, value: Any) -> Any:
        """The value of a parameter, as the function gets it.

        Raises:
            TypeError: it does not fit the annotation.
        """
        checker = self._checker(parameter)
        if checker is None or type(value) is checker.exact:
            return value
        try:
            return checker.convert(value)
        except Misfit as misfit:
            actual = f"Opaque of {value.type_name}" if type(value) is Opaque else _told(parameter, value)
            why = f" ({misfit})" if str(misfit) else ""
            raise TypeError(
                f"process {name!r}: the argument `{parameter}` must be {checker.name}, got {actual}{why}"
            ) from None

    def accepts(self, parameter: str, value: Any) -> bool:
        """Whether a parameter takes the value."""
        try:
            self.fitted("", parameter, value)
        except TypeError:
            return False
        return True

    def free(self, known: Arguments) -> tuple[str, ...]:
        """The names of the arguments that the function needs, and that are not bound."""
        if self._signature is None:
            return ()
        found = self._signature.bind_partial(*known[0], **known[1]).arguments
        return tuple(
            one.name
            for one in self._signature.parameters.values()
            if one.default is one.empty and one.kind not in _VARIABLE and one.name not in found
        )

    def filled(self, known: Arguments, parameter: str, value: Any) -> Arguments:
        """The arguments with that of one free parameter."""
        assert self._signature is not None
        args, kwargs = known
        if self._signature.parameters[parameter].kind is inspect.Parameter.POSITIONAL_ONLY:
            return (*args, value), kwargs
        return args, {**kwargs, parameter: value}

    @property
    def names(self) -> Iterator[str]:
        """The names of those that can be given by position; the last is repeated for all that follow."""
        parameters = () if self._signature is None else self._signature.parameters.values()
        for one in parameters:
            if one.kind is one.VAR_POSITIONAL:
                while True:
                    yield one.name
            if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD):
                yield one.name

    @property
    def _text(self) -> str:
        """For people, without the values of defaults."""
        assert self._signature is not None
        parameters = [
            one.replace(annotation=one.empty, default=one.empty if one.default is one.empty else _Shortened())
            for one in self._signature.parameters.values()
        ]
        return str(inspect.Signature(parameters)) if parameters else "no arguments"

    def _checker(self, name: str) -> Checker | None:
        if self._signature is None:
            return None
        parameters = self._signature.parameters
        found = parameters.get(name)
        if found is None:
            found = next((one for one in parameters.values() if one.kind is one.VAR_KEYWORD), None)
        if found is None or found.annotation is found.empty:
            return None
        if found.name not in self._checkers:
            try:
                self._checkers[found.name] = checker_for(_evaluated(found.annotation, self._function))
            except (TypeError, NameError, AttributeError, SyntaxError):
                # A protocol, say, or a name that is imported for the type checker only.
                self._checkers[found.name] = None
        return self._checkers[found.name]


def call_text(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], names: Iterator[str]) -> str:
    """A call, for people: values are shortened, and those of secrets are masked.

    Args:
        names: of the parameters that ``args`` are for, as far as they are known.
    """
    parts = [_shown(next(names, ""), value) for value in args[:_MOST_SHOWN]]
    parts += [f"{key}={_shown(key, value)}" for key, value in list(kwargs.items())[:_MOST_SHOWN]]
    if max(len(args), len(kwargs)) > _MOST_SHOWN:
        parts.append("…")
    return f"{name}({', '.join(parts)})"


def _shown(name: str, value: Any) -> str:
    return MASK if is_secret_name(name) else shortened(outline_of(value), _LONGEST_VALUE)


def _told(parameter: str, value: Any) -> str:
    return MASK if is_secret_name(parameter) else value_text(value)


class _Shortened:
    """Stands for a default in the text of a signature."""

    def __repr__(self) -> str:
        return "…"


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature without the context; None if the function has none, or cannot be called with a context."""
    code = getattr(function, "__code__", None)
    if type(code) is CodeType and not hasattr(function, "__wrapped__") and _takes_one(code):
        return _NOTHING
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = list(found.parameters.values())
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        return None
    if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return found
    return found.replace(parameters=parameters[1:])


_NOTHING = inspect.Signature()


def _takes_one(code: CodeType) -> bool:
    variable = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    return code.co_argcount == 1 and not code.co_kwonlyargcount and not code.co_flags & variable


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    target = inspect.unwrap(getattr(function, "func", function))
    if not hasattr(target, "__globals__"):
        target = getattr(target, "__func__", type(target).__call__)
    closure = inspect.getclosurevars(target).nonlocals if hasattr(target, "__closure__") else {}
    return eval(annotation, {**target.__globals__, **closure})
