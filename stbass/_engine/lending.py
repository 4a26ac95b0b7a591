"""A process lends its slot while it waits, in its own code, for what runs elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stbass._process.context import ProcessContext, frame_of, peek_frame, running_context
from stbass._process.frame import Frame

__all__ = ["lent"]


@asynccontextmanager
async def lent(made: ProcessContext | None = None) -> AsyncIterator[None]:
    """While a process waits in its own code for what it runs, somebody else can have its slot.

    Its code goes on when it has a slot again, in turn. One that is being cancelled is not kept waiting. Of several such
    waits side by side the last one that ends takes the slot again: before, what is waited for may need it.

    Args:
        made: the context of the composition that it runs, which has the slot then; None: what runs elsewhere.
    """
    around = running_context()
    frame = None if around is None else _holder(peek_frame(around))
    if frame is None:
        yield
        return
    inside = None if made is None else frame_of(made)
    if frame.in_slot:
        frame.in_slot = False
        if inside is not None:
            inside.in_slot = True
        else:
            frame.slot.leave()
    frame.lending += 1
    in_hurry = False
    try:
        yield
    except BaseException as error:
        in_hurry = not isinstance(error, Exception)
        raise
    finally:
        await _take_again(frame, inside, in_hurry)


def _holder(frame: Frame) -> Frame | None:
    """Of the process whose code this is part of, if it holds a slot, or lends it already."""
    found: Frame | None = frame
    while found is not None and not (found.in_slot or found.lending):
        found = found.part_of
    return found


async def _take_again(frame: Frame, inside: Frame | None, in_hurry: bool) -> None:
    has_it = inside is not None and inside.in_slot
    if inside is not None:
        inside.in_slot = False
    try:
        # It counts as lent until then: what begins to wait meanwhile must find that.
        if not has_it and frame.lending == 1:
            has_it = True
            if in_hurry:
                frame.slot.enter_now()
            else:
                await _enter(frame)
    finally:
        frame.lending -= 1
        # Nor does one keep it that its process has left behind.
        if has_it and (frame.lending or frame.in_slot or frame.slot.is_closed):
            frame.slot.leave()
        elif has_it:
            frame.in_slot = True


async def _enter(frame: Frame) -> None:
    try:
        await frame.slot.enter()
    except BaseException:
        frame.slot.enter_now()
        raise
