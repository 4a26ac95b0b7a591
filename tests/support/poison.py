"""Processes that raise, return and say what is hard to write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from stbass.process import Process, ProcessContext
from stbass.result import ProcessResult

HALF = "\ud83d"
"""Half of an emoji, as a model's answer has it that was cut off."""


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ReprRaises(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class StrIsNone(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307


class ArgsRaise(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no arguments")


class NothingIsThere(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class StrEnds(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class Bottom(BaseException):
    """One that is no Exception."""


class Text(str):
    """A str that is none of ours."""

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError("not encodable")


@dataclass
class Unseen:
    """Its repr raises."""

    number: int = 1

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@dataclass
class Locked:
    """Its fields cannot be read."""

    number: int = 1

    def __getattribute__(self, name: str) -> Any:
        raise GeneratorExit(name)


def _noted() -> BaseException:
    error = ValueError("plain")
    error.add_note(f"note {HALF}")
    return error


def _wrong_notes() -> BaseException:
    error = ValueError("plain")
    error.__notes__ = 5  # type: ignore[assignment]
    return error


def _caused(cause: BaseException) -> BaseException:
    error = ValueError("outer")
    error.__cause__ = cause
    return error


def _amid(context: BaseException) -> BaseException:
    error = ValueError("outer")
    error.__context__ = context
    return error


def _with(**attributes: Any) -> BaseException:
    error = ValueError("attributes")
    error.__dict__.update(attributes)
    return error


def _circle() -> BaseException:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def _deep() -> BaseException:
    error: BaseException = ValueError(0)
    for depth in range(3000):
        error = _caused(error)
        error.args = (depth,)
    return error


ENDS = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit}
"""What would end the program, were it not somebody's object that raises it when it is asked for something."""
_METHODS = ("__str__", "__repr__", "__reduce_ex__", "__getattr__", "__getattribute__", "__hash__")
_PROPERTIES = ("__class__", "__dict__", "__cause__", "__notes__", "args", "retry_after")


def _class_that_ends(where: str, end: type[BaseException], base: type[Any]) -> Any:
    """A class of which this method or property raises."""

    def boom(self: Any, *_: Any) -> Any:
        raise end(where)

    return type("Ends", (base,), {where: property(boom) if where in _PROPERTIES else boom})


ERRORS: dict[str, Callable[[], BaseException]] = {
    **{
        f"{end} by {where}": partial(_class_that_ends(where, ENDS[end], Exception), 1)
        for end in ENDS
        for where in _METHODS + _PROPERTIES
    },
    "half an emoji": lambda: ValueError(f"the model said: {HALF}"),
    "half a key": lambda: KeyError(HALF),
    "a file name that is not UTF-8": lambda: FileNotFoundError(2, "No such file", "/nowhere/\udcff.txt"),
    "a note": _noted,
    "notes that are none": _wrong_notes,
    "a cause": lambda: _caused(ValueError(HALF)),
    "a cause without a text": lambda: _caused(StrRaises()),
    "a context": lambda: _amid(NothingIsThere(HALF)),
    "a group": lambda: ExceptionGroup(HALF, [ValueError(HALF), NothingIsThere()]),
    "a base group": lambda: BaseExceptionGroup("several", [Bottom(HALF), SystemExit(2)]),
    "an attribute": lambda: _with(text=HALF, unseen=Unseen(), locked=Locked(), **{HALF: 1}),
    "an argument": lambda: ValueError(Unseen(), Locked(), Text(HALF), object()),
    "str raises": StrRaises,
    "str ends the program": StrEnds,
    "str is none": StrIsNone,
    "repr raises": ReprRaises,
    "args raise": lambda: ArgsRaise(1),
    "no attribute can be read": lambda: NothingIsThere(1),
    "a base exception": lambda: Bottom("bottom"),
    "GeneratorExit": lambda: GeneratorExit("closed"),
    "SystemExit": lambda: SystemExit(HALF),
    "KeyboardInterrupt": KeyboardInterrupt,
    "StopIteration": lambda: StopIteration(HALF),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "MemoryError": MemoryError,
    "a circle": _circle,
    "a long chain": _deep,
    "20 MiB": lambda: ValueError("x" * (20 * 2**20)),
    "Celery's Retry": lambda: Retry("again"),
    "Celery's Reject": lambda: Reject("no", requeue=True),
    "Celery's Ignore": Ignore,
    "Celery's time limit": lambda: SoftTimeLimitExceeded(3),
}

VALUES: dict[str, Callable[[], Any]] = {
    **{
        f"{end} by {where}": _class_that_ends(where, ENDS[end], object)
        for end in ENDS
        for where in ("__class__", "__dict__", "__repr__", "__getattribute__", "__reduce_ex__", "__hash__")
    },
    "a text": lambda: HALF,
    "a key": lambda: {HALF: HALF},
    "no repr": Unseen,
    "cannot be read": Locked,
    "a subclass of str": lambda: Text(HALF),
    "an object": lambda: [object(), HALF],
    "a coroutine's type": lambda: Process,
    "20 MiB": lambda: "x" * (20 * 2**20),
    "a failure of its own": lambda: ProcessResult.fail(NothingIsThere(), process_name=5),
    "a failure that is none": lambda: ProcessResult.fail(ValueError(HALF), checkpoint=Locked()),
}


class Raise(Process):
    """Raises one of :data:`ERRORS`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def run(self, ctx: ProcessContext) -> Any:
        raise ERRORS[self.kind]()


class Return(Process):
    """Returns one of :data:`VALUES`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def run(self, ctx: ProcessContext) -> Any:
        return VALUES[self.kind]()


class Tell(Process):
    """Gives one of :data:`VALUES` as checkpoint, and says what cannot be said."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def run(self, ctx: ProcessContext) -> Any:
        ctx.progress(float("nan"), float("inf"), HALF)
        ctx.progress(1, 2, Text(HALF))
        ctx.checkpoint(VALUES[self.kind]())
        raise ValueError("after its checkpoint")


@Process
def stop_in_thread(ctx: ProcessContext) -> None:
    """A sync process that raises what a future cannot hold."""
    next(iter(()))


@Process
def half_in_thread(ctx: ProcessContext) -> None:
    """A sync process that raises the plain case."""
    raise ValueError(HALF)


@Process
def exit_in_thread(ctx: ProcessContext) -> None:
    """A sync process that wants to end its program."""
    raise GeneratorExit


@Process
async def cancel_all(ctx: ProcessContext) -> None:
    """Cancels what is not its own: all tasks of its event loop."""
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(60)


class CancelAll(Process):
    """Does that when it is told to: when there is a file."""

    def __init__(self, when: str, started: str) -> None:
        self.when = when
        self.started = started

    async def run(self, ctx: ProcessContext) -> None:
        """Wait, then cancel."""
        Path(self.started).touch()
        while not Path(self.when).exists():  # noqa: ASYNC110 - what is looked at cannot wake us
            await asyncio.sleep(0.01)
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(60)


@Process
async def stop_loop(ctx: ProcessContext) -> None:
    """Stops an event loop that is not its own."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)


IN_THREADS = [stop_in_thread, half_in_thread, exit_in_thread]
