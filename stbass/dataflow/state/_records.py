"""The records that every state backend stores: JSON text, the holder of a job, parts of checkpoints with checksums."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stbass._values.checks import is_whole
from stbass._values.texts import value_text
from stbass.errors import CheckpointError, ConfigurationError, StateError

__all__ = [
    "SCHEMA_VERSION",
    "ProcessRecord",
    "StoredPart",
    "check_id",
    "check_job_id",
    "check_parts",
    "checked_checkpoint",
    "damaged",
    "from_json",
    "new_job_id",
    "now",
    "stored_parts",
    "this_process",
    "to_json",
    "wrong_version",
]

SCHEMA_VERSION = 1
"""Of the tables and keys. One that differs is refused: nothing is guessed about data of another version."""

_JOB_ID = re.compile(r"Job_[A-Za-z0-9]{8,}")
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process as it is stored, without its components and connectors, which have records of their own.

    ``components`` and ``connectors`` are by id, in the process's order; the value is JSON text, or None for one of
    which only the id is known.
    """

    data: str
    status: str
    components: Mapping[str, str | None]
    connectors: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a checkpoint as it was read: nobody has looked at it yet."""

    name: Any
    data: Any
    checksum: Any


def now() -> str:
    """The time, in UTC, as it is stored."""
    return datetime.now(UTC).isoformat()


def new_job_id() -> str:
    """A fresh job id."""
    return f"Job_{secrets.token_hex(8)}"


def check_job_id(value: Any) -> str:
    """``value``, if it is a job id.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, str) or _JOB_ID.fullmatch(value) is None:
        raise ConfigurationError(
            f"job_id must be 'Job_' and 8 or more letters (A-Z, a-z) or digits, not {value_text(value)}"
        )
    return value


def check_id(data: Mapping[str, Any], what: str) -> str:
    """The id of a process, component or connector that is to be stored.

    Raises:
        StateError: it has none that could be stored.
    """
    found = data.get("id")
    if not isinstance(found, str) or not found:
        raise StateError(
            f"a {what} can be stored only with an 'id', a text that is not empty; this one's is {value_text(found)}"
        )
    _check_text(found, f"the id of a {what}")
    if "\0" in found:
        raise StateError(f"the id of a {what} is {value_text(found)}: the character NUL cannot be stored")
    return found


def this_process() -> str:
    """Who holds a job that this Python process holds, as JSON text."""
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now()})


# JSON --------------------------------------------------------------------------------------------


def to_json(value: Any, what: str) -> str:
    """``value`` as JSON text.

    Raises:
        StateError: it holds what JSON cannot; the message names the place, beginning with ``what``.
    """
    _check(value, what, 0)
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise StateError(f"{what} cannot be stored as JSON: {error}") from error


def from_json(text: Any, what: str) -> Any:
    """What was stored as ``text``.

    Raises:
        StateError: it is not JSON text.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise StateError(f"{what} is stored as something that is not JSON ({error}): the record is damaged") from error


def _check(value: Any, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise StateError(f"{where[:60]}… is nested deeper than {_DEEPEST}, or contains itself: that cannot be stored")
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise StateError(
                f"{where} is {value_text(value)}, which JSON does not have: leave it out, or store it as text"
            )
    elif isinstance(value, Mapping):
        if not isinstance(value, dict):
            raise _not_json(value, where)
        for key, item in value.items():
            if not isinstance(key, str):
                raise StateError(f"{where} has the key {key!r}: the keys of a dict that is stored must be text")
            _check_text(key, f"a key of {where}")
            _check(item, f"{where}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", depth + 1)
    else:
        raise _not_json(value, where)


def _check_text(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise StateError(f"{where} is text with half a character in it ({error}): that cannot be stored") from None


def _not_json(value: Any, where: str) -> StateError:
    kind = type(value)
    return StateError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which JSON cannot hold:"
        " store dicts, lists, text, numbers, booleans and None only"
    )


# Checkpoints -------------------------------------------------------------------------------------


def check_parts(n: Any, parts: Any) -> dict[str, bytes]:
    """The parts of checkpoint ``n``, if they can be stored.

    Raises:
        TypeError: they are not bytes by name.
        ValueError: ``n`` is negative.
    """
    if not is_whole(n):
        raise TypeError(f"the number of a checkpoint must be an int, not {value_text(n)}")
    if not 0 <= n < 2**63:
        raise ValueError(f"the number of a checkpoint must be from 0 to 2**63 - 1, not {n}")
    found = dict(parts)
    for name, data in found.items():
        if not isinstance(name, str) or not isinstance(data, bytes):
            raise TypeError(f"the parts of a checkpoint must be bytes by name; {name!r} is a {type(data).__name__}")
        _check_text(name, "the name of a part of a checkpoint")
        if "\0" in name:
            raise ValueError(f"{name!r} cannot be the name of a part of a checkpoint: the character NUL in it")
    return found


def stored_parts(parts: Mapping[str, bytes]) -> list[StoredPart]:
    """The parts with the sums that :func:`checked_checkpoint` will compare."""
    return [StoredPart(name, data, zlib.crc32(data)) for name, data in parts.items()]


def damaged(job_id: str, where: str, what: str, component: str = "") -> CheckpointError:
    """The error for a checkpoint that is not as it was written."""
    return CheckpointError(
        f"the checkpoint of {job_id} in {where} is damaged: {what}."
        " Put back a copy of that store from before, or start anew with another job id",
        component=component,
    )


def checked_checkpoint(
    job_id: str, where: str, n: Any, count: Any, read: list[StoredPart]
) -> tuple[int, dict[str, bytes]]:
    """A checkpoint that was read, if it is as it was written.

    Raises:
        CheckpointError: it is not.
    """
    if type(n) is not int or type(count) is not int or n < 0:
        raise damaged(job_id, where, f"its number is {value_text(n)} and it has {value_text(count)} parts")
    parts: dict[str, bytes] = {}
    for part in read:
        if not isinstance(part.name, str) or not isinstance(part.data, bytes):
            raise damaged(job_id, where, f"the part {part.name!r} is not bytes", str(part.name))
        if zlib.crc32(part.data) != part.checksum:
            raise damaged(job_id, where, f"the part {part.name!r} does not have the sum it was written with", part.name)
        parts[part.name] = part.data
    if len(parts) != count:
        raise damaged(job_id, where, f"it has {len(parts)} of its {count} parts")
    return n, parts


def wrong_version(where: str, found: str) -> StateError:
    """The error for a store that another version of stbass made."""
    return StateError(
        f"{where} holds the state of another version of stbass (schema {found or 'none'}; this one reads and"
        f" writes schema {SCHEMA_VERSION}): use that version, or another place for the state"
    )
