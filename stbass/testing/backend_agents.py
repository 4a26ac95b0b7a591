"""The processes that the conformance checks of backends run.

They are in a module of their own so that a worker can know them: one that a remote backend sends to must include it.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from stbass._process.context import ProcessContext
from stbass._values.outcome import ProcessResult
from stbass.errors import NotTransportable
from stbass.placement import PLACED_PAR
from stbass.process import Process
from stbass.seq import SEQ

__all__ = [
    "Echo",
    "Held",
    "await_approval",
    "context_of",
    "count_up",
    "emit_and_change",
    "emit_wrongly",
    "failing",
    "give_up",
    "hand_over",
    "increment",
    "refuse",
    "say",
    "say_hello",
    "say_in_thread",
    "say_inside",
    "several",
    "sum_of_three",
    "sync_thread",
    "take_word",
]


class Echo(Process):
    """Gives back what it was made with."""

    def __init__(self, value: Any) -> None:
        self.value = value

    async def run(self, ctx: ProcessContext) -> Any:
        """Give it back."""
        return self.value


class Held(Process):
    """Calls whoever runs the check, and waits until it is let go.

    Says ``cancelled`` before it ends by a cancellation; if it is killed, the connection closes without a word.
    """

    def __init__(self, host: str, port: int, label: str) -> None:
        self.host = host
        self.port = port
        self.label = label

    async def run(self, ctx: ProcessContext) -> str:
        """Call, and wait."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            ctx.checkpoint(f"{self.label} waits")
            writer.write(f"{self.label}\n".encode())
            await reader.readline()
        except asyncio.CancelledError:
            writer.write(b"cancelled\n")
            raise
        finally:
            writer.close()
        return self.label


@Process
async def context_of(ctx: ProcessContext) -> dict[str, Any]:
    """Tell what it knows of itself."""
    return {
        "process_name": ctx.process_name,
        "process_id": ctx.process_id,
        "parent": ctx.parent,
        "placement": ctx.placement,
        "remaining": ctx.remaining,
        "attempt": ctx.attempt,
    }


@Process
async def runs_two(ctx: ProcessContext) -> list[Any]:
    """Run two more, placed as it is itself, in its own code."""
    assert ctx.placement is not None
    inner = await PLACED_PAR((Echo(1), ctx.placement), (SEQ(Echo(2), increment), ctx.placement)).run()
    return [ctx.remaining is not None, *inner.value]


@Process
def runs_two_in_thread(ctx: ProcessContext) -> list[Any]:
    """The same, in sync code."""
    assert ctx.placement is not None
    return PLACED_PAR((Echo(1), ctx.placement), (Echo(2), ctx.placement)).run_sync().value


@Process
async def failing(ctx: ProcessContext) -> None:
    """Fail with an exception."""
    ctx.checkpoint({"step": 1})
    ctx.checkpoint({"step": 2})
    raise KeyError("what is missing")


@Process
async def refuse(ctx: ProcessContext) -> ProcessResult:
    """Fail without raising."""
    return ProcessResult.fail(PermissionError("not today"))


@Process
async def give_up(ctx: ProcessContext) -> None:
    """Raise ``CancelledError`` though nobody has cancelled it."""
    raise asyncio.CancelledError


@Process
def sync_thread(ctx: ProcessContext) -> bool:
    """Whether a sync function runs beside the event loop's thread, and is not the main thread's."""
    return threading.current_thread() is not threading.main_thread()


@Process
async def increment(ctx: ProcessContext) -> int:
    """One more than its input."""
    return int(await ctx.recv("input")) + 1


@Process
async def several(ctx: ProcessContext) -> str:
    """Pass on three values, none of which is what it returns."""
    first = int(await ctx.recv("input"))
    for value in range(first, first + 3):
        await ctx.send("output", value)
    return "not this"


@Process
async def sum_of_three(ctx: ProcessContext) -> int:
    """The sum of three values on its input."""
    total = 0
    for _ in range(3):
        total += int(await ctx.recv("input"))
    return total


@Process
async def say_hello(ctx: ProcessContext) -> None:
    """Send a word on its channel ``words``."""
    await ctx.send("words", "hello")


@Process
async def take_word(ctx: ProcessContext) -> str:
    """Receive a word from its channel ``words``."""
    return str(await ctx.recv("words"))


# For the checks of runs --------------------------------------------------------------------------


@Process
async def say(ctx: ProcessContext, words: list[Any]) -> int:
    """Emits the words; gives back how many."""
    for word in words:
        await ctx.emit(word)
    return len(words)


@Process
async def count_up(ctx: ProcessContext, end: int, *, fails_at: int | None = None) -> int:
    """Emits the numbers below ``end``, each with a checkpoint; a further attempt goes on after the last of those."""
    first = 0 if ctx.resumed_from is None else ctx.resumed_from + 1
    for number in range(first, end):
        if number == fails_at and ctx.attempt == 1:
            raise ValueError(f"not {number}")
        await ctx.emit(number)
        ctx.checkpoint(number)
        ctx.progress(number + 1, end)
    return end


@Process
async def emit_and_change(ctx: ProcessContext) -> None:
    """Emits a list, and changes it."""
    words = ["before"]
    await ctx.emit(words)
    words.append("after")


@Process
async def emit_wrongly(ctx: ProcessContext) -> str:
    """Emits what cannot be kept, and goes on."""
    try:
        await ctx.emit(threading.Lock())
    except NotTransportable as error:
        await ctx.emit("unharmed")
        return str(error)
    return "it was taken"


@Process
def say_in_thread(ctx: ProcessContext, words: list[Any]) -> int:
    """As :func:`say`, from a thread."""
    for word in words:
        ctx.emit(word)
    return len(words)


@Process
async def say_inside(ctx: ProcessContext, words: list[Any]) -> list[int]:
    """Runs :func:`say` in its own code."""
    result = await SEQ(say(words), name_is_given).run()
    return [one.value for one in result.results]


@Process
async def name_is_given(ctx: ProcessContext) -> int:
    """Nothing but one of two."""
    return 0


@Process
async def await_approval(ctx: ProcessContext) -> bool:
    """What somebody sends on the channel ``approval``."""
    await ctx.emit("please")
    approved: bool = await ctx.recv("approval")
    return approved


@Process
async def hand_over(ctx: ProcessContext, draft: str) -> None:
    """Sends what it was given on the channel ``draft``."""
    await ctx.send("draft", draft)
