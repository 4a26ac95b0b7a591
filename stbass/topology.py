"""Common shapes of communication: arrays of channels, one to many, many to one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Self, get_args

from stbass._engine.composition import Composition
from stbass._process.context import ProcessContext, hold_end, top_context
from stbass._values.checks import checked_count
from stbass._values.ids import new_id
from stbass._values.outcome import ProcessResult
from stbass._values.texts import value_text
from stbass.alt import ALT, Guard
from stbass.channel import Chan
from stbass.errors import ChannelClosedError

__all__ = ["ChanArray", "Collector", "Distributor"]

Strategy = Literal["round_robin", "broadcast", "ready_first"]


class ChanArray:
    """Channels of one type, by index.

    Args:
        type_spec: what each of them carries; as for :class:`stbass.Chan`.
        count: how many; at least 0.
        name_prefix: they are named ``prefix[i]``; a prefix is made up by default.

    Raises:
        TypeError: the count is not a whole number, or values cannot be checked against ``type_spec``.
        ValueError: the count is negative.
    """

    def __init__(self, type_spec: Any, count: int, *, name_prefix: str | None = None) -> None:
        prefix = f"array_{new_id()[:8]}" if name_prefix is None else name_prefix
        self._type_spec = type_spec
        count = checked_count(count, "the count of a ChanArray", 0)
        self._channels: list[Chan[Any]] = [Chan(type_spec, name=f"{prefix}[{index}]") for index in range(count)]

    @property
    def channels(self) -> list[Chan[Any]]:
        """The channels, in order."""
        return list(self._channels)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._channels)

    @property
    def type_spec(self) -> Any:
        """What each of them carries."""
        return self._type_spec

    def __getitem__(self, index: int) -> Chan[Any]:
        return self._channels[index]

    def __iter__(self) -> Iterator[Chan[Any]]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def __repr__(self) -> str:
        return f"<ChanArray {[channel.name for channel in self._channels]}>"


class _Shape(Composition[int]):
    """A process whose channels are bound to it, and so go where it goes."""

    holds_channels = True

    async def run(self) -> ProcessResult[int]:
        """Run it by itself, until the channels that it reads are closed; what goes wrong is a failure in the result."""
        return await self.execute(top_context(self.name))

    def run_sync(self) -> ProcessResult[int]:
        """:meth:`run` for callers without an event loop.

        Raises:
            RuntimeError: there is one in this thread.
        """
        return self._run_to_end(self.run())

    def _ends(self, ctx: ProcessContext, name: str, side: Literal["reader", "writer"]) -> list[Chan[Any]]:
        """The channels ``name[0]``, ``name[1]``, …, or ``name``, held by this process until it ends."""
        names = [name] if name in ctx.channels else []
        while (numbered := f"{name}[{len(names)}]") in ctx.channels:
            names.append(numbered)
        for one in names:
            hold_end(ctx, one, side)
        return [ctx.channels[one] for one in names]


class Distributor(_Shape, kind="Distributor"):
    """Hands what comes from one channel on to several. Its value is the number of values it moved.

    It ends when the source is closed, and closes the targets then. A target that its reader has closed is left out;
    when all are, the source is closed too, so that nobody waits for what cannot be delivered.

    Args:
        source: where values come from.
        targets: where they go.
        strategy: ``round_robin``: to one after the other in turn; ``broadcast``: each value to all of them;
            ``ready_first``: each value to exactly one that is ready to receive it, at random if several are.

    Raises:
        TypeError: something is not a channel.
        ValueError: the strategy is unknown, or there are no targets.
    """

    def __init__(
        self, source: Chan[Any], targets: ChanArray | Sequence[Chan[Any]], *, strategy: Strategy = "round_robin"
    ) -> None:
        if strategy not in get_args(Strategy):
            raise ValueError(f"unknown strategy {value_text(strategy)}; use one of {', '.join(get_args(Strategy))}")
        self._strategy = strategy
        self._channels = {
            "source": _checked(source, "the source of a Distributor"),
            **_numbered("targets", targets, "Distributor"),
        }

    async def _perform(self, ctx: ProcessContext) -> int:
        (source,) = self._ends(ctx, "source", "reader")
        targets = self._ends(ctx, "targets", "writer")
        hand_on = {"round_robin": _in_turn, "broadcast": _to_all, "ready_first": _to_one_ready}[self._strategy]
        count = 0
        try:
            remaining = list(targets)
            async for value in source:
                remaining = await hand_on(value, remaining)
                if not remaining:
                    await source.aclose()
                    break
                count += 1
        except asyncio.CancelledError:
            raise  # whoever cancels one end of a channel decides what becomes of the other
        except BaseException as error:
            await _close(targets, error)
            raise
        await _close(targets)
        return count

    def parts(self) -> dict[str, Any]:
        return {"strategy": self._strategy}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        made = object.__new__(cls)
        made._strategy = parts["strategy"]
        return made


class Collector(_Shape, kind="Collector"):
    """Hands what comes from several channels on to one. Its value is the number of values it moved.

    It ends when all sources are closed, and closes the sink then. When the reader of the sink has closed it, the
    sources are closed too, so that nobody waits for what cannot be delivered.

    Args:
        sources: where values come from.
        sink: where they go.
        ordered: take all of the first source, until it is closed, then all of the second, and so on; else whatever
            comes, fairly.

    Raises:
        TypeError: something is not a channel.
        ValueError: there are no sources.
    """

    def __init__(self, sources: ChanArray | Sequence[Chan[Any]], sink: Chan[Any], *, ordered: bool = False) -> None:
        self._ordered = bool(ordered)
        self._channels = {
            **_numbered("sources", sources, "Collector"),
            "sink": _checked(sink, "the sink of a Collector"),
        }

    async def _perform(self, ctx: ProcessContext) -> int:
        sources = self._ends(ctx, "sources", "reader")
        (sink,) = self._ends(ctx, "sink", "writer")
        take = _ordered(sources) if self._ordered else _as_they_come(sources)
        count = 0
        try:
            async with aclosing(take):
                async for value in take:
                    try:
                        await sink.send(value)
                    except ChannelClosedError as error:
                        await _close(sources)
                        if error.failed:
                            raise
                        break
                    count += 1
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await _close([sink], error)
            raise
        await sink.aclose()
        return count

    def parts(self) -> dict[str, Any]:
        return {"ordered": self._ordered}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        made = object.__new__(cls)
        made._ordered = parts["ordered"]
        return made


# Each hands one value to some targets, and returns the targets that are left, the next one first.


async def _in_turn(value: Any, targets: list[Chan[Any]]) -> list[Chan[Any]]:
    while targets:
        first, *rest = targets
        try:
            await first.send(value)
        except ChannelClosedError:
            targets = rest
        else:
            return [*rest, first]
    return targets


async def _to_all(value: Any, targets: list[Chan[Any]]) -> list[Chan[Any]]:
    async def deliver(target: Chan[Any]) -> None:
        try:
            await target.send(value)
        except ChannelClosedError:
            closed.add(id(target))

    closed: set[int] = set()
    # At once, so that no order of receiving is imposed on the readers.
    async with asyncio.TaskGroup() as group:
        for target in targets:
            group.create_task(deliver(target))
    return [target for target in targets if id(target) not in closed]


async def _to_one_ready(value: Any, targets: list[Chan[Any]]) -> list[Chan[Any]]:
    while targets:
        choice = ALT(*(Guard(target, send=value) for target in targets))
        try:
            await choice
        except ChannelClosedError:
            targets = _without(choice, targets)
        else:
            return targets
    return targets


async def _ordered(sources: list[Chan[Any]]) -> AsyncGenerator[Any, None]:
    for source in sources:
        async for value in source:
            yield value


async def _as_they_come(sources: list[Chan[Any]]) -> AsyncGenerator[Any, None]:
    while sources:
        choice = ALT(*map(Guard, sources))
        try:
            while True:
                yield await choice
        except ChannelClosedError as error:
            if error.failed:
                raise
            sources = _without(choice, sources)


def _without(choice: ALT, channels: list[Chan[Any]]) -> list[Chan[Any]]:
    """All but the one that the choice has found closed."""
    closed = None if choice.chosen is None else choice.chosen.channel
    return [channel for channel in channels if channel is not closed]


async def _close(channels: list[Chan[Any]], error: BaseException | None = None) -> None:
    """Close them; if values may be missing, because a process that had the other end of a source has failed, so too."""
    for channel in channels:
        if isinstance(error, ChannelClosedError) and error.failed:
            channel.forsake(str(error), failed=True)
        await channel.aclose()


def _checked(value: object, what: str) -> Chan[Any]:
    if not isinstance(value, Chan):
        raise TypeError(f"{what} must be a Chan, got {value_text(value)}")
    return value


def _numbered(name: str, channels: ChanArray | Sequence[Chan[Any]], what: str) -> dict[str, Chan[Any]]:
    if isinstance(channels, Chan):
        raise TypeError(f"the {name} of a {what} are a ChanArray or a list of Chans, got one Chan; write [channel]")
    found = {f"{name}[{i}]": _checked(channel, f"{name}[{i}] of a {what}") for i, channel in enumerate(channels)}
    if not found:
        raise ValueError(f"a {what} needs at least one channel among its {name}")
    return found
