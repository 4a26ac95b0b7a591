"""Exceptions as values.

`{"~": "error", "c": class, "m": message, "a": arguments}`, and, where there is anything to say, `d`: the instance's
`__dict__` (notes among it), `n`: attributes that a built-in class or `__slots__` keep outside of it (`errno`, …),
`b`: names of its class's bases, `g`: the members of a group, `cause`, `context`, `s`: 1 if the context is suppressed,
`t`: text of the traceback, `w`: seconds after which it says that one may try again (`retry_after` where it arrives: its
headers may not travel), `i`: a number for the references to it. `{"~": "again", "i": number}`: the exception that was
read before under that number, because exceptions may refer to each other in circles. Of a class that compiled code has
made: `p`, what pydantic's are made from again, or else what their attributes and `errors()` say.

The reader rebuilds the same class if it is imported, with `BaseException.__new__` and the arguments put back: no
constructor is run, so a class whose constructor takes other arguments than it keeps arrives too. Those of pydantic-core
are made by their own, compiled constructors. Otherwise it becomes a :class:`~stbass.errors.RemoteError`. Every
exception can travel: an argument or attribute that cannot is replaced by its text, as an
:class:`~stbass._values.opaque.Opaque`, or, of a response, by a :class:`~stbass.wire.responses.RemoteResponse`. Secrets
in it are masked (see :mod:`stbass._values.masking`).
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.masking import MASK, is_secret_name
from stbass._values.retry_after import own_retry_after
from stbass._values.texts import attribute_of, message_of, plain_text, text_of, traceback_text, type_name_of
from stbass.errors import RemoteError, WireError
from stbass.wire.classes import by_statement, known_class, native_base, static
from stbass.wire.core import MAX_DEPTH, Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part

__all__ = ["BY_BASE", "READ", "REMOTE_TRACEBACK", "keep_traceback", "traceback_of", "write_error"]

REMOTE_TRACEBACK = "__stbass_traceback__"
"""The attribute in which an exception that has travelled keeps the text of its traceback, from where it was raised."""

# A chain of causes is written by recursion; what is further away than this from the error itself helps nobody.
_LONGEST_CHAIN = MAX_DEPTH // 4
_MOST_BASES = 20

# The attributes of every exception, past anything that a class has put in front of them.
_ARGS: Any = vars(BaseException)["args"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]
_SUPPRESS: Any = vars(BaseException)["__suppress_context__"]
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_DICT: Any = vars(BaseException)["__dict__"]
_MEMBERS: Any = vars(BaseExceptionGroup)["exceptions"]


def traceback_of(error: BaseException, *, chain: bool = False) -> str:
    """The text of an exception's traceback, of the remote one if it has travelled; empty if it was never raised.

    Args:
        chain: with the tracebacks of its cause or context.
    """
    text = _DICT.__get__(error).get(REMOTE_TRACEBACK)
    if type(text) is str:
        return text
    return "" if _TRACEBACK.__get__(error) is None else traceback_text(error, chain=chain)


def keep_traceback(error: BaseException, text: str) -> None:
    """Let an exception that has travelled keep the text of its traceback, unless it brought one."""
    _DICT.__get__(error).setdefault(REMOTE_TRACEBACK, text)


# Writing -----------------------------------------------------------------------------------------


def write_error(writer: WireWriter, error: BaseException, *, with_traceback: bool = True) -> Form:
    """The form of an exception.

    Args:
        with_traceback: False if its traceback travels beside it.

    Raises:
        Unsendable: it is nested too deep, or is an exception group inside itself.
        Oversized: it is too large.
    """
    before = writer.errors.get(id(error))
    if before is not None:
        return _again(writer, before[1])
    message = message_of(error)
    writer.enter(error, len(message))
    form: Form = {"~": "error", "c": type_name_of(type(error)), "m": message}
    if bases := _bases_of(type(error)):
        form["b"] = bases
    writer.errors[id(error)] = (error, form)
    modes = writer.lenient, writer.masking
    writer.lenient = writer.masking = True
    try:
        if issubclass(type(error), BaseExceptionGroup):
            # Before the arguments: these name the members once more, then by reference.
            form["g"] = _UNFINISHED
            form["g"] = [_write_member(writer, member) for member in _MEMBERS.__get__(error)]
        elif not _is_plain(type(error)):
            form["p"] = _UNFINISHED
            form["p"] = writer.write(_inner_parts(error))
        args = _ARGS.__get__(error)
        form["a"] = writer.items(args, args, len(args), lambda index, _: f".args[{index}]")
        if outside := _outside_attributes(error):
            form["n"] = writer.fields(outside, outside)
        if inside := {plain_text(key): item for key, item in _DICT.__get__(error).items() if key != REMOTE_TRACEBACK}:
            form["d"] = writer.write(inside)
        if "retry_after" not in inside and (asked := own_retry_after(error)) is not None:
            form["w"] = asked
        _write_links(writer, error, form)
    finally:
        writer.lenient, writer.masking = modes
    text = traceback_of(error) if with_traceback else ""
    if text:
        writer.spend(len(text))
        form["t"] = text
    writer.leave()
    return form


_UNFINISHED: Any = object()


def _bases_of(cls: type[BaseException]) -> list[str]:
    """Names of the bases by which an error is known where its class is not; none, if it is known everywhere."""
    if not by_statement(cls) or cls.__module__ == RemoteError.__module__:
        return []
    return [type_name_of(base) for base in cls.__mro__[1:-1] if base not in (Exception, BaseException)][:_MOST_BASES]


def _again(writer: WireWriter, form: Form) -> Form:
    if form.get("g") is _UNFINISHED or form.get("p") is _UNFINISHED:
        raise Unsendable("refers to the exception that it is in")
    if "i" not in form:
        writer.numbered += 1
        form["i"] = writer.numbered
    writer.spend(1)
    return {"~": "again", "i": form["i"]}


def _write_member(writer: WireWriter, member: BaseException) -> Form:
    state = writer.state
    try:
        return write_error(writer, member)
    except Unsendable:
        writer.rollback(state)
        return {"~": "error", "c": type_name_of(type(member)), "m": message_of(member), "a": []}


def _write_links(writer: WireWriter, error: BaseException, form: Form) -> None:
    links = {"cause": _CAUSE.__get__(error)}
    if _SUPPRESS.__get__(error):
        form["s"] = 1
    else:
        links["context"] = _CONTEXT.__get__(error)
    for name, linked in links.items():
        if linked is None or writer.chained >= _LONGEST_CHAIN:
            continue
        state = writer.state
        writer.chained += 1
        try:
            form[name] = write_error(writer, linked)
        except Unsendable:
            writer.rollback(state)
        writer.chained -= 1


def _outside_attributes(error: BaseException) -> dict[str, Any]:
    """What a built-in exception keeps in its C structure, and a class with ``__slots__`` in its slots."""
    found: dict[str, Any] = {}
    for base in type(error).__mro__:
        if base in _WITHOUT_OUTSIDE:
            continue
        for name, descriptor in vars(base).items():
            if name not in found and _travels(name, descriptor):
                item = _stored(descriptor, error)
                # What C code has not set is None; what Python code has set to None is there.
                if item is not _ABSENT and (item is not None or by_statement(base)):
                    found[name] = item
    return found


def _travels(name: str, descriptor: Any) -> bool:
    if descriptor is _CHARACTERS_WRITTEN:
        return True
    # AttributeError.obj is whatever object lacked the attribute: it may be anything, and only helps to guess at typos.
    return (
        isinstance(descriptor, MemberDescriptorType)
        and descriptor.__objclass__ not in (BaseException, BaseExceptionGroup)
        and not (name == "obj" and descriptor.__objclass__ is AttributeError)
    )


_WITHOUT_OUTSIDE = (Exception, BaseException, object)
"""Of these nothing travels in that way, and every error has them."""
_CHARACTERS_WRITTEN: Any = vars(OSError)["characters_written"]


def _stored(descriptor: Any, error: BaseException) -> Any:
    try:
        return descriptor.__get__(error, type(error))
    except AttributeError:
        return _ABSENT


_ABSENT: Any = object()


# Classes of compiled code ------------------------------------------------------------------------

_PYDANTIC = "pydantic_core._pydantic_core:"
_VALIDATION_ERROR = f"{_PYDANTIC}ValidationError"
_MADE_OF: dict[str, tuple[str, ...]] = {
    _VALIDATION_ERROR: ("title", "errors", "mode", "hide"),
    f"{_PYDANTIC}PydanticCustomError": ("type", "message_template", "context"),
    f"{_PYDANTIC}PydanticKnownError": ("type", "context"),
    f"{_PYDANTIC}PydanticOmit": (),
    f"{_PYDANTIC}PydanticUseDefault": (),
    f"{_PYDANTIC}PydanticSerializationError": ("message",),
    f"{_PYDANTIC}PydanticSerializationUnexpectedValue": ("message",),
}
"""What the constructors of pydantic-core's exceptions are given; that of a ValidationError is from_exception_data."""


def _is_plain(cls: Any) -> bool:
    """Whether a built-in class can make an exception of the class: there is no more to it than attributes."""
    native = native_base(cls)
    if native.__module__ != "builtins":
        return False
    try:
        native.__new__(cls)
    except TypeError:
        return False  # compiled code keeps something of its own in it
    return True


def _inner_parts(error: BaseException) -> dict[str, Any]:
    """What compiled code keeps inside of an exception: enough to make it again, else what it says for itself."""
    # (Written like its attributes: leniently, and masked.)
    kind: Any = type(error)
    parts: dict[str, Any] = {}
    if type_name_of(kind) == _VALIDATION_ERROR:
        made_of = _asked(lambda: kind.__reduce__(error)[1])
        if isinstance(made_of, tuple):
            parts = dict(zip(_MADE_OF[_VALIDATION_ERROR], made_of, strict=True))
            parts["errors"] = [_line(line) for line in parts["errors"]]
            return parts
    for base in kind.__mro__:
        if base.__module__ != "builtins":
            for name, descriptor in vars(base).items():
                if type(descriptor) is GetSetDescriptorType and name not in parts and not name.startswith("__"):
                    parts[name] = _asked(lambda descriptor=descriptor: descriptor.__get__(error))
    if callable(ask := attribute_of(error, "errors")):
        parts["errors"] = _asked(ask)
    return parts


def _line(line: dict[str, Any]) -> dict[str, Any]:
    """What pydantic says of one place, where a secret was perhaps of the wrong type."""
    is_secret = any(isinstance(name, str) and is_secret_name(name) for name in line["loc"])
    return {key: MASK if is_secret and key == "input" else item for key, item in line.items() if key != "url"}


def _asked(ask: Any) -> Any:
    try:
        return ask()
    except BaseException as failed:
        raise_ctrl_c(failed)
        return f"<asking for it raised {type(failed).__name__}>"


def _from_parts(name: str, parts: Any) -> BaseException | None:
    """An exception of pydantic-core's; None if it is another one, or cannot be made."""
    cls: Any = known_class(name)
    if cls is None or name not in _MADE_OF:
        return None
    try:
        make = cls.from_exception_data if name == _VALIDATION_ERROR else cls
        return make(*[parts[key] for key in _MADE_OF[name]])  # type: ignore[no-any-return]
    except BaseException as failed:
        raise_ctrl_c(failed)
        # Another version of pydantic, or a context that was replaced by its text.
        return None


# Reading -----------------------------------------------------------------------------------------


def _read_error(reader: WireReader, form: Form) -> Any:
    name, message = part(form, "c", str), part(form, "m", str)
    members = form.get("g")
    if members is not None:
        members = reader.read_items(part(form, "g", list))
        if not members or not all(isinstance(member, BaseException) for member in members):
            raise WireError("form 'error': a group of what are not exceptions")
    parts = reader.read(part(form, "p", dict)) if "p" in form else {}
    error = _from_parts(name, {"message": message, **parts}) if "p" in form else None
    if error is None:
        error = _made(name, message, members, form)
    number = form.get("i")
    if number is not None:
        # From here on the form's own parts may refer to it.
        reader.errors[part(form, "i", int)] = error
    arguments = tuple(reader.read_items(part(form, "a", list)))
    outside = reader.read_fields(part(form, "n", dict)) if "n" in form else {}
    inside = reader.read(part(form, "d", dict)) if "d" in form else {}
    if type(inside) is not dict or not all(type(key) is str for key in inside):
        raise WireError(f"form 'error': attributes {text_of(inside, 100)}")
    if type_name_of(type(error)) == name:
        _ARGS.__set__(error, arguments)
        _set_outside(error, outside)
        _DICT.__get__(error).update(inside)
    else:
        attributes = {**parts, **outside, **inside}
        error.__dict__.update({key: item for key, item in attributes.items() if _may_stand_in(error, key)})
        bases = part(form, "b", list) if "b" in form else []
        if not all(type(base) is str for base in bases):
            raise WireError(f"form 'error': bases {text_of(bases, 100)}")
        error.__dict__.update(
            type_name=name, type_bases=tuple(bases), remote_args=tuple(text_of(argument) for argument in arguments)
        )
    if "w" in form:
        _DICT.__get__(error)["retry_after"] = part(form, "w", float)
    if "t" in form:
        _DICT.__get__(error)[REMOTE_TRACEBACK] = part(form, "t", str)
    for key, descriptor in (("cause", _CAUSE), ("context", _CONTEXT)):
        if key in form:
            linked = reader.read(part(form, key, dict))
            if not isinstance(linked, BaseException):
                raise WireError(f"form 'error': its {key} is {text_of(linked, 100)}")
            descriptor.__set__(error, linked)
    _SUPPRESS.__set__(error, "s" in form)
    return error


def _may_stand_in(error: BaseException, name: str) -> bool:
    """Whether an attribute of the original may be one of its stand-in, where people look for it too."""
    return name in ("__notes__", "errors") or not (name.startswith("__") or hasattr(type(error), name))


def _made(name: str, message: str, members: list[BaseException] | None, form: Form) -> BaseException:
    """An exception of that class, still without its arguments, or a stand-in for it."""
    cls = known_class(name)
    if (
        cls is not None
        and issubclass(cls, BaseException)
        and issubclass(cls, BaseExceptionGroup) == (members is not None)
        and _is_sound(cls, form)
    ):
        native = native_base(cls)
        if native.__module__ == "builtins":
            try:
                made: BaseException = native.__new__(cls, *(() if members is None else (message, members)))
            except TypeError:
                made = BaseException()  # compiled code keeps something of its own in it
            if type(made) is cls:
                return made
    if members is not None:
        return BaseExceptionGroup(message, members)
    return RemoteError(f"{name.replace(':', '.')}: {message}" if message else name.replace(":", "."))


def _set_outside(error: BaseException, outside: dict[str, Any]) -> None:
    for name, item in outside.items():
        descriptor = static(type(error), name)
        if _travels(name, descriptor):
            descriptor.__set__(error, item)
        elif by_statement(type(error)) and descriptor is None:
            # The class had a slot of that name where the error was raised.
            _DICT.__get__(error)[name] = item
        else:
            raise WireError(f"form 'error': {type(error).__name__} has no place for {text_of(name, 60)}")


def _is_sound(cls: type[BaseException], form: Form) -> bool:
    """Whether a Unicode error's parts fit together.

    Its str() looks into the object at these positions, and before Python 3.13 does not check that they are inside it.
    """
    if not issubclass(cls, (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)):
        return True
    outside = form.get("n", {})
    if type(outside) is not dict or any(type(outside.get(key, 0)) is not int for key in ("start", "end")):
        return False
    if any(type(outside.get(key, "")) is not str for key in ("encoding", "reason")):
        return False
    given = outside.get("object", "")
    tag = given.get("~") if type(given) is dict else "str" if type(given) is str else None
    wanted = "bytes" if issubclass(cls, UnicodeDecodeError) else "str"
    is_whole = "object" not in outside or tag == wanted
    return is_whole and outside.get("start", 0) >= 0 and outside.get("end", 0) >= 0


def _read_again(reader: WireReader, form: Form) -> Any:
    number = part(form, "i", int)
    error = reader.errors.get(number)
    if error is None:
        raise WireError(f"form 'again': there was no exception {number}")
    return error


BY_BASE: dict[type[Any], WriteFunction] = {BaseException: write_error}

READ: dict[str, ReadFunction] = {"error": _read_error, "again": _read_again}
