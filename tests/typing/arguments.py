"""What must and what must not type-check: mypy reads this, and nobody runs it.

A `type: ignore` that is not needed is an error too, so each stands for an error that mypy must find.
"""

from __future__ import annotations

from typing import Any, assert_type

from stbass import PAR, PAR_FOR, PLACED_PAR, SEQ, Collector, Distributor, Placement, Process, ProcessResult
from stbass.channel import Chan
from stbass.par import PARResult
from stbass.process import FunctionProcess, ProcessContext


@Process
async def summarise(ctx: ProcessContext, url: str, *, depth: int = 2) -> str:
    return f"{url} {depth} {ctx.process_name}"


@Process
async def counted(ctx: ProcessContext, text: str) -> ProcessResult[int]:
    return ProcessResult.ok(len(text))


@Process
def blocking(ctx: ProcessContext, number: int) -> float:
    return number / 2


@Process
def blocking_outcome(ctx: ProcessContext) -> ProcessResult[bytes]:
    return ProcessResult.ok(b"")


@Process(name="other", placement=Placement("opus"))
async def named(ctx: ProcessContext, url: str) -> list[str]:
    return [url]


@Process(placement=Placement("opus"))
async def placed(ctx: ProcessContext) -> int:
    return 1


# As the documents write them: without types, and strict all the same.
@Process
async def bare(ctx: ProcessContext) -> ProcessResult:
    return ProcessResult.ok("result")


@Process
async def mapped(ctx: ProcessContext, url: str, options: dict[str, Any]) -> dict[str, Any]:
    return {url: options}


class Researcher(Process):
    def __init__(self, topic: str) -> None:
        super().__init__()
        self.topic = topic

    async def run(self, ctx: ProcessContext) -> ProcessResult:
        return ProcessResult.ok({"findings": [self.topic]})


class Counter(Process[[], int]):
    async def run(self, ctx: ProcessContext) -> int:
        return 1


class Wrong(Process[[], int]):
    async def run(self, ctx: ProcessContext) -> str:  # type: ignore[override]
        return ""


async def of_functions(ctx: ProcessContext) -> None:
    assert_type(summarise("a"), FunctionProcess[[], str])
    assert_type((await summarise("a", depth=3).execute(ctx)).value, str)
    assert_type((await counted("a").execute(ctx)).value, int)
    assert_type((await blocking(3).execute(ctx)).value, float)
    assert_type((await blocking_outcome().execute(ctx)).value, bytes)
    assert_type((await named("a").execute(ctx)).value, list[str])
    assert_type((await placed.execute(ctx)).value, int)
    assert_type(bare, FunctionProcess[[], Any])
    assert_type((await bare.execute(ctx)).value, Any)
    assert_type(mapped("a", {}), FunctionProcess[[], dict[str, Any]])
    assert_type((await summarise.with_arguments(depth=3).with_name("x").optional().execute(ctx)).value, str)
    assert_type((await Counter().execute(ctx)).value, int)
    assert_type((await Researcher("x").execute(ctx)).value, Any)
    assert_type(Researcher("x").topic, str)


async def of_compositions() -> None:
    result = await PAR(*(summarise(url) for url in ("a", "b")), deadline=30).run()
    assert_type(result, PARResult[str])
    assert_type(result.value, list[str])
    assert_type(result.results[0], ProcessResult[str])
    assert_type(result.successes, list[ProcessResult[str]])
    assert_type(PAR(summarise("a")).run_sync().value, list[str])
    assert_type((await PLACED_PAR((summarise("a"), Placement("opus")), summarise("b"), limit=1).run()).value, list[str])
    # Of several types: what they have in common.
    assert_type((await PAR(summarise("a"), counted("b")).run()).value, list[object])
    assert_type((await PLACED_PAR((summarise("a"), Placement()), counted("b")).run()).value, list[object])
    assert_type((await PAR(bare, Researcher("x")).run()).value, list[Any])
    assert_type((await PAR(PAR(summarise("a")), PAR(summarise("b"))).run()).value, list[list[str]])
    assert_type((await SEQ(summarise("a"), counted).run()).value, Any)
    assert_type((await PAR_FOR(3, made).run()).value, list[str])
    assert_type((await PAR_FOR(3, Counter()).run()).value, list[int])
    assert_type((await PAR_FOR(3, replica).run()).value, list[bytes])


def made(index: int, ctx: ProcessContext) -> Process[[], str]:
    return summarise(f"{ctx.process_name} {index}")


async def replica(index: int, ctx: ProcessContext) -> bytes:
    return ctx.process_name.encode() * index


async def of_topology(channel: Chan[int]) -> None:
    assert_type((await Distributor(channel, [channel]).run()).value, int)
    assert_type((await Collector([channel], channel).run()).value, int)


def wrong_use() -> None:
    summarise(3)  # type: ignore[arg-type]
    summarise()  # type: ignore[call-arg]
    summarise("a", 3)  # type: ignore[call-arg]
    summarise("a", dept=3)  # type: ignore[call-arg]
    mapped(3, {})  # type: ignore[arg-type]
    bare(3)  # type: ignore[call-arg]
    named(3)  # type: ignore[arg-type]
    placed(3)  # type: ignore[call-arg]
    Process(3)  # type: ignore[call-overload]
    Counter(3)  # type: ignore[call-overload]
    Process(name=3)  # type: ignore[call-overload]
    Researcher(3)  # type: ignore[arg-type]
    PAR(3)  # type: ignore[arg-type]
    PAR(summarise("a"), deadlin=3)  # type: ignore[call-arg]
    number: int = PAR(summarise("a")).run_sync().value[0]  # type: ignore[assignment]
    assert number
