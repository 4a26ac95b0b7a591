"""Runs: a process that is started here and followed from anywhere.

The result of a process that is waited for is that of :func:`run`. One that should go on when whoever started it is gone
is started with :func:`start`, under an id by which anybody finds it (:func:`find`): its result, its events from the
beginning, its channels.
"""

from __future__ import annotations

import asyncio
import json
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

from stbass import wire
from stbass._engine.children import registry_of
from stbass._engine.composition import Composition, ProcessComposition, checked_composable, kind_of
from stbass._engine.local_runs import find_here, start_here
from stbass._engine.registry import BackendRegistry, checked_registry
from stbass._engine.runs import Progress, Run, RunEvent, RunOrder, RunStatus
from stbass._process.context import Composable, top_context
from stbass._values.arguments import made_with
from stbass._values.checks import checked_deadline
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy
from stbass._values.texts import text_of
from stbass.channel import Chan
from stbass.errors import BackendUnavailableError, NotTransportable, RunConflictError
from stbass.placement import PLACED_PAR
from stbass.process import FunctionProcess, Process, reference_of
from stbass.wire.values import is_text

__all__ = [
    "Progress",
    "Run",
    "RunConflictError",
    "RunEvent",
    "RunStatus",
    "find",
    "run",
    "run_sync",
    "start",
]

T = TypeVar("T")

_LONGEST_ID = 200


# One process, at the top -------------------------------------------------------------------------


async def run(
    process: Composable[T],
    *,
    placement: Placement | None = None,
    registry: BackendRegistry | None = None,
    deadline: float | None = None,
) -> ProcessResult[T]:
    """Run a process, or a composition, to its end. Cancelling this cancels it.

    Args:
        process: what to run.
        placement: where; by default as the process itself says, else here.
        registry: where placements are looked up; :func:`stbass.placement.default_registry` by default, or what the
            process uses in whose code this is called.
        deadline: seconds after which it is cancelled and fails with ``DeadlineExceeded``.

    Raises:
        NotTransportable: it cannot go to where it was placed; nothing was started.
        TypeError: an argument is of the wrong type, or the process needs one.
        ValueError: the deadline is out of range.
    """
    result = await _alone(process, placement, registry, deadline).run()
    return result.results[0]


def run_sync(
    process: Composable[T],
    *,
    placement: Placement | None = None,
    registry: BackendRegistry | None = None,
    deadline: float | None = None,
) -> ProcessResult[T]:
    """:func:`run` for callers without an event loop.

    Raises:
        RuntimeError: there is one in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run(process, placement=placement, registry=registry, deadline=deadline))
    raise RuntimeError(
        "stbass.run_sync() was called in a running event loop, which it would block: use `await stbass.run(...)`"
    )


def _alone(
    process: Composable[T], placement: Placement | None, registry: BackendRegistry | None, deadline: float | None
) -> PLACED_PAR[T]:
    checked_composable(process, "the process to run")
    where = _checked_placement(placement)
    pair = process if where is None else (process, where)
    made: Any = PLACED_PAR(pair, on_failure=FailurePolicy.COLLECT, deadline=deadline, registry=registry)
    return made  # type: ignore[no-any-return]


def _checked_placement(placement: object) -> Placement | None:
    if placement is None or isinstance(placement, Placement):
        return placement
    hint = f'; write Placement(endpoint="{placement}")' if isinstance(placement, str) else ""
    raise TypeError(f"placement must be a Placement or None, got {text_of(placement, 60)}{hint}")


# A run -------------------------------------------------------------------------------------------


async def start(
    process: Composable[T],
    *,
    placement: Placement | None = None,
    registry: BackendRegistry | None = None,
    deadline: float | None = None,
    id: str | None = None,  # noqa: A002 - as everywhere else
) -> Run[T]:
    """Start a process, or a composition, and do not wait for it: the run belongs to nobody.

    On a fleet the whole of it goes out as one message, and goes on when this program is gone. On other backends it runs
    in this Python process, on this event loop.

    Args:
        process: what to run.
        placement: where; by default as the process itself says, else on the backend that is registered under ``*``,
            else on the default one, which is here.
        registry: where placements are looked up; as for :func:`run`.
        deadline: seconds after which it is cancelled and fails with ``DeadlineExceeded``.
        id: what the run is found by, up to 200 characters; a UUID by default. If a run of that id is there already, or
            its result is still kept, this gives back that one, if its work is the same: the same processes with the
            same arguments, wherever they are placed and whatever their deadlines and channels are. So a request that
            comes twice, even at the same moment on two machines, starts its work once.

    Returns:
        The run; its ``is_new`` says whether this has started it.

    Raises:
        RunConflictError: other work has that id.
        NotTransportable: it cannot go to where it was placed; nothing was started.
        BackendUnavailableError: the fleet cannot be reached.
        TypeError: an argument is of the wrong type, or the process needs one.
        ValueError: the deadline or the id is out of range.
    """
    checked_composable(process, "the process to start")
    where = process.placement if _checked_placement(placement) is None else placement
    for lack in process.lacking():
        raise lack.error()
    seconds = checked_deadline(deadline)
    run_id = new_id() if id is None else _checked_id(id)
    known = _registry(registry)
    backend = known.anywhere if where is None else known.get(where)
    work = _digest(process, here=not backend.has_runs)
    order = RunOrder(run_id, work, where, seconds)
    if backend.has_runs:
        return await backend.start_run(process, order)
    return await start_here(process, order, backend, known)


async def find(id: str, *, registry: BackendRegistry | None = None) -> Run[Any]:  # noqa: A002
    """The run of that id, whoever has started it: on a fleet in any program, on any machine.

    Args:
        id: of the run.
        registry: the backends on which it is looked for; as for :func:`run`.

    Raises:
        LookupError: there is none, or its result has expired.
        BackendUnavailableError: it is not on those that can be reached, and one cannot.
    """
    run_id = _checked_id(id)
    known = _registry(registry)
    local = find_here(run_id)
    if local is not None:
        return local
    asked = [backend for backend in known.backends if backend.has_runs]
    unreached: list[BackendUnavailableError] = []
    for backend in asked:
        try:
            return await backend.find_run(run_id)
        except LookupError:
            continue
        except BackendUnavailableError as error:
            unreached.append(error)
    if unreached:
        raise unreached[0]
    where = ", ".join(backend.name for backend in asked)
    raise LookupError(
        f"no run {run_id!r} is known in this Python process{where and f', nor to {where}'}:"
        " the id is wrong, or its result has expired, or the backend that it was started on is not registered here"
    )


def _registry(given: BackendRegistry | None) -> BackendRegistry:
    known = checked_registry(given)
    return registry_of(top_context("run")) if known is None else known


def _checked_id(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the id of a run is a str, got {text_of(value, 60)}")
    if not 1 <= len(value) <= _LONGEST_ID:
        raise ValueError(f"the id of a run has 1 to {_LONGEST_ID} characters, got {len(value)}: {text_of(value, 60)}")
    if not is_text(value):
        raise ValueError(f"the id of a run is text that UTF-8 has, got {text_of(value, 60)}")
    return value


# The same work -----------------------------------------------------------------------------------

_NOT_WORK = ("deadline", "placements")
"""Parts of compositions that do not make it other work."""
_DEEPEST = 100


def _digest(process: Composable, *, here: bool) -> str:
    """A text that is the same for the same processes with the same arguments, in every Python process.

    Args:
        here: the same in this Python process is enough: then what cannot travel is only the same as itself.

    Raises:
        NotTransportable: something cannot travel.
    """
    return blake2b(_text(_work_of(process, here)).encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _work_of(value: Any, here: bool, depth: int = 0) -> Any:
    if isinstance(value, Chan):
        return None
    try:
        if isinstance(value, Composable):
            return _work_of_process(value, here, depth + 1)
        return ["value", _ordered(json.loads(wire.dumps(value, what="argument")))]
    except NotTransportable:
        # It may hold processes, which may not be in a value, or what is only the same as itself.
        if type(value) in (list, tuple, dict) and depth < _DEEPEST:
            items = [[key, one] for key, one in value.items()] if type(value) is dict else value
            return [type(value).__name__, *(_work_of(one, here, depth + 1) for one in items)]
        if not here:
            raise
        return ["itself", id(value)]


def _work_of_process(process: Composable, here: bool, depth: int) -> Any:
    if isinstance(process, Composition):
        kind, parts = kind_of(process), process.parts()
        left_out = _NOT_WORK if isinstance(process, ProcessComposition) else ()
        return [kind, {name: _work_of(part, here, depth) for name, part in parts.items() if name not in left_out}]
    if not isinstance(process, Process):
        form = json.loads(wire.dumps(process, what="process"))
        return _ordered({key: form.get(key) for key in ("~", "r", "a", "k")})
    args, kwargs = made_with(process) or ((), {})
    names = list(islice(process.positions, len(args)))
    if len(set(names)) == len(args):
        # An argument is the same by its position and by its name.
        args, kwargs = (), {**dict(zip(names, args, strict=True)), **kwargs}
    target: Any = process if isinstance(process, FunctionProcess) else type(process)
    defined = process.function if isinstance(process, FunctionProcess) else target
    given = [_work_of(list(args), here, depth), {name: _work_of(one, here, depth) for name, one in kwargs.items()}]
    # Here, functions of one name may be many.
    return [reference_of(target), id(defined) if here else None, *given]


def _ordered(data: Any) -> Any:
    """Plain data of the wire, in which the order of what has none is the same everywhere."""
    if isinstance(data, list):
        return [_ordered(one) for one in data]
    if not isinstance(data, dict):
        return data
    found = {key: _ordered(one) for key, one in data.items()}
    tag, items = found.get("~"), found.get("v")
    if tag in ("set", "frozenset") and isinstance(items, list):
        found["v"] = sorted(items, key=_text)
    elif tag == "dict" and isinstance(items, list):
        found["v"] = sorted(([key, one] for key, one in zip(items[::2], items[1::2], strict=True)), key=_text)
    return found
