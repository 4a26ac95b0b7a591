"""A call of a plain function as a process, for those who come with functions and not with processes."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

from stbass._process.context import Composable, ProcessContext
from stbass._process.sync_threads import shared_threads
from stbass._values.checks import bare, called_by
from stbass._values.endpoint import Placement

__all__ = ["Call", "find_function", "is_async", "name_of", "reference_of_function"]


class Call(Composable):
    """``function(*args, **kwargs)`` as a process: a coroutine function runs on the event loop, any other in a thread.

    It travels as the function's ``module:qualname`` with the arguments. A worker runs it only if

    * that module is named itself in the worker's setting ``stbass_functions`` (``STBASS_FUNCTIONS``), which names none
      by default; ``include`` is for processes; and
    * there the function is defined, at the top level of the module, with ``def`` or ``async def``: not one that it
      imports, not a method, not a class; and
    * it is public: named in the module's ``__all__``, or, where the module has none, without a ``_`` at its start.

    A worker imports those modules when it starts, and looks functions up there. It imports nothing because of a
    message.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.function = function
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self._name = name_of(function)
        if placement is not None:
            self._placement = placement

    async def _perform(self, ctx: ProcessContext) -> Any:
        if is_async(self.function):
            return await self.function(*self.args, **self.kwargs)
        value = await shared_threads().call_plain(functools.partial(self.function, *self.args, **self.kwargs))
        return await value if inspect.isawaitable(value) else value

    def __repr__(self) -> str:
        return f"<call of {self._name}>"


def name_of(function: Any) -> str:
    """The name of a callable, for people."""
    target = bare(function)
    return getattr(target, "__name__", None) or type(target).__name__


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(called_by(function))


def reference_of_function(function: Any) -> str:
    """``module:qualname`` of a function, by which a worker can find it.

    Raises:
        ValueError: it cannot be found by one; the message says why, and what to do.
    """
    to_a_module = (
        "move it to the top level of a module, and name that in the worker's stbass_functions (STBASS_FUNCTIONS)"
    )
    shown = f"the function {name_of(function)!r} ({function!r})"
    if isinstance(function, functools.partial):
        raise ValueError(f"{shown} is a partial: give the function and its arguments themselves")
    if not isinstance(function, FunctionType):
        raise ValueError(f"{shown} is not written with def: write one that calls it, and {to_a_module}")
    module, name = function.__module__, function.__qualname__
    reference = f"{module}:{name}"
    if function.__name__ == "<lambda>":
        raise ValueError(f"{shown} is a lambda, which has no name to find it by: write it with def, {to_a_module}")
    if "." in name:
        raise ValueError(f"{shown} is not at the top level of its module: {to_a_module}")
    if module in ("__main__", "__mp_main__"):
        raise ValueError(f"{shown} is defined in the script itself, which a worker does not import: {to_a_module}")
    try:
        found = find_function(reference)
    except LookupError as error:
        raise ValueError(
            f"{shown} cannot be found by its name: {error}; a worker calls public functions only"
        ) from None
    if found is not function:
        raise ValueError(f"{shown} cannot be found by its name: in its module, that is another function")
    return reference


def find_function(reference: str) -> FunctionType:
    """The public function ``module:name`` of an imported module.

    Raises:
        LookupError: there is none; the message says what is there instead.
    """
    module_name, _, name = reference.partition(":")
    module = sys.modules.get(module_name)
    if not isinstance(module, ModuleType):
        raise LookupError(f"no module {module_name!r} is imported")
    # The plain dict of the module: getattr could run a module's own __getattr__, and that of a lazy module imports.
    names = object.__getattribute__(module, "__dict__")
    found = names.get(name)
    if type(found) is not FunctionType:
        raise LookupError(f"{module_name!r} has no function {name!r}")
    if found.__module__ != module_name or found.__qualname__ != name:
        raise LookupError(f"{name!r} in {module_name!r} is {found.__module__}:{found.__qualname__}, not defined there")
    if not is_public(names, name):
        raise LookupError(f"{name!r} of {module_name!r} is not public")
    return found


def is_public(names: Mapping[str, Any], name: str) -> bool:
    """Whether a module, given as its dict, says that ``name`` is for others to use."""
    listed = names.get("__all__")
    if isinstance(listed, (list, tuple)):
        return name in listed
    return not name.startswith("_")
