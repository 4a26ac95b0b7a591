"""Processes by reference, compositions as the tree of their parts, and the channels bound to them.

| tag | form |
|---|---|
| `process` | `r`: `module:qualname` of the function or class; `a`, `k`: its arguments, or its constructor's |
| `call` | `r`: `module:name` of a plain function; `a`, `k`: its arguments |
| `composition` | `r`: its kind; `v`: its parts by name |
| `chan` | `v`: what :meth:`stbass.channel.Chan.share` says |

Beside these, where it differs from the original's: `n`: name, `o`: 1 if optional, `p`: placement, `ch`: bound channels.

A reference is looked up among the processes that the imported modules define (:func:`stbass.process.known_processes`);
nothing else is looked at, and nothing is imported. Processes are read only where an :class:`Admission` was given, and
plain functions, which nobody registers, only if it allows their module (see :class:`stbass._process.call.Call`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from stbass._engine.composition import Composition, composition_kinds, kind_of
from stbass._process.arguments import NO_ARGUMENTS
from stbass._process.call import Call, reference_of_function
from stbass._process.context import Composable, changed, changes_since
from stbass._values.arguments import made_with
from stbass._values.endpoint import Placement
from stbass._values.texts import error_text, text_of
from stbass.channel import Chan
from stbass.errors import NotTransportable, WireError
from stbass.process import FunctionProcess, Process, known_processes, reference_of
from stbass.wire.admission import Admission
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part

__all__ = ["BY_BASE", "READ", "check_reference"]

_MAIN = ("__main__", "__mp_main__")
_TO_A_MODULE = "move it to the top level of a module, and add that module to the worker's include (STBASS_INCLUDE)"
_NOT_LIVE = "give it to a process as an argument or bind it with with_channels(), and send values only"
_OWN_NAME = "decorate a function of its own, written with def, under a name that nothing else in its module has"


# Writing -----------------------------------------------------------------------------------------


def check_reference(process: Process) -> str:
    """The reference under which a process travels.

    Raises:
        Unsendable: a worker would not find it by that reference.
    """
    is_function = isinstance(process, FunctionProcess)
    target: Any = process if is_function else type(process)
    if not hasattr(target, "__qualname__"):
        raise Unsendable(f"process {process.name!r} is made of an object that is called, which has no name", _OWN_NAME)
    reference = reference_of(target)
    shown = f"process {process.name!r} ({reference})"
    if "<locals>" in reference:
        raise Unsendable(f"{shown} is defined in a function, where a worker cannot find it", _TO_A_MODULE)
    if "<lambda>" in reference:
        raise Unsendable(f"{shown} is a lambda, which has no name to find it by", f"write it with def, {_TO_A_MODULE}")
    if target.__module__ in _MAIN:
        raise Unsendable(f"{shown} is defined in the script itself, which a worker does not import", _TO_A_MODULE)
    found = known_processes().get(reference)
    same: bool = found is target
    if isinstance(process, FunctionProcess):
        same = isinstance(found, FunctionProcess) and found.function is process.function
    if not same:
        what = "something else" if found is not None else "no process"
        raise Unsendable(f"{shown} cannot be found by its reference: that is {what}", _OWN_NAME)
    return reference


def _write_composable(writer: WireWriter, value: Composable) -> Any:
    if not writer.processes:
        raise Unsendable(f"process {value.name!r} cannot travel inside a value", _NOT_LIVE)
    writer.enter(value, 10)
    form: Form
    if isinstance(value, Composition):
        try:
            kind, parts = kind_of(value), value.parts()
        except NotTransportable as error:
            raise Unsendable(str(error)) from None
        form = {"~": "composition", "r": kind, "v": writer.fields(parts, parts)}
        original: Any = type(value)
    elif isinstance(value, Process):
        reference = check_reference(value)
        form = {"~": "process", "r": reference}
        original = known_processes()[reference]
        args, kwargs = made_with(value) or NO_ARGUMENTS
        if args:
            form["a"] = writer.items(args, args, len(args), lambda index, _: f".{_position(value, index)}")
        if kwargs:
            form["k"] = writer.fields(kwargs, kwargs)
    elif isinstance(value, Call):
        form, original = _form_of_call(writer, value), Call(value.function)
    else:
        cls = type(value)
        raise Unsendable(f"{cls.__module__}.{cls.__qualname__} cannot travel", "make it a subclass of Process")
    changes = changes_since(value, original)
    if "name" in changes:
        form["n"] = writer.write(changes["name"])
    if "placement" in changes:
        try:
            form["p"] = writer.write(changes["placement"])
        except Unsendable as unsendable:
            raise unsendable.at(".placement") from None
    if "optional" in changes:
        form["o"] = 1
    if "channels" in changes:
        form["ch"] = _write_channels(writer, changes["channels"])
    writer.leave()
    return form


def _position(process: Process, index: int) -> str:
    return next(islice(process.positions, index, None), f"args[{index}]")


def _form_of_call(writer: WireWriter, call: Call) -> Form:
    try:
        form: Form = {"~": "call", "r": reference_of_function(call.function)}
    except ValueError as error:
        raise Unsendable(str(error)) from None
    form["a"] = writer.items(call.args, call.args, len(call.args), lambda index, _: f".args[{index}]")
    form["k"] = writer.fields(call.kwargs, call.kwargs)
    return form


def _write_channels(writer: WireWriter, channels: Mapping[str, Chan[Any]]) -> list[Any]:
    pairs: list[Any] = []
    for name, channel in channels.items():
        try:
            pairs += (writer.write(name), writer.write(channel))
        except Unsendable as unsendable:
            raise unsendable.at(f".bound_channels[{name!r}]") from None
    return pairs


def _write_channel(writer: WireWriter, value: Chan[Any]) -> Any:
    if not writer.processes:
        raise Unsendable(f"channel {value.name!r} cannot travel inside a value", _NOT_LIVE)
    try:
        shared = value.described()
    except NotTransportable as error:
        raise Unsendable(str(error)) from None
    return {"~": "chan", "v": writer.fields(value, shared)}


# Reading -----------------------------------------------------------------------------------------


def _read_process(reader: WireReader, form: Form) -> Any:
    admission = _admission(reader)
    reference = part(form, "r", str)
    found = admission.admit(reference)
    args = reader.read_items(part(form, "a", list)) if "a" in form else []
    kwargs = reader.read_fields(part(form, "k", dict)) if "k" in form else {}
    try:
        made = found.with_only(args, kwargs) if isinstance(found, FunctionProcess) else found(*args, **kwargs)
    except BaseException as error:
        # A user's constructor may raise anything, and must not take the worker with it; so may what checks arguments.
        raised = error_text(error)
        raise admission.refusal(
            reference, f"could not make the process {reference!r} of its arguments: {raised}"
        ) from error
    return _finished(reader, form, made)


def _read_call(reader: WireReader, form: Form) -> Any:
    function = _admission(reader).admit_function(part(form, "r", str))
    args = reader.read_items(part(form, "a", list))
    kwargs = reader.read_fields(part(form, "k", dict))
    return _finished(reader, form, Call(function, args, kwargs))


def _read_composition(reader: WireReader, form: Form) -> Any:
    _admission(reader)
    kind = part(form, "r", str)
    cls = composition_kinds.get(kind)
    if cls is None:
        raise WireError(f"form 'composition': no kind {text_of(kind, 60)} is imported here")
    return _finished(reader, form, cls.from_parts(reader.read_fields(part(form, "v", dict))))


def _admission(reader: WireReader) -> Admission:
    if reader.admission is None:
        raise WireError("it brings a process where there may be none")
    return reader.admission


def _finished(reader: WireReader, form: Form, made: Composable) -> Composable:
    """The process, with the changes that were made to it after its construction."""
    changes: dict[str, Any] = {}
    if "n" in form:
        changes["name"] = reader.read(form["n"])
    if "p" in form:
        placement = reader.read(form["p"])
        if type(placement) not in (Placement, type(None)):
            raise WireError(f"form {form['~']!r}: {text_of(placement, 60)} is not a placement")
        changes["placement"] = placement
    if form.get("o"):
        changes["optional"] = True
    if "ch" in form:
        pairs = reader.read_items(part(form, "ch", list))
        channels = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if not all(type(name) is str and isinstance(channel, Chan) for name, channel in channels.items()):
            raise WireError(f"form {form['~']!r}: {text_of(channels, 100)} are not channels")
        changes["channels"] = channels
    return changed(made, **changes) if changes else made


def _read_channel(reader: WireReader, form: Form) -> Any:
    shared = reader.read(part(form, "v", dict))
    if reader.transport is None:
        raise WireError("it brings a channel where there may be none")
    if type(shared) is not dict or type(shared.get("name")) is not str:
        raise WireError(f"form 'chan': {text_of(shared, 100)}")
    # All mentions of a channel in one message are the same end of it.
    key = repr(shared)
    channel = reader.channels.get(key)
    if channel is None:
        channel = reader.channels[key] = Chan.open(shared, transport=reader.transport)
    return channel


BY_BASE: dict[type[Any], WriteFunction] = {Composable: _write_composable, Chan: _write_channel}

READ: dict[str, ReadFunction] = {
    "process": _read_process,
    "call": _read_call,
    "composition": _read_composition,
    "chan": _read_channel,
}
