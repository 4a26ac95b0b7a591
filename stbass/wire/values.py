"""Built-in types that JSON lacks. One form each:

| tag | type | form |
|---|---|---|
| `int` | int beyond 64 bits | `v`: hexadecimal, with sign |
| `float` | nan, inf, -inf | `v`: `inf`, `-inf`, or the 16 hexadecimal digits of a nan (a nan has content) |
| `str` | str with lone surrogates | `v`: base64 of UTF-8 with surrogates passed through |
| `bytes`, `bytearray` | the same (a memoryview goes as bytes) | `v`: base64 |
| `tuple`, `set`, `frozenset` | the same | `v`: list |
| `dict` | dict with other keys than str, or with the key `"~"` | `v`: key, value, key, value, … |
| `uuid`, `decimal` | the same | `v`: text |
| `path` | pathlib | `c`: name of the class; `v`: text |
"""

from __future__ import annotations

import json
import math
import pathlib
import struct
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from decimal import Decimal
from typing import Any
from uuid import UUID

from stbass._values.masking import MASK, masked
from stbass._values.opaque import Opaque
from stbass._values.texts import shortened, text_of
from stbass.errors import WireError
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, part

__all__ = ["READ", "WRITE", "is_text"]

INT_MIN = -(2**63)
INT_MAX = 2**64 - 1


def is_text(value: str) -> bool:
    """Whether a str is encodable as UTF-8, that is, has no lone surrogates (as undecodable file names have)."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# Scalars -----------------------------------------------------------------------------------------


def _write_itself(writer: WireWriter, value: Any) -> Any:
    writer.spend(1)
    return value


def _write_int(writer: WireWriter, value: int) -> Any:
    if INT_MIN <= value <= INT_MAX:
        writer.spend(1)
        return value
    writer.spend(value.bit_length() // 4)
    # Hexadecimal: decimal text of a large number takes quadratic time, and Python refuses it beyond 4300 digits.
    return {"~": "int", "v": hex(value)}


def _write_float(writer: WireWriter, value: float) -> Any:
    writer.spend(1)
    if math.isfinite(value):
        return value
    return {"~": "float", "v": struct.pack(">d", value).hex() if value != value else repr(value)}


def _write_str(writer: WireWriter, value: str) -> Any:
    writer.spend(len(value) + 1)
    if writer.masking:
        value = masked(value)
    if is_text(value):
        return value
    return {"~": "str", "v": _base64(value.encode("utf-8", "surrogatepass"))}


def _write_bytes(writer: WireWriter, value: bytes) -> Any:
    writer.spend(len(value) + 1)
    if writer.masking:
        value = masked(value.decode("latin-1")).encode("latin-1")
    return {"~": "bytes", "v": _base64(value)}


def _write_bytearray(writer: WireWriter, value: bytearray) -> Any:
    writer.spend(len(value) + 1)
    return {"~": "bytearray", "v": _base64(value)}


def _write_memoryview(writer: WireWriter, value: memoryview) -> Any:
    return _write_bytes(writer, value.tobytes())


def _base64(value: bytes | bytearray) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


def _unbase64(form: Form) -> bytes:
    text = part(form, "v", str)
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise WireError(f"form {form['~']!r}: {error}") from None


def _read_int(reader: WireReader, form: Form) -> Any:
    return int(part(form, "v", str), 16)


def _read_float(reader: WireReader, form: Form) -> Any:
    text = part(form, "v", str)
    if text in ("inf", "-inf"):
        return float(text)
    (value,) = struct.unpack(">d", bytes.fromhex(text))
    if value == value:
        raise WireError(f"form 'float': {text!r} is a plain number")
    return value


def _read_str(reader: WireReader, form: Form) -> Any:
    return _unbase64(form).decode("utf-8", "surrogatepass")


def _read_bytes(reader: WireReader, form: Form) -> Any:
    return _unbase64(form)


def _read_bytearray(reader: WireReader, form: Form) -> Any:
    return bytearray(_unbase64(form))


def _write_uuid(writer: WireWriter, value: UUID) -> Any:
    writer.spend(36)
    return {"~": "uuid", "v": str(value)}


def _read_uuid(reader: WireReader, form: Form) -> Any:
    return UUID(part(form, "v", str))


def _write_decimal(writer: WireWriter, value: Decimal) -> Any:
    text = str(value)
    writer.spend(len(text))
    return {"~": "decimal", "v": text}


def _read_decimal(reader: WireReader, form: Form) -> Any:
    try:
        return Decimal(part(form, "v", str))
    except ArithmeticError:
        raise WireError(f"form 'decimal': {text_of(form['v'], 60)} is not a number") from None


_PATHS: dict[str, type[pathlib.PurePath]] = {
    cls.__name__: cls
    for cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
}


def _write_path(writer: WireWriter, value: pathlib.PurePath) -> Any:
    return {"~": "path", "c": type(value).__name__, "v": _write_str(writer, str(value))}


def _read_path(reader: WireReader, form: Form) -> Any:
    text = reader.read(form.get("v"))
    cls = _PATHS.get(part(form, "c", str))
    if cls is None or type(text) is not str:
        raise WireError(f"form 'path': {text_of(form, 100)}")
    if issubclass(cls, pathlib.Path) and cls is not type(pathlib.Path()):
        # A path of the other operating system's files: it can be looked at here, but not opened.
        cls = pathlib.PureWindowsPath if cls is pathlib.WindowsPath else pathlib.PurePosixPath
    return cls(text)


# Containers --------------------------------------------------------------------------------------


def _at_index(index: int, value: Any) -> str:
    return f"[{index}]"


def _at_element(index: int, value: Any) -> str:
    return f"{{{text_of(value, 40)}}}"


def _write_list(writer: WireWriter, value: list[Any]) -> Any:
    return writer.items(value, value, len(value), _at_index)


def _write_tuple(writer: WireWriter, value: tuple[Any, ...]) -> Any:
    if writer.masking and len(value) == 2 and writer.hides(_text_of_name(value[0])):
        value = (value[0], MASK)
    return {"~": "tuple", "v": writer.items(value, value, len(value), _at_index)}


def _write_set(writer: WireWriter, value: set[Any]) -> Any:
    return {"~": "set", "v": writer.items(value, value, len(value), _at_element)}


def _write_frozenset(writer: WireWriter, value: frozenset[Any]) -> Any:
    return {"~": "frozenset", "v": writer.items(value, value, len(value), _at_element)}


def _text_of_name(name: Any) -> Any:
    """A header's name, which may be bytes, as text."""
    return name.decode("latin-1") if type(name) is bytes else name


def _shown(key: Any) -> str:
    return json.dumps(shortened(key, 40), ensure_ascii=False) if type(key) is str else text_of(key, 40)


def _write_dict(writer: WireWriter, value: dict[Any, Any]) -> Any:
    plain = "~" not in value
    if plain:
        for key in value:
            if type(key) is not str or not is_text(key):
                plain = False
                break
    writer.enter(value, len(value))
    pairs: list[Any] = []
    made: Form = {}
    write = writer.write
    for key, item in value.items():
        if writer.masking and item is not None and writer.hides(_text_of_name(key)):
            item = MASK
        state = writer.state if writer.lenient else (0, 0)
        if plain:
            writer.spend(len(key))
            name = key
        else:
            try:
                name = write(key)
            except Unsendable as unsendable:
                name = writer.replace(key, unsendable, state, f".keys()[{_shown(key)}]")
        try:
            written = write(item)
        except Unsendable as unsendable:
            written = writer.replace(item, unsendable, state, f"[{_shown(key)}]")
        if plain:
            made[name] = written
        else:
            pairs += (name, written)
    writer.leave()
    return made if plain else {"~": "dict", "v": pairs}


def _read_tuple(reader: WireReader, form: Form) -> Any:
    return tuple(reader.read_items(part(form, "v", list)))


def _read_set(reader: WireReader, form: Form) -> Any:
    return set(reader.read_items(part(form, "v", list)))


def _read_frozenset(reader: WireReader, form: Form) -> Any:
    return frozenset(reader.read_items(part(form, "v", list)))


def _read_dict(reader: WireReader, form: Form) -> Any:
    pairs = reader.read_items(part(form, "v", list))
    if len(pairs) % 2:
        raise WireError("form 'dict': a key without a value")
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


# Opaque ------------------------------------------------------------------------------------------


def _write_opaque(writer: WireWriter, value: Opaque) -> Any:
    if value.kind in ("zone", "date", "time", "datetime"):
        # Its data is the inside of a form, which means nothing outside of it.
        return {"~": value.kind, "v": value.data, **(value.rest or {})}
    is_object = value.kind in ("data", "named", "model", "struct", "object")
    writer.enter(value)
    data = writer.fields(value.data, value.data) if is_object else writer.write(value.data)
    form: Form = {"~": value.kind, "c": value.type_name, "v": data}
    if value.rest is not None:
        form["x"] = writer.write(value.rest)
    if value.reason and value.kind == "opaque":
        form["r"] = value.reason
    writer.leave()
    return form


def _read_opaque(reader: WireReader, form: Form) -> Any:
    reason = part(form, "r", str) if "r" in form else ""
    return Opaque(part(form, "c", str), reader.read(form.get("v")), reason=reason)


WRITE: dict[type[Any], WriteFunction] = {
    type(None): _write_itself,
    bool: _write_itself,
    int: _write_int,
    float: _write_float,
    str: _write_str,
    bytes: _write_bytes,
    bytearray: _write_bytearray,
    memoryview: _write_memoryview,
    list: _write_list,
    tuple: _write_tuple,
    dict: _write_dict,
    set: _write_set,
    frozenset: _write_frozenset,
    UUID: _write_uuid,
    Decimal: _write_decimal,
    **dict.fromkeys(_PATHS.values(), _write_path),
    Opaque: _write_opaque,
}

READ: dict[str, ReadFunction] = {
    "int": _read_int,
    "float": _read_float,
    "str": _read_str,
    "bytes": _read_bytes,
    "bytearray": _read_bytearray,
    "tuple": _read_tuple,
    "dict": _read_dict,
    "set": _read_set,
    "frozenset": _read_frozenset,
    "uuid": _read_uuid,
    "decimal": _read_decimal,
    "path": _read_path,
    "opaque": _read_opaque,
}
