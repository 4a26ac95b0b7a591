"""Outcomes: results, failures, where a process ran, placements and retry policies.

| tag | form |
|---|---|
| `result` | `ok`; `v`: value of a success, or `f`: the failure; `t`: microseconds it took; `run`: see `run` |
| `failure` | `error`, `name`, `id`, `started`, `failed`, `placement`, `parent`, `channels`, `checkpoint`, `traceback` |
| | also `leaves`: lines of text; `usage`, `worker`, `progress`, `attempt` (if it is not 1), `run` |
| `run` | `v`: name, id, started, ended, queued (microseconds), worker, attempt, placement, usage, waits |
| | `waits`: how many, their seconds, and a list for each of the longest: channel, direction, began, seconds |
| `placement` | `v`: model, endpoint, config |
| `retry` | `v`: attempts, backoff, base delay, longest delay, jitter, and if given `on`, `unless`, `w` |

A retry policy's kinds of errors (`on`, `unless`) are names: `module:qualname`, or as the user gave them. `w` is the
`module:name` of the function that gives its waits, which the worker must allow as it does any plain function.

A time in UTC is written as ISO 8601 text. A failure always arrives, whatever is attached to it: a part of its
checkpoint, of its channels' state or of its placement's configuration that cannot travel is replaced by its text, as an
:class:`~stbass._values.opaque.Opaque`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from stbass._process.call import reference_of_function
from stbass._values.endpoint import Placement
from stbass._values.texts import plain_text, text_of, type_name_of
from stbass._values.usage import Usage
from stbass._values.waits import MOST_WAITS, ChannelWait, ChannelWaits
from stbass.errors import WireError
from stbass.result import Failure, ProcessResult, RetryPolicy, RunInfo
from stbass.wire.classes import known_class
from stbass.wire.core import Form, ReadFunction, Unsendable, WireReader, WireWriter, WriteFunction, misfit, part
from stbass.wire.exceptions import keep_traceback, write_error

__all__ = ["READ", "WRITE", "read_outcome", "write_failure", "write_outcome"]

_MICROSECOND = timedelta(microseconds=1)
_LONGEST_SECONDS = 3e9


# Results -----------------------------------------------------------------------------------------


def write_outcome(writer: WireWriter, result: ProcessResult) -> Form:
    """The parts of a result, without the tag.

    Raises:
        Unsendable: its value cannot travel.
    """
    writer.enter(result, 10)
    form: Form
    if result.is_ok:
        form = {"ok": True, "v": writer.exact(result.value)}
    else:
        form = {"ok": False, "f": write_failure(writer, result.failure)}
    elapsed, run = result.elapsed, result.run
    if elapsed is not None:
        form["t"] = elapsed // _MICROSECOND
    if run is not None:
        form["run"] = _run_list(writer, run)
    writer.leave()
    return form


def read_outcome(reader: WireReader, form: Form) -> ProcessResult:
    """The inverse of :func:`write_outcome`.

    Raises:
        WireError: it is none.
    """
    failure = value = None
    if part(form, "ok", bool):
        value = reader.read(form["v"])
    else:
        failure = reader.read(form.get("f"))
        if type(failure) is not Failure:
            raise WireError(f"form 'result': {text_of(failure, 100)} is not a failure")
    elapsed = timedelta(microseconds=part(form, "t", int)) if "t" in form else None
    run = _run_of(reader, part(form, "run", list)) if "run" in form else None
    return ProcessResult(failure is None, value, failure, elapsed, run)


def _write_result(writer: WireWriter, result: ProcessResult) -> Form:
    try:
        return {"~": "result", **write_outcome(writer, result)}
    except Unsendable as unsendable:
        raise unsendable.at(".value") from None


# Failures ----------------------------------------------------------------------------------------


def write_failure(writer: WireWriter, failure: Failure) -> Form:
    """A failure. It is refused only if it is too large, or nested too deep."""
    writer.enter(failure, 10)
    # The failure's own traceback text includes the causes; the reader gives it back to the error.
    error = write_error(writer, failure.error, with_traceback=not failure.traceback_str)
    form: Form = {
        "~": "failure",
        "error": error,
        "name": _write_name(writer, failure.process_name),
        "id": _write_name(writer, failure.process_id),
        "failed": _write_moment(writer, failure.failed_at),
    }
    if failure.started_at is not None:
        form["started"] = _write_moment(writer, failure.started_at)
    if failure.placement is not None:
        form["placement"] = writer.soft(failure.placement)
    if failure.parent_process is not None:
        form["parent"] = _write_name(writer, failure.parent_process)
    if failure.channel_state:
        form["channels"] = writer.soft(dict(failure.channel_state))
    if failure.checkpoint is not None:
        form["checkpoint"] = writer.soft(failure.checkpoint)
    if type(failure.usage) is Usage:
        form["usage"] = writer.write(failure.usage)
    if failure.worker is not None:
        form["worker"] = _write_name(writer, failure.worker)
    if failure.last_progress:
        form["progress"] = _write_name(writer, failure.last_progress)
    if type(failure.attempt) is int and failure.attempt > 1:
        form["attempt"] = failure.attempt
    if failure.run is not None:
        form["run"] = _write_name(writer, failure.run)
    if failure.traceback_str:
        form["traceback"] = _write_name(writer, failure.traceback_str)
    if failure.leaves:
        form["leaves"] = [_write_name(writer, leaf) for leaf in failure.leaves]
    writer.leave()
    return form


def _read_failure(reader: WireReader, form: Form) -> Failure:
    error = reader.read(form.get("error"))
    if not isinstance(error, BaseException):
        raise WireError(f"form 'failure': its error is {text_of(error, 100)}")
    traceback = _optional(reader, form, "traceback", str) or ""
    if traceback:
        keep_traceback(error, traceback)
    failed_at = _read_moment(reader, form.get("failed"))
    if failed_at is None:
        raise WireError("form 'failure': it does not say when")
    return Failure(
        error,
        process_name=_required(reader, form, "name", str),
        process_id=_required(reader, form, "id", str),
        started_at=_read_moment(reader, form.get("started")),
        failed_at=failed_at,
        placement=_optional(reader, form, "placement", Placement),
        parent_process=_optional(reader, form, "parent", str),
        channel_state=_optional(reader, form, "channels", dict) or {},
        checkpoint=reader.read(form.get("checkpoint")),
        traceback_str=traceback,
        leaves=_read_leaves(form),
        usage=_optional(reader, form, "usage", Usage),
        worker=_optional(reader, form, "worker", str),
        last_progress=_optional(reader, form, "progress", str) or "",
        attempt=_optional(reader, form, "attempt", int) or 1,
        run=_optional(reader, form, "run", str),
    )


def _read_leaves(form: Form) -> tuple[str, ...]:
    leaves = form.get("leaves", [])
    if not isinstance(leaves, list) or not all(isinstance(leaf, str) for leaf in leaves):
        raise WireError(f"form 'failure': its leaves are {text_of(leaves, 100)}")
    return tuple(leaves)


# Where and when ----------------------------------------------------------------------------------


def _run_list(writer: WireWriter, run: RunInfo) -> list[Any]:
    """A :class:`RunInfo` as a list; what is not there at its end is left out."""
    last = [
        None if run.placement is None else writer.soft(run.placement),
        writer.write(run.usage) if type(run.usage) is Usage else None,
        None if run.waits is None else _waits_list(writer, run.waits),
    ]
    while last and last[-1] is None:
        last.pop()
    return [
        _write_name(writer, run.process_name),
        _write_name(writer, run.process_id),
        None if run.started_at is None else _write_moment(writer, run.started_at),
        None if run.ended_at is None else _write_moment(writer, run.ended_at),
        None if run.queued is None else run.queued // _MICROSECOND,
        None if run.worker is None else _write_name(writer, run.worker),
        writer.write(run.attempt),
        *last,
    ]


def _run_of(reader: WireReader, parts: list[Any]) -> RunInfo:
    name, process_id, started, ended, queued, worker, attempt, *placed = map(reader.read, parts)
    placement, usage, waits = (*placed, None, None, None)[:3]
    if not (
        type(name) is type(process_id) is str
        and type(queued) in (int, type(None))
        and type(worker) in (str, type(None))
        and type(attempt) is int
        and type(placement) in (Placement, type(None))
        and type(usage) in (Usage, type(None))
    ):
        raise WireError(f"form 'run': {text_of(parts, 200)}")
    return RunInfo(
        name,
        process_id,
        _read_moment(reader, started),
        _read_moment(reader, ended),
        None if queued is None else timedelta(microseconds=queued),
        worker,
        attempt,
        placement,
        usage,
        waits=None if waits is None else _waits_of(waits),
    )


def _waits_list(writer: WireWriter, waits: ChannelWaits) -> list[Any]:
    longest = [[_write_name(writer, one.channel), one.direction, one.began, one.seconds] for one in waits.longest]
    return [writer.write(waits.count), waits.seconds, longest]


def _waits_of(parts: Any) -> ChannelWaits:
    match parts:
        case [int(count), int() | float() as seconds, list(longest)] if len(longest) <= MOST_WAITS and _is_long(
            seconds
        ):
            return ChannelWaits(count, seconds, tuple(map(_wait_of, longest)))
    raise WireError(f"form 'run': its waits are {text_of(parts, 200)}")


def _wait_of(parts: Any) -> ChannelWait:
    match parts:
        case [str(channel), "send" | "receive" | "choose" as direction, began, int() | float() as seconds] if (
            isinstance(began, int | float) and _is_long(began) and _is_long(seconds)
        ):
            return ChannelWait(channel, direction, began, seconds)
    raise WireError(f"form 'run': one of its waits is {text_of(parts, 200)}")


def _is_long(seconds: float) -> bool:
    """Whether it can be how long a process has waited: dates can be reckoned with it."""
    return 0 <= seconds <= _LONGEST_SECONDS


def _write_run(writer: WireWriter, run: RunInfo) -> Form:
    writer.enter(run, 10)
    form: Form = {"~": "run", "v": _run_list(writer, run)}
    writer.leave()
    return form


def _read_run(reader: WireReader, form: Form) -> RunInfo:
    return _run_of(reader, part(form, "v", list))


def _write_name(writer: WireWriter, name: Any) -> Any:
    """A text that may be a subclass of str, or, in a failure that a process made itself, anything."""
    return writer.write(plain_text(name))


def _is_usual(moment: datetime) -> bool:
    """Whether its ISO 8601 text says all."""
    return moment.tzinfo is UTC and not moment.fold


def _write_moment(writer: WireWriter, moment: datetime) -> Any:
    if _is_usual(moment):
        return moment.isoformat()
    try:
        return writer.write(moment)
    except Unsendable:
        # A time zone of a third party. Only the point in time matters here, so the offset is enough.
        return writer.write(moment.astimezone(timezone(moment.utcoffset() or timedelta())))


def _read_moment(reader: WireReader, form: Any) -> datetime | None:
    if type(form) is str:
        moment = datetime.fromisoformat(form)
        if moment.tzinfo is not UTC:
            raise WireError(f"{text_of(form, 60)} is not a moment in UTC")
        return moment
    found = reader.read(form)
    if type(found) in (datetime, type(None)):
        return found  # type: ignore[no-any-return]
    raise WireError(f"{text_of(found, 60)} is not a moment")


# Placements and policies -------------------------------------------------------------------------


def _write_placement(writer: WireWriter, placement: Placement) -> Form:
    fields = {"model": placement.model, "endpoint": placement.endpoint, "config": placement.config}
    return {"~": "placement", "v": list(writer.fields(placement, fields).values())}


def _read_placement(reader: WireReader, form: Form) -> Placement:
    model, endpoint, config = reader.read_items(part(form, "v", list))
    return Placement(model, endpoint, config)


_OF_RETRY = ("max_attempts", "backoff", "base_delay", "max_delay", "jitter")


def _write_retry(writer: WireWriter, policy: RetryPolicy) -> Form:
    fields = {name: getattr(policy, name) for name in _OF_RETRY}
    form: Form = {"~": "retry", "v": list(writer.fields(policy, fields).values())}
    for name in ("on", "unless"):
        if kinds := getattr(policy, name):
            form[name] = [kind if isinstance(kind, str) else type_name_of(kind) for kind in kinds]
    if policy.wait is not None:
        if not writer.processes:
            raise Unsendable("the function of a retry policy that gives the wait cannot travel inside a value")
        try:
            form["w"] = reference_of_function(policy.wait)
        except ValueError as error:
            raise Unsendable(str(error)) from None
    return form


def _read_retry(reader: WireReader, form: Form) -> RetryPolicy:
    wait = None
    if "w" in form:
        if reader.admission is None:
            raise WireError("form 'retry': it brings a function where there may be none")
        wait = reader.admission.admit_function(part(form, "w", str))
    plain: dict[str, Any] = dict(zip(_OF_RETRY, reader.read_items(part(form, "v", list)), strict=True))
    return RetryPolicy(**plain, on=_read_kinds(form, "on"), unless=_read_kinds(form, "unless"), wait=wait)


def _read_kinds(form: Form, key: str) -> list[type[BaseException] | str]:
    """Classes of errors that are known here, and the names of the others."""
    names = form.get(key, [])
    if type(names) is not list or not all(type(name) is str for name in names):
        raise WireError(f"form 'retry': {text_of(names, 100)} are no kinds of errors")
    found = [(name, known_class(name)) for name in names]
    return [name if cls is None or not issubclass(cls, BaseException) else cls for name, cls in found]


def _required(reader: WireReader, form: Form, key: str, kind: type[Any]) -> Any:
    value = reader.read(form.get(key))
    if type(value) is not kind:
        raise misfit(form, key, kind, value)
    return value


def _optional(reader: WireReader, form: Form, key: str, kind: type[Any]) -> Any:
    return None if form.get(key) is None else _required(reader, form, key, kind)


WRITE: dict[type[Any], WriteFunction] = {
    ProcessResult: _write_result,
    Failure: write_failure,
    RunInfo: _write_run,
    Placement: _write_placement,
    RetryPolicy: _write_retry,
}

READ: dict[str, ReadFunction] = {
    "result": read_outcome,
    "failure": _read_failure,
    "run": _read_run,
    "placement": _read_placement,
    "retry": _read_retry,
}
