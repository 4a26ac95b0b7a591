"""A composition that failed names what failed in it: the path of processes, the error, the place."""

from __future__ import annotations

import asyncio

from stbass import PAR, SEQ, FailurePolicy, FailureReport, Placement, Process
from stbass._values.outcome import Failure, ProcessResult
from stbass.context import ProcessContext
from stbass.wire import dump_result, load_result

COLLECT = FailurePolicy.COLLECT


@Process
async def bad(ctx: ProcessContext) -> None:
    raise ValueError("disk full on /dev/sda1")


@Process(placement=Placement(model="disk", endpoint="here", config={"api_key": "geheim"}))
async def placed(ctx: ProcessContext) -> None:
    raise ValueError("disk full on /dev/sda1")


@Process
async def fine(ctx: ProcessContext) -> int:
    return 1


def failure_of(result: ProcessResult) -> Failure:
    assert result.is_fail
    return result.failure


LEAF = "ValueError: disk full on /dev/sda1"


async def test_the_leaves_of_a_composition_are_named_by_their_path() -> None:
    inner = PAR(placed.with_name("x"), bad, fine, on_failure=COLLECT).with_name("inner")
    result = await SEQ(fine, PAR(inner, fine, on_failure=COLLECT).with_name("outer")).run()
    [failure] = result.failures
    assert failure.leaves == (f"inner/x: {LEAF} (disk @ here)", f"inner/bad: {LEAF}")
    assert failure.summary.startswith("[outer] ExceptionGroup: 1 of 2 processes of 'outer' failed")
    assert failure.summary.endswith(f": inner/x: {LEAF} (disk @ here) (and 1 more)")
    assert f"Failed in it: inner/bad: {LEAF}\n" in f"{failure.detailed}\n"
    assert "geheim" not in failure.summary
    report = FailureReport.of(result.results)
    assert LEAF in report.summary()
    assert report.to_dict()["failures"][0]["leaves"] == list(failure.leaves)


async def test_those_that_were_only_cancelled_are_not_named() -> None:
    @Process
    async def waits(ctx: ProcessContext) -> None:
        await ctx.recv("never")

    [failure, *_] = (await PAR(PAR(bad, fine).with_name("inner")).run()).failures
    assert failure.leaves == (f"bad: {LEAF}",)


async def test_they_travel() -> None:
    [one] = (await PAR(PAR(bad).with_name("inner")).run()).results
    assert failure_of(load_result(dump_result(one))).leaves == (f"bad: {LEAF}",)


@Process
async def gathers(ctx: ProcessContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails("one"))
        group.create_task(fails("two"))


async def fails(text: str) -> None:
    raise ExceptionGroup("inner", [OSError(text)])


async def test_the_errors_of_a_group_that_a_process_raised_are_named() -> None:
    [failure] = (await PAR(gathers).run()).failures
    assert failure.leaves == ("OSError: one", "OSError: two")
    assert failure.summary == (
        "[gathers] ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): OSError: one (and 1 more)"
    )
    assert "Failed in it: OSError: two\n" in failure.detailed
    assert failure_of(load_result(dump_result(ProcessResult.fail(failure.error)))).leaves == failure.leaves


async def test_and_inside_of_a_composition_with_its_path() -> None:
    [failure] = (await PAR(PAR(gathers, placed, on_failure=COLLECT).with_name("inner")).run()).failures
    assert failure.leaves == ("gathers: OSError: one", "gathers: OSError: two", f"placed: {LEAF} (disk @ here)")
    [failure] = (await PAR(SEQ(PAR(gathers).with_name("inner")).with_name("outer")).run()).failures
    assert failure.leaves == ("inner/gathers: OSError: one", "inner/gathers: OSError: two")


async def test_they_are_bounded() -> None:
    [failure] = (await PAR(PAR(*[bad.with_name(f"b{n}") for n in range(300)], on_failure=COLLECT)).run()).failures
    assert len(failure.leaves) == 100
    assert failure.leaves[-1] == "and more"
    assert len(failure.summary) < 1000
