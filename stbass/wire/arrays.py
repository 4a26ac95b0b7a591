"""numpy arrays and scalars, where numpy is imported.

`{"~": "array", "c": "numpy:ndarray", "v": {"type", "shape", "order", "data"}}`, and the same with the tag `scalar`.
The type is numpy's own description of it (as in `.npy` files), so byte order, sub-arrays, the fields of structured
types and their padding are exact; `order` is `F` for an array that is laid out by columns, else `C`. An array of Python
objects is refused: its elements would have to be pickled. Where numpy is not imported, the value arrives as
:class:`~stbass._values.opaque.Opaque` with these four.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

from stbass._values.opaque import Opaque
from stbass._values.texts import text_of, type_name_of
from stbass.errors import WireError
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part

__all__ = ["BY_LOOK", "READ"]

_ARRAY = "numpy:ndarray"
# Plain memory: bool, whole numbers, floats, complex, bytes, text, structs, moments and spans of time.
_KINDS = frozenset("biufcSUVMm")
_MOST_DIMENSIONS = 32


def _numpy() -> Any:
    """numpy, if the program has imported it: otherwise no value can be an array."""
    return sys.modules.get("numpy")


def _write_array(writer: WireWriter, value: Any) -> Any:
    numpy = _numpy()
    if numpy is None or not isinstance(value, (numpy.ndarray, numpy.generic)):
        return NotImplemented
    cls = type(value)
    is_array = cls is numpy.ndarray
    if not is_array and (isinstance(value, numpy.ndarray) or getattr(numpy, cls.__name__, None) is not cls):
        advice = "send numpy.asarray(…) of it" if isinstance(value, numpy.ndarray) else "send its .item()"
        raise Unsendable(f"{cls.__module__}.{cls.__qualname__} is a subclass of numpy's own", advice)
    state: Form
    if isinstance(value, (numpy.str_, numpy.bytes_)):
        # As plain text, because an array would cut off trailing zeros.
        state = {"type": value.dtype.kind, "data": value.item() if value else type(value.item())()}
    else:
        order = "F" if is_array and value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        state = {"type": _description(numpy, value.dtype), "shape": list(value.shape), "order": order}
        writer.spend(value.nbytes)
        state["data"] = value.tobytes(order)
    return {
        "~": "array" if is_array else "scalar",
        "c": _ARRAY if is_array else type_name_of(cls),
        "v": writer.fields(value, state),
    }


def _description(numpy: Any, dtype: Any) -> Any:
    if (dtype.kind in _KINDS and dtype.hasobject) or dtype.kind == "O":
        raise Unsendable("an array of Python objects cannot travel", "send a list, or convert it to a numeric type")
    if dtype.kind not in _KINDS or dtype.isbuiltin == 2:
        raise Unsendable(f"an array of {dtype} cannot travel", "convert it to one of numpy's fixed-size types")
    with warnings.catch_warnings():
        # numpy warns where its description would lose something; here it is an error.
        warnings.simplefilter("error")
        try:
            description = numpy.lib.format.dtype_to_descr(dtype)
            same = numpy.lib.format.descr_to_dtype(description) == dtype
        except (UserWarning, ValueError, TypeError):
            same = False
    if not same:
        raise Unsendable(f"the array type {text_of(dtype, 100)} has no exact description", "use a simpler type")
    return description


def _read_array(reader: WireReader, form: Form) -> Any:
    name, numpy = part(form, "c", str), _numpy()
    state = reader.read(part(form, "v", dict))
    if numpy is None:
        return Opaque(name, state, form["~"])
    if type(state) is not dict or type(state.get("shape", [])) is not list:
        raise WireError(f"form {form['~']!r}: {text_of(state, 100)}")
    if form["~"] == "array":
        if name != _ARRAY:
            raise WireError(f"form 'array': {text_of(name, 60)} is not numpy's")
        return _array(numpy, state)
    data = state.get("data")
    if state.get("type") == "U" and type(data) is str:
        return numpy.str_(data)
    if state.get("type") == "S" and type(data) is bytes:
        return numpy.bytes_(data)
    if state.get("shape") != []:
        raise WireError(f"form 'scalar': {text_of(state, 100)}")
    value = _array(numpy, state)[()]
    if not isinstance(value, numpy.generic):
        raise WireError(f"form 'scalar': {text_of(state, 100)}")
    return value


def _array(numpy: Any, state: Form) -> Any:
    shape, order, data = state["shape"], state["order"], state["data"]
    if len(shape) > _MOST_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise WireError(f"form 'array': shape {text_of(shape, 100)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dtype = numpy.lib.format.descr_to_dtype(state["type"])
    if dtype.hasobject or dtype.kind not in _KINDS or order not in ("C", "F") or type(data) is not bytes:
        raise WireError(f"form 'array': type {text_of(state['type'], 100)}, order {text_of(order, 20)}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"form 'array': {len(data)} bytes do not fill shape {shape} of {dtype}")
    # A copy, because it must own its memory and be writable, like any new array.
    return numpy.ndarray(shape, dtype, buffer=bytearray(data), order=order).copy(order="K")


BY_LOOK: list[WriteFunction] = [_write_array]

READ: dict[str, ReadFunction] = {"array": _read_array, "scalar": _read_array}
