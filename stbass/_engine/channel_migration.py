"""Channels of processes that run elsewhere move to where both ends can reach them, before anything starts.

A channel in memory that is bound to a process placed on a remote backend is moved to that backend's transport, so that
a program does not change when it moves to a fleet. The outermost composition does it for all that is inside it: a
process beside may use the channel as soon as it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stbass._engine.composition import ProcessComposition
from stbass._process.context import Composable
from stbass.channel import Chan
from stbass.errors import ChannelTopologyError, NotTransportable

if TYPE_CHECKING:
    from stbass._engine.backend import ExecutionBackend
    from stbass._engine.registry import BackendRegistry

__all__ = ["Placed", "channels_by_path", "channels_in", "migrate", "migrate_all", "promoted", "remote_processes"]

Placed = tuple["ExecutionBackend", Composable, Mapping[str, Chan[Any]]]
"""A process that a remote backend runs, with the channels that it has from the compositions around it."""


def remote_processes(
    process: Composable,
    backend: ExecutionBackend | None,
    registry: BackendRegistry,
    channels: Mapping[str, Chan[Any]],
) -> Iterator[Placed]:
    """The processes in ``process`` that a backend with a transport runs, as far as they are known before it starts."""
    if backend is not None and backend.transport() is not None:
        yield backend, process, channels
        return
    if not isinstance(process, ProcessComposition):
        return
    if process.bound_channels:
        channels = {**channels, **process.bound_channels}
    registry = registry if process.registry is None else process.registry
    for member, explicit in process.members:
        placement = member.placement if explicit is None else explicit
        yield from remote_processes(member, None if placement is None else registry.get(placement), registry, channels)


def channels_in(process: Composable) -> dict[int, Chan[Any]]:
    """Every channel that is bound to a process or to anything in it."""
    found = {id(channel): channel for channel in process.bound_channels.values()}
    if isinstance(process, ProcessComposition):
        try:
            inside = process.parts()
        except NotTransportable:
            inside = {}  # whoever sends it away says so, and why
        for one in _composables(inside):
            found |= channels_in(one)
    return found


def channels_by_path(process: Composable, around: str = "") -> dict[str, Chan[Any]]:
    """The channels that are bound to a process, and to those in it, by the names from the top and the channel's."""
    path = f"{around}{process.name}/"
    found = {f"{path}{name}": channel for name, channel in process.bound_channels.items()}
    if isinstance(process, ProcessComposition):
        for member, _ in process.members:
            for name, channel in channels_by_path(member, path).items():
                if found.setdefault(name, channel) is not channel:
                    # Processes of one name side by side.
                    number = 2
                    while found.setdefault(f"{name}#{number}", channel) is not channel:
                        number += 1
    return found


def _composables(value: Any) -> Iterator[Composable]:
    if isinstance(value, Composable):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _composables(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _composables(item)


async def migrate(backend: ExecutionBackend, process: Composable, channels: Mapping[str, Chan[Any]]) -> None:
    """Move the channels of a process that a backend runs to the backend's transport, and make them known there.

    Raises:
        ChannelTopologyError: a channel is in use already, or runs where the backend's workers do not reach it.
        BackendUnavailableError: the transport's server cannot be reached.
    """
    for channel in promoted(backend, process, channels):
        # From here on whoever opens it knows a channel that is closed from one that does not exist yet.
        await channel.bound()


def promoted(
    backend: ExecutionBackend, process: Composable, channels: Mapping[str, Chan[Any]] = MappingProxyType({})
) -> Collection[Chan[Any]]:
    """The channels of a process, moved to the transport of a backend that has one, where nobody knows them yet.

    Raises:
        ChannelTopologyError: a channel is in use already, or runs where the backend's workers do not reach it.
    """
    transport = backend.transport()
    if transport is None:
        return ()
    found = channels_in(process) | {id(channel): channel for channel in channels.values()}
    for channel in found.values():
        if channel.link.local:
            channel.promote(transport)
        elif not transport.reaches(channel.transport):
            raise ChannelTopologyError(
                f"channel {channel.name!r} of process {process.name!r} runs on {channel.transport!r}, and backend"
                f" {backend.name!r} reaches {transport!r}; make the channel there, or in memory",
                channel_name=channel.name,
            )
    return found.values()


async def migrate_all(placed: Iterable[Placed]) -> None:
    """:func:`migrate` for each."""
    for backend, process, channels in placed:
        await migrate(backend, process, channels)
