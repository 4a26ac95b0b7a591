"""PAR and SEQ beside what people write by hand. A script of its own, because stbass 0.1.1 and ours share a name.

``python -P composition.py SUBJECT WORK COUNT``: SUBJECT is ``hand`` or ``stbass`` (the release this Python has).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

REPEATS = {"par": 20, "one-by-one": 3, "seq": 20, "seq-turn": 10}
"""How often each work is repeated in one sample; the sample is the median."""


async def open_gates(gates: list[asyncio.Future[None]]) -> None:
    """Let those that wait end one by one, a turn of the event loop apart."""
    for gate in gates:
        gate.set_result(None)
        await asyncio.sleep(0)


def new_gates(count: int) -> list[asyncio.Future[None]]:
    """As many futures, for as many processes to wait for."""
    loop = asyncio.get_running_loop()
    return [loop.create_future() for _ in range(count)]


# By hand -----------------------------------------------------------------------------------------


async def hand_noop() -> int:
    """Do nothing."""
    return 1


async def hand_gated(gate: asyncio.Future[None]) -> int:
    """Wait for one's turn to end."""
    await gate
    return 1


async def hand_stage(value: int) -> int:
    """Pass a value on."""
    return value + 1


async def hand_stage_turn(value: int) -> int:
    """Pass a value on after one turn of the event loop."""
    await asyncio.sleep(0)
    return value + 1


async def hand_par(count: int) -> int:
    """A task group."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hand_noop()) for _ in range(count)]
    return sum(task.result() for task in tasks)


async def hand_one_by_one(count: int) -> int:
    """A task group whose tasks end one by one."""
    gates = new_gates(count)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hand_gated(gate)) for gate in gates]
        await asyncio.sleep(0)
        await open_gates(gates)
    return sum(task.result() for task in tasks)


async def hand_seq(count: int) -> int:
    """A loop of awaits."""
    value = 0
    for stage in [hand_stage] * count:
        value = await stage(value)
    return value


async def hand_seq_turn(count: int) -> int:
    """A loop of awaits that each take one turn."""
    value = 0
    for stage in [hand_stage_turn] * count:
        value = await stage(value)
    return value


BY_HAND = {"par": hand_par, "one-by-one": hand_one_by_one, "seq": hand_seq, "seq-turn": hand_seq_turn}


# With stbass -------------------------------------------------------------------------------------


def with_stbass() -> dict[str, Callable[[int], Awaitable[int]]]:
    """The same, written with whichever stbass this Python has."""
    from stbass import PAR, SEQ, Process, ProcessResult
    from stbass.process import ProcessContext

    @Process
    async def noop(ctx: ProcessContext) -> ProcessResult:
        return ProcessResult.ok(1)

    class Gated(Process):
        def __init__(self, gate: asyncio.Future[None], started: asyncio.Event | None) -> None:
            super().__init__()
            self.gate = gate
            self.started = started

        async def run(self, ctx: ProcessContext) -> ProcessResult:
            if self.started is not None:
                self.started.set()
            await self.gate
            return ProcessResult.ok(1)

    @Process
    async def stage(ctx: ProcessContext) -> ProcessResult:
        return ProcessResult.ok(await ctx.recv("input") + 1)

    @Process
    async def stage_turn(ctx: ProcessContext) -> ProcessResult:
        value = await ctx.recv("input")
        await asyncio.sleep(0)
        return ProcessResult.ok(value + 1)

    async def par(count: int) -> int:
        result = await PAR(*[noop] * count).run()
        return sum(one.value for one in result.results)

    async def one_by_one(count: int) -> int:
        gates = new_gates(count)
        started = asyncio.Event()
        # Tasks start in the order in which they were made: when the last one runs, all of them wait.
        processes = [Gated(gate, started if gate is gates[-1] else None) for gate in gates]
        running = asyncio.create_task(PAR(*processes).run())
        await started.wait()
        await open_gates(gates)
        return sum(one.value for one in (await running).results)

    async def seq(count: int) -> int:
        return int((await SEQ(*[stage] * count).run(0)).value)

    async def seq_turn(count: int) -> int:
        return int((await SEQ(*[stage_turn] * count).run(0)).value)

    return {"par": par, "one-by-one": one_by_one, "seq": seq, "seq-turn": seq_turn}


async def measure(work: Callable[[int], Awaitable[int]], count: int, repeats: int) -> float:
    """The median of some repeats, in seconds, after one to warm up."""
    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        result = await work(count)
        taken.append(time.perf_counter() - begun)
        if result != count:
            raise RuntimeError(f"expected {count}, got {result}")
    return statistics.median(taken[1:])


def main(subject: str, work: str, count: int) -> None:
    """Measure and print."""
    works = BY_HAND if subject == "hand" else with_stbass()
    seconds = asyncio.run(measure(works[work], count, REPEATS[work]))
    print(json.dumps({"values": {"total": seconds}}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
