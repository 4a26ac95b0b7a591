"""The members of a running composition: each with its context, and the backend that its placement stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from stbass._engine.backend import ExecutionBackend
from stbass._engine.channel_migration import Placed, migrate_all, remote_processes
from stbass._engine.composition import PlacedProcess
from stbass._engine.holders import Holder, Stages
from stbass._engine.registry import BackendRegistry, default_registry
from stbass._engine.stage_context import StageContext
from stbass._engine.supervise import Child, too_late, until
from stbass._process.context import (
    Composable,
    ProcessContext,
    frame_of,
    given_to,
    held_by,
    inherit,
    let_belong,
    own_channels,
    peek_frame,
)
from stbass._values.endpoint import place_of
from stbass._values.ids import new_id
from stbass._values.texts import shortened
from stbass.channel import Chan

__all__ = ["hold_in_turn", "hold_together", "make_children", "migrate_channels", "open_groups", "registry_of"]

T = TypeVar("T")


def registry_of(owner: ProcessContext) -> BackendRegistry:
    """The registry that a composition uses: its own, else that of the composition around it, else the default."""
    found = peek_frame(owner).registry
    return default_registry() if found is None else found


def make_children(owner: ProcessContext, members: Iterable[PlacedProcess]) -> list[Child]:
    """Give each member a context inside ``owner``, and find its backend.

    A member's placement is the explicit one, else the process's own. Channels bound to the composition are its
    members' too; in a sequence each member finds the stage's input, and has an output of its own.
    """
    parent = owner.process_name
    inherited = peek_frame(owner).inherited(parent)
    inherited.depth = peek_frame(owner).depth + 1
    given = given_to(owner)
    channels = own_channels(owner)
    registry = registry_of(owner)
    children = []
    for process, explicit in members:
        ctx: ProcessContext
        if given is not None:
            ctx = StageContext(process.name, given, channels, parent)
        else:
            ctx = ProcessContext(process.name, None, channels, parent)
        inherit(ctx, inherited)
        placement = process.placement if explicit is None else explicit
        if placement is None:
            children.append(Child(process, ctx))
        else:
            ctx.placement = placement
            children.append(Child(process, ctx, registry.get(placement)))
    return children


def hold_together(
    owner: ProcessContext, composition: Composable, children: Sequence[Child], *, limit: int | None, again: bool
) -> Holder | None:
    """The processes of a composition are about to run at once: those that have channels are counted.

    Args:
        owner: the context of the composition.
        limit: how many run at the same time.
        again: whether one that fails may be tried again.

    Returns:
        What has to be ended with the composition, if nobody else does that.
    """
    around = _channels_around(owner)
    if not around and held_by(owner) is None and not any(child.process.holds_channels for child in children):
        return None
    node, is_outermost = _node(owner, composition)
    node.start(in_turn=limit == 1)
    for child in children:
        if around or child.process.holds_channels:
            child.holder = node.add(child.process, child.ctx, around, again=again)
    node.count_given()
    node.hand_on(node.held, is_known=True)
    return node if is_outermost else None


def hold_in_turn(
    owner: ProcessContext, composition: Composable, children: Sequence[Child]
) -> tuple[Stages | None, Holder | None]:
    """As :func:`hold_together` for processes that run one after the other; begin each with the first that it gives."""
    around = _channels_around(owner)
    if not around and held_by(owner) is None and not composition.holds_channels:
        return None, None
    node, is_outermost = _node(owner, composition)
    return Stages(node, [child.process for child in children], around), node if is_outermost else None


def _channels_around(owner: ProcessContext) -> list[Chan[Any]]:
    around: Iterable[Any] = own_channels(owner).values()
    return [channel for channel in around if isinstance(channel, Chan)]


def _node(owner: ProcessContext, composition: Composable) -> tuple[Holder, bool]:
    """The holder of a composition, and whether it was made here: for the outermost, or one in a process's own code."""
    around: Holder | None = held_by(owner)
    if around is None or not around.is_here:
        return Holder(composition, owner), True
    if around.is_composition:
        return around, False
    return Holder(composition, owner, around), True


async def migrate_channels(owner: ProcessContext, children: Iterable[Child]) -> None:
    """Move the channels of processes that run elsewhere to where they are reached; of those inside compositions too.

    Raises:
        ChannelTopologyError: a channel is in use already, or out of the reach of the backend's workers.
        BackendUnavailableError: where channels are to be moved to cannot be reached.
        DeadlineExceeded: it took longer than until the deadline.
    """
    remote: list[Placed] = []
    for child in children:
        if child.backend is not None or child.process.runs_others:
            remote += remote_processes(child.process, child.backend, registry_of(owner), own_channels(child.ctx))
    if not remote:
        return
    await _in_time(owner, None, lambda: migrate_all(remote))


async def _in_time(owner: ProcessContext, backend: ExecutionBackend | None, start: Callable[[], Awaitable[T]]) -> T:
    """What ``start`` gives; ``DeadlineExceeded`` once the owner's deadline is over."""
    deadline_at = peek_frame(owner).deadline_at
    if deadline_at is None:
        return await start()
    scope: asyncio.Timeout | None = None
    try:
        async with until(deadline_at, backend) as scope:
            return await start()
    except TimeoutError:
        # Without a scope the deadline was over before it began.
        if scope is not None and not scope.expired():
            raise
        raise too_late(owner, "queued") from None


async def open_groups(owner: ProcessContext, children: Sequence[Child]) -> Any:
    """Tell every backend which processes it is about to get, so that it can refuse before any of them starts.

    Returns:
        The first handle that is not None.

    Raises:
        Exception: whatever a backend refuses with; nothing has started.
        DeadlineExceeded: the backends did not answer before the deadline.
    """
    placed: dict[int, list[Child]] = {}
    for child in children:
        if child.backend is not None:
            placed.setdefault(id(child.backend), []).append(child)
    await migrate_channels(owner, children)
    if not placed:
        return None
    group_id = new_id()
    first = None
    if len(placed) > 1 or len(children) > sum(map(len, placed.values())):
        members = [_told(child) for child in children]
        for place, child in enumerate(children):
            if child.backend is not None:
                frame_of(child.ctx).place = place, members
    for together in placed.values():
        backend = together[0].backend
        assert backend is not None
        pairs = [(child.process, child.ctx) for child in together]
        handle = await _in_time(owner, backend, partial(backend.open_group, group_id, pairs))
        if handle is not None:
            let_belong([child.ctx for child in together], group_id)
            first = handle if first is None else first
    return first


def _told(child: Child) -> str | None:
    """Which process of a group it is, and where; None if nobody but this program will know its result."""
    if child.backend is None or not child.backend.has_groups:
        return None
    where = "" if child.ctx.placement is None else f" on {place_of(child.ctx.placement) or 'anywhere'}"
    return f"{shortened(child.ctx.process_name, 100)!r}{where} ({child.backend.name})"
