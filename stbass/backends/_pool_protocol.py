"""The messages between a pool and its worker processes: frames on a pair of sockets.

A frame is its length (8 bytes, big-endian) and a pickled tuple, whose first item says what it is:

| from the pool | |
|---|---|
| ``run``, process, :class:`Assignment` | run this; the process is pickled separately |
| ``cancel`` | cancel what runs |

| from the worker | |
|---|---|
| ``started``, date | it runs |
| ``checkpoint``, value | as given to ``ctx.checkpoint``; pickled separately |
| ``progress``, done, total, note | as given to ``ctx.progress`` |
| ``usage``, :class:`Usage` | what it has used up to now |
| ``event``, :class:`Event`, value | of its run: an output, or of a process inside; the value pickled separately |
| ``ended``, (result, values sent on ``output`` or None) | it has ended; pickled separately |
| ``cancelled`` | it has ended, by a cancellation |
| ``unusable`` | like ``cancelled``, but a thread that cannot be stopped still runs |

The user's values are pickled separately, so that one that cannot be unpickled does not spoil the frame.
Both ends belong to one program on one machine, so nobody else can send a pickle.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from dataclasses import dataclass
from typing import Any

from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.endpoint import Placement
from stbass._values.texts import message_of
from stbass.errors import NotTransportable

__all__ = ["LENGTH", "Assignment", "framed", "pickled", "sendable", "unpickled"]

LENGTH = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The parts of a process's context that a worker needs. ``remaining`` is in seconds."""

    process_name: str
    process_id: str
    parent: str | None
    placement: Placement | None
    remaining: float | None
    span: float | None
    attempt: int
    resumed_from: Any
    given: tuple[Any, ...] | None
    run: str
    path: str | None
    """The names of what is around it; None: nobody follows the run that it belongs to."""


def framed(body: bytes) -> bytes:
    """``body`` with its length before it."""
    return LENGTH.pack(len(body)) + body


def pickled(value: Any, what: str) -> bytes:
    """``value`` as bytes.

    Raises:
        NotTransportable: it cannot be pickled; ``what`` says what it is.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except NotTransportable:
        raise
    except RecursionError as error:
        raise NotTransportable(f"{what} cannot go to another Python process: it is nested too deep") from error
    except BaseException as error:  # a class may raise anything when it is pickled
        raise_ctrl_c(error)
        raise NotTransportable(
            f"{what} cannot go to another Python process: {message_of(error)}. Define processes and classes at the top"
            " level of a module, and keep open files, connections and locks out of them"
        ) from error


def sendable(value: Any, what: str) -> bytes:
    """As :func:`pickled`, for another Python process that starts anew, and has nothing but what it can import.

    Raises:
        NotTransportable: it cannot go there.
    """
    body = pickled(value, what)
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is not None or (file is not None and os.path.isfile(file)):
        return body
    if file is not None:
        raise NotTransportable(
            f"{what} cannot go to another Python process, which begins with the program's file: this program was read"
            f" from {file}. Save it in a file"
        )
    if b"__main__" in body:
        finder = _Finder(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        finder.dump(value)
        if finder.found:
            raise NotTransportable(
                f"{what} cannot go to another Python process: {', '.join(finder.found)} was defined in a notebook or an"
                " interactive session, and another Python process cannot import it. Put it in a module and import that"
            )
    return body


class _Finder(pickle.Pickler):
    """Finds what is of ``__main__``."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.found: dict[str, None] = {}

    def reducer_override(self, obj: Any) -> Any:
        if getattr(obj, "__module__", None) == "__main__" and hasattr(obj, "__qualname__"):
            self.found[obj.__qualname__] = None
        return NotImplemented


def unpickled(body: bytes) -> Any:
    """The inverse of :func:`pickled`, for what the other end has sent."""
    return pickle.loads(body)  # noqa: S301 - the sockets have two ends, and both are ours
