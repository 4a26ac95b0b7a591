"""The functions with which the rest of stbass turns values, processes and results into bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any, TypeVar

import msgspec

from stbass._channels.transport import Transport
from stbass._process.context import Composable
from stbass._values.texts import error_text, message_of, outline_of, shortened, text_of, type_name_of
from stbass.channel import Chan
from stbass.errors import NotTransportable, ProcessRefused, RemoteError, WireError
from stbass.result import Failure, ProcessResult
from stbass.wire import (
    arrays,
    classes,
    exceptions,
    library,
    models,
    processes,
    registered,
    responses,
    results,
    times,
    values,
)
from stbass.wire.admission import Admission
from stbass.wire.core import MAX_DEPTH, Oversized, Unsendable, WireReader, WireWriter

__all__ = [
    "LIMIT",
    "Decoder",
    "dump_error",
    "dump_result",
    "dumps",
    "load_error",
    "load_result",
    "loads",
    "loads_process",
    "result_or_failure",
]

LIMIT = 16 * 2**20
"""The default for the size of one message, in bytes."""

for _module in (values, times, library, results):
    WireWriter.by_type.update(_module.WRITE)
for _module in (values, times, library, results, classes, models, exceptions, arrays, processes, registered):
    WireReader.by_tag.update(_module.READ)
for _module in (exceptions, processes, classes):
    WireWriter.by_base.update(_module.BY_BASE)
WireWriter.by_look += (
    *arrays.BY_LOOK,
    *models.BY_LOOK,
    *classes.BY_LOOK,
    library.write_constant,
    times.write_zone,
    responses.write_response,
)

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


# Values ------------------------------------------------------------------------------------------


def dumps(value: Any, *, limit: int = LIMIT, what: str = "value", processes: bool | None = None) -> bytes:
    """A value as UTF-8 JSON. Plain JSON values stay as they are; all else becomes a form (see :mod:`stbass.wire.core`).

    Args:
        limit: how many bytes it may be at most.
        what: what to call the value in an error.
        processes: whether there may be processes and channels in it, which only a :class:`Decoder` made for them reads;
            None: if it is one itself.

    Raises:
        NotTransportable: something in it cannot travel; ``path`` says where it is. Or it is too large. What the value
            was is kept as text: a call that took minutes may have made it.
    """
    try:
        try:
            if is_plain(value, [limit], 0):
                return _sized(_encode(value), limit, what)
        except UnicodeEncodeError:
            pass  # a lone surrogate somewhere: a form can hold it
        if processes is None:
            # Not isinstance, which asks the value for its class.
            processes = issubclass(type(value), (Composable, Chan))
        return _written(lambda writer: writer.write(value), limit, what, processes)
    except NotTransportable as error:
        _keep_text(error, value)
        raise


def _keep_text(error: NotTransportable, value: Any) -> None:
    error.value_type, error.value_text = type_name_of(type(value)), outline_of(value)
    error.add_note(f"It was a {error.value_type}: {error.value_text}")


def loads(data: bytes | str, *, what: str = "value", limit: int = LIMIT) -> Any:
    """The value that :func:`dumps` wrote. It brings no processes and no channels: for these see :class:`Decoder`.

    Nothing is imported and nothing is called; an exception in it is returned, never raised.

    Raises:
        WireError: it is not what ``dumps`` writes, or it is larger than ``limit`` bytes.
    """
    return _PLAIN_DECODER.loads(data, what=what, limit=limit)


class Decoder:
    """Reads values, and what else its maker admits.

    Args:
        admission: which processes may be made; None: a message with a process in it is refused.
        transport: how to reach the channels in a message; None: a message with a channel in it is refused.
    """

    __slots__ = ("_admission", "_transport")

    def __init__(self, *, admission: Admission | None = None, transport: Transport | None = None) -> None:
        self._admission = admission
        self._transport = transport

    def loads(self, data: bytes | str, *, what: str = "value", limit: int = LIMIT) -> Any:
        """As :func:`stbass.wire.loads`.

        Raises:
            WireError: it is not what ``dumps`` writes, or it is larger than ``limit`` bytes.
            ProcessRefused: it brings a process that is not admitted.
        """
        node, is_plain = _parsed(data, limit, what)
        return node if is_plain else self.read(node, lambda reader: reader.read(node), what)

    def read(self, node: Any, function: Callable[[WireReader], T], what: str) -> T:
        """Call a function with a reader; whatever goes wrong becomes a ``WireError``, but a refusal stays one."""
        try:
            return function(WireReader(self._admission, self._transport))
        except (WireError, ProcessRefused) as error:
            if isinstance(error, WireError):
                raise WireError(f"the {what} is not one that stbass wrote: {error}") from None
            raise
        except Exception as error:
            # Anybody may have written this data, so whatever goes wrong in reading it is the data's fault.
            raise WireError(f"the {what} is not one that stbass wrote: {_brief(error)}") from error


def loads_process(
    data: bytes | str,
    *,
    allowed: Callable[[str], bool] | None,
    functions: Callable[[str], bool] | None = None,
    queue: str | None = None,
    worker: str | None = None,
    transport: Transport | None = None,
    what: str = "process",
    limit: int = LIMIT,
) -> Composable:
    """The process or composition that ``dumps`` wrote, on a worker.

    Args:
        allowed: asked with each ``module:qualname``; None allows all that the imported modules define.
        functions: asked with the module of each plain function that is to be called; None allows none.
        queue, worker: for the error of a process that is refused.
        transport: how to reach the channels that are bound to it.

    Raises:
        ProcessRefused: it, or a part of it, is not known here or not allowed.
        WireError: it is not a process that stbass wrote.
    """
    decoder = Decoder(admission=Admission(allowed, queue, worker, functions), transport=transport)
    found = decoder.loads(data, what=what, limit=limit)
    if not isinstance(found, Composable):
        raise WireError(f"the {what} is not one that stbass wrote: it is {text_of(found, 60)}")
    return found


# Errors ------------------------------------------------------------------------------------------


def dump_error(error: BaseException, *, limit: int = LIMIT) -> bytes:
    """An exception as bytes. Parts of it that cannot travel are replaced by their text.

    Raises:
        NotTransportable: it is too large.
    """
    return _written(lambda writer: exceptions.write_error(writer, error), limit, "error")


def load_error(data: bytes | str, *, limit: int = LIMIT) -> BaseException:
    """The exception that :func:`dump_error` wrote; :class:`~stbass.errors.RemoteError` if its class is not known here.

    Raises:
        WireError: it is none.
    """
    error = loads(data, what="error", limit=limit)
    if not isinstance(error, BaseException):
        raise WireError(f"the error is not one that stbass wrote: it is {text_of(error, 60)}")
    return error


# Results -----------------------------------------------------------------------------------------


def dump_result(result: ProcessResult, *, limit: int = LIMIT) -> bytes:
    """A result, for :func:`load_result`. A failure travels whatever is attached to it (see :mod:`stbass.wire.results`).

    Raises:
        NotTransportable: the value cannot travel, or the result is too large.
    """
    try:
        return _written(lambda writer: results.write_outcome(writer, result), limit, "value")
    except NotTransportable as error:
        if result.is_ok:
            _keep_text(error, result.value)
        raise


def load_result(data: bytes | str, *, limit: int = LIMIT) -> ProcessResult:
    """The result that :func:`dump_result` wrote.

    Raises:
        WireError: it is none.
    """
    node, _ = _parsed(data, limit, "result")
    if type(node) is not dict:
        raise WireError(f"the result is not one that stbass wrote: it is {text_of(node, 60)}")
    return _PLAIN_DECODER.read(node, lambda reader: results.read_outcome(reader, node), "result")


def result_or_failure(result: ProcessResult, *, limit: int = LIMIT) -> bytes:
    """Like :func:`dump_result`, but it never raises: a result that cannot travel becomes a failure that says why.

    A success whose value cannot travel becomes a failure with the ``NotTransportable`` that names the part, and says
    what the value was; a failure that is too large becomes a smaller one with a ``RemoteError`` of the same text.
    """
    try:
        return dump_result(result, limit=limit)
    except NotTransportable as error:
        reason = error
    run = result.run
    if result.is_ok:
        failure = Failure(reason)
        if run is not None:
            failure = replace(
                failure, process_name=run.process_name, process_id=run.process_id, started_at=run.started_at
            )
    else:
        failure = _reduced(result.failure, reason, limit)
    if run is not None:
        run = replace(run, placement=None)
    # What is left is small, whatever the limit: better this than a caller that never hears of its process.
    limit = max(limit, LIMIT)
    try:
        return dump_result(ProcessResult(False, None, failure, result.elapsed, run), limit=limit)
    except NotTransportable:
        # A failure that the process itself made, of what none consists of: its error is what counts.
        return dump_result(ProcessResult(False, None, Failure(failure.error)), limit=limit)


def _reduced(failure: Failure, reason: NotTransportable, limit: int) -> Failure:
    """The same failure without its large parts; a checkpoint stays if it takes at most half the limit."""
    name = type_name_of(type(failure.error))
    text = shortened(message_of(failure.error), _REDUCED_TEXT)
    error = RemoteError(f"{name.replace(':', '.')}: {text}", type_name=name)
    error.add_note(f"The error itself could not be sent: {reason}")
    return replace(
        failure,
        error=error,
        process_name=shortened(failure.process_name, _REDUCED_TEXT),
        placement=None,
        channel_state={},
        checkpoint=_if_small(failure.checkpoint, limit // 2),
        traceback_str=shortened(failure.traceback_str, 10 * _REDUCED_TEXT),
        leaves=failure.leaves[:_REDUCED_LEAVES],
    )


def _if_small(value: Any, limit: int) -> Any:
    try:
        dumps(value, limit=limit)
    except NotTransportable:
        return None
    return value


_REDUCED_TEXT = 1_000
_REDUCED_LEAVES = 10


# How ---------------------------------------------------------------------------------------------


def is_plain(value: Any, budget: list[int], depth: int) -> bool:
    """Whether msgspec would write the value exactly as it is. When in doubt the answer is no, and the writer decides.

    Args:
        budget: one number, how many more elements to look at; a value that refers to one list from many places could
            otherwise take for ever.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(values.INT_MIN <= value <= values.INT_MAX)
    if kind is float:
        return isfinite(value)
    if depth >= MAX_DEPTH:
        return False
    depth += 1
    items: Any
    if kind is dict:
        if "~" in value:
            return False
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return False
    budget[0] -= len(value)
    if budget[0] < 0:
        return False
    for item in items:
        # Leaves are checked here and not by a call each, because most items are leaves.
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if values.INT_MIN <= item <= values.INT_MAX:
                continue
            return False
        if kind is float:
            if isfinite(item):
                continue
            return False
        if not is_plain(item, budget, depth):
            return False
    return True


def _written(function: Callable[[WireWriter], Any], limit: int, what: str, processes: bool = False) -> bytes:
    try:
        return _sized(_encode(function(WireWriter(limit, processes=processes))), limit, what)
    except Unsendable as unsendable:
        raise unsendable.as_error(what) from None
    except Oversized:
        raise _oversized(None, limit, what) from None
    except UnicodeEncodeError as error:
        name = text_of(error.object, 100)
        raise NotTransportable(f"{what}: a field's name has lone surrogates: {name}", path=what) from None
    except RecursionError:
        raise NotTransportable(f"{what}: is nested too deep for the stack here; flatten it", path=what) from None
    except Exception as error:
        raise NotTransportable(f"{what}: writing it raised {error_text(error, 200)}", path=what) from error


def _sized(data: bytes, limit: int, what: str) -> bytes:
    if len(data) > limit:
        raise _oversized(len(data), limit, what)
    return data


def _oversized(size: int | None, limit: int, what: str) -> NotTransportable:
    found = "more" if size is None else f"{size:,} bytes"
    return NotTransportable(
        f"{what}: a message may have {limit:,} bytes, this one has {found}; send a reference to where the data is,"
        f" or raise the limit (STBASS_MAX_MESSAGE_BYTES) here and on the workers",
        path=what,
    )


def _parsed(data: bytes | str, limit: int, what: str) -> tuple[Any, bool]:
    """The JSON, and whether it is the value already because there is no form in it."""
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > limit:
            raise WireError(
                f"the {what} has {len(raw):,} bytes, more than the {limit:,} that are accepted here"
                f" (STBASS_MAX_MESSAGE_BYTES)"
            )
        node = _decode(raw)
        is_plain = b'"~"' not in raw
        if is_plain and raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            _check_depth(node, what)
    except WireError:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise WireError(f"the {what} is not one that stbass wrote: {_brief(error)}") from None
    return node, is_plain


def _check_depth(node: Any, what: str) -> None:
    level = [node]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for container in level
            if type(container) is dict or type(container) is list
            for item in (container.values() if type(container) is dict else container)
        ]
        if not level:
            return
    raise WireError(f"the {what} is nested more than {MAX_DEPTH} deep")


def _brief(error: Exception) -> str:
    return error_text(error, 300)


_PLAIN_DECODER = Decoder()
