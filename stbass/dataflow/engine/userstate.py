"""The state of a component as bytes, and back: what the wire can carry, and Python's own iterators."""

from __future__ import annotations

import itertools
import random
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from stbass.dataflow.engine.arriving import arrived
from stbass.errors import CheckpointError, NotTransportable, WireError
from stbass.wire import dumps

__all__ = ["LIMIT", "dump_item", "dump_state", "load_item", "load_state", "looks_as_made"]

LIMIT = 2**30
"""How many bytes one component's part of a checkpoint may have."""

_ITERATORS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    type(iter(range(0))): ("range", lambda over: [over.start, over.stop, over.step]),
    type(iter(range(2**70))): ("range", lambda over: [over.start, over.stop, over.step]),
    type(iter([])): ("list", list),
    type(iter(())): ("tuple", list),
    type(iter("")): ("str", str),
    type(iter("é")): ("str", str),
}
_OVER: dict[str, Callable[[Any], Any]] = {
    "range": lambda parts: range(*parts),
    "list": list,
    "tuple": tuple,
    "str": str,
}
_BIT_GENERATORS = frozenset({"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"})


def dump_state(component: str, state: Any) -> bytes:
    """The state of a component as one line of bytes.

    Args:
        component: its name, for messages.
        state: what its ``checkpoint()`` gave.

    Raises:
        CheckpointError: something in it cannot be saved; says what to do.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"component {component!r}: checkpoint() has to give a dict, got {type(state).__name__}", component=component
        )
    special = {name: form for name, value in state.items() if (form := _special(value)) is not None}
    plain = {name: value for name, value in state.items() if name not in special}
    try:
        return dumps([plain, special], limit=LIMIT)
    except NotTransportable as error:
        raise _cannot(component, state, special, error) from error


def looks_as_made(attributes: Mapping[str, Any]) -> Callable[[str, Any], bool]:
    """A function that tells whether an attribute has the same value as now. What cannot be saved never has."""
    before = {name: written for name, value in attributes.items() if (written := _written(value)) is not None}
    return lambda name, value: name in before and _written(value) == before[name]


def _written(value: Any) -> bytes | None:
    special = _special(value)
    try:
        return dumps(value if special is None else [special], limit=LIMIT)
    except NotTransportable:
        return None


def load_state(line: bytes) -> dict[str, Any]:
    """The state that :func:`dump_state` wrote.

    Raises:
        WireError: it is none.
    """
    plain, special = load_item(line)
    return {**plain, **{name: _made(form) for name, form in special.items()}}


def dump_item(component: str, field: str, value: Any) -> bytes:
    """Something on its way to or from a component as one line of bytes.

    Raises:
        CheckpointError: it cannot be saved.
    """
    try:
        return dumps(value, limit=LIMIT, what=field)
    except NotTransportable as error:
        raise CheckpointError(
            f"component {component!r}: a value on {field!r} cannot be saved: {error}. Send what can travel between "
            f"machines, or do without checkpoints: a process whose state does not last",
            component=component,
            field=field,
        ) from error


def load_item(line: bytes) -> Any:
    """The value of a line."""
    return arrived(line, what="checkpoint", limit=2 * LIMIT)


def _cannot(
    component: str, state: Mapping[str, Any], special: Mapping[str, Any], error: NotTransportable
) -> CheckpointError:
    culprit, reason = None, str(error)
    for name, value in state.items():
        try:
            dumps(special.get(name, value), limit=LIMIT, what=name)
        except NotTransportable as found:
            culprit, reason = name, str(found)
            break
    return CheckpointError(
        f"component {component!r}: its attribute {culprit!r} cannot be saved in a checkpoint: {reason}. Either "
        f"init() makes it anew: put it into the class's transient = ({culprit!r},); or override checkpoint() and "
        f"restore(state) of the component; or do without checkpoints: a process whose state does not last",
        component=component,
        field=culprit,
    )


def _special(value: Any) -> list[Any] | None:
    """How a value is written that the wire does not carry; None: it may."""
    kind = type(value)
    if kind in _ITERATORS:
        name, parts = _ITERATORS[kind]
        _, (over,), *at = value.__reduce__()
        return [name, parts(over), at[0] if at else None]
    if kind is enumerate:
        _, (inner, count) = value.__reduce__()
        form = _special(inner)
        return None if form is None else ["enumerate", form, count]
    if kind is itertools.count:
        with warnings.catch_warnings():
            # Python 3.14 has no other way to look inside any more than repr(); until then this is exact.
            warnings.simplefilter("ignore", DeprecationWarning)
            return ["count", list(value.__reduce__()[1])]
    if kind is deque:
        return ["deque", list(value), value.maxlen]
    if kind is range:
        return ["of_range", [value.start, value.stop, value.step]]
    if kind is random.Random:
        return ["random", value.getstate()]
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.random.Generator:
        return ["generator", value.bit_generator.state]
    return None


def _made(form: Any) -> Any:
    match form:
        case [str(name), parts, at] if name in _OVER:
            made: Any = iter(_OVER[name](parts))
            if at is not None:
                made.__setstate__(at)
            return made
        case ["enumerate", inner, int(count)]:
            return enumerate(_made(inner), count)
        case ["count", list(parts)]:
            return itertools.count(*parts)
        case ["deque", list(values), maxlen]:
            return deque(values, maxlen)
        case ["of_range", list(parts)]:
            return range(*parts)
        case ["random", state]:
            generator = random.Random()
            generator.setstate(state)
            return generator
        case ["generator", dict(state)] if state.get("bit_generator") in _BIT_GENERATORS and "numpy" in sys.modules:
            numpy = sys.modules["numpy"]
            bits = getattr(numpy.random, state["bit_generator"])()
            bits.state = state
            return numpy.random.Generator(bits)
    raise WireError(f"the checkpoint holds {form!r:.200}, which is not one that stbass wrote")
