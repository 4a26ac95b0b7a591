"""What can stand where a process can: how it is named, copied and run, and how what it raises becomes a failure."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Self

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass._values.outcome import Failure, ProcessResult, outcome_of_run
from stbass.channel import Chan
from stbass.observe import events

__all__ = ["Composable", "checked_name", "failure_of"]

_NO_CHANNELS: Mapping[str, Chan[Any]] = {}


class Composable(ABC):
    """Whatever can stand where a process can: a :class:`Process` or a composition of them."""

    # Class attributes, so that a subclass need not call super().__init__().
    _name: str | None = None
    _is_optional: bool = False
    _channels: Mapping[str, Chan[Any]] = _NO_CHANNELS
    _placement: Placement | None = None
    # Whether it only waits for processes of its own, whose deadline it then keeps itself.
    _runs_others: bool = False
    # Whether it is no process of the user's, but a means of running others: observers hear of those, and not of it.
    _unseen: bool = False

    @property
    def name(self) -> str:
        """Its name: given, or derived from the function or class."""
        return self._name or type(self).__name__

    @property
    def process_id(self) -> str:
        """A fresh UUID at every access."""
        return new_id()

    @property
    def is_optional(self) -> bool:
        """Whether its failure leaves the composition around it in order."""
        return self._is_optional

    @property
    def placement(self) -> Placement | None:
        """Where it runs unless told otherwise."""
        return self._placement

    @property
    def bound_channels(self) -> Mapping[str, Chan[Any]]:
        """The channels bound with :meth:`with_channels`, by name."""
        return self._channels

    def optional(self) -> Self:
        """A copy whose failure does not halt the composition around it."""
        made = self._copy()
        made._is_optional = True
        return made

    def with_channels(self, **channels: Chan[Any]) -> Self:
        """A copy with these named channels bound, beside those bound before.

        Raises:
            TypeError: something is not a channel.
        """
        for name, channel in channels.items():
            if not (hasattr(channel, "send") and hasattr(channel, "recv")):
                raise TypeError(f"with_channels({name}=…) takes a Chan, got {channel!r}")
        made = self._copy()
        made._channels = {**self._channels, **channels}
        return made

    def with_name(self, name: str) -> Self:
        """A copy with another name.

        Raises:
            TypeError: the name is not a string.
            ValueError: the name is empty.
        """
        made = self._copy()
        made._name = checked_name(name)
        return made

    def _copy(self) -> Self:
        # Not copy.copy(): that goes through __reduce__, which for a function means "by reference".
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    async def execute(self, ctx: ProcessContext) -> ProcessResult:
        """Run, and give back what happened. Never override this.

        An ``Exception`` becomes a failure in the result; a value that is not a :class:`ProcessResult` a success
        with that value. ``CancelledError``, ``KeyboardInterrupt`` and ``SystemExit`` pass through.
        """
        if self._channels:
            ctx._bind(self._channels)
        failure: Failure | None = None
        value: Any = None
        started = ctx._started = monotonic()
        if events.subscribers:
            events.emit(ctx._event("started"))
        try:
            value = await self._perform(ctx)
        except Exception as error:
            failure = _failure(error, ctx, traceback.format_exc())
        else:
            if isinstance(value, ProcessResult):
                failure = value._failure
                if failure is not None and failure.process_name == "unknown":
                    failure = _completed(failure, ctx)
                value = value._value
            if ctx._sent and failure is None:
                value = ctx._sent[-1]
        finally:
            if ctx._unbind is not None:
                ctx._release()
        result = outcome_of_run(failure is None, value, failure, started, monotonic() - started, ctx)
        if events.subscribers:
            events.emit(ctx._event("ended", result=result))
        return result

    def _inside(self) -> Iterable[tuple[Composable, Placement | None]]:
        """The processes that it runs, as far as they are known before it does, and where each was explicitly placed."""
        return ()

    @abstractmethod
    def _perform(self, ctx: ProcessContext) -> Awaitable[Any]:
        """The work itself, to be awaited; may raise."""


def _failure(error: BaseException, ctx: ProcessContext, traceback_str: str = "") -> Failure:
    return Failure(
        error,
        process_name=ctx.process_name,
        process_id=ctx.process_id,
        started_at=ctx._started_at,
        placement=ctx.placement,
        parent_process=ctx.parent,
        channel_state={name: channel.stats.as_dict() for name, channel in ctx.channels.items()},
        checkpoint=ctx.last_checkpoint,
        traceback_str=traceback_str,
    )


def failure_of(error: BaseException, ctx: ProcessContext, traceback_str: str = "") -> ProcessResult:
    """A failed result with everything that the context knows."""
    failure = _failure(error, ctx, traceback_str)
    started = failure.started_at
    return ProcessResult(False, None, failure, failure.elapsed, ctx._run_info(started, failure.failed_at))


def _completed(failure: Failure, ctx: ProcessContext) -> Failure:
    """A failure that the process itself returned, with what only the context knows filled in."""
    known = _failure(failure.error, ctx, failure.traceback_str)
    return replace(
        known,
        failed_at=failure.failed_at,
        started_at=failure.started_at or known.started_at,
        placement=failure.placement or known.placement,
        parent_process=failure.parent_process or known.parent_process,
        channel_state=failure.channel_state or known.channel_state,
        checkpoint=known.checkpoint if failure.checkpoint is None else failure.checkpoint,
    )


def checked_name(name: object) -> str:
    """``name``, if it can be a name.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"a process's name is a str, got {name!r}")
    if not name:
        raise ValueError("a process's name cannot be empty")
    return name
