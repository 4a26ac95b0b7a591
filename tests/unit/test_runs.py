"""Runs that this Python process keeps, beyond what every backend's do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

import stbass
from stbass import PAR, PLACED_PAR, SEQ, BackendRegistry, Chan, Collector, LocalBackend, Placement, Process
from stbass._engine import local_runs
from stbass._process.context import ProcessContext
from stbass.errors import NotTransportable, ProcessFailed, RunConflictError
from stbass.observe import Event, subscribe
from stbass.runs import RunEvent


@Process
async def double(ctx: ProcessContext, number: int) -> int:
    """Its argument, twice."""
    await ctx.emit(number)
    return 2 * number


@Process
async def waits(ctx: ProcessContext) -> None:
    """For ever."""
    await asyncio.Event().wait()


# run ---------------------------------------------------------------------------------------------


async def test_run_is_one_process_without_a_list() -> None:
    assert (await stbass.run(double(4))).value == 8
    assert (await stbass.run(SEQ(double(4), double))).value == 16
    failed = await stbass.run(PAR(waits, deadline=0.01))
    assert failed.is_fail
    late = await stbass.run(waits, deadline=0.01)
    assert isinstance(late.failure.error, TimeoutError)
    with pytest.raises(TypeError, match="needs `number`"):
        await stbass.run(double)
    with pytest.raises(TypeError, match=r'write Placement\(endpoint="there"\)'):
        await stbass.run(double(1), placement="there")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the process to run must be a process"):
        await stbass.run(double.function)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="deadline"):
        await stbass.run(double(1), deadline=-1)


async def test_run_goes_where_it_is_placed() -> None:
    class Elsewhere(LocalBackend):
        in_place = False

        async def execute(self, process: Any, ctx: ProcessContext) -> Any:
            seen.append(ctx.placement)
            return await super().execute(process, ctx)

    seen: list[Placement | None] = []
    there, registry = Placement(endpoint="there"), BackendRegistry()
    registry.register("there", Elsewhere())
    assert (await stbass.run(double(1), placement=there, registry=registry)).value == 2
    run = await stbass.start(double(1), placement=there, registry=registry)
    assert (await run.result()).value == 2
    assert seen == [there, there]
    anywhere = BackendRegistry()
    anywhere.register("*", Elsewhere())
    run = await stbass.start(double(1), registry=anywhere)
    assert (await run.result()).value == 2
    assert len(seen) == 3


def test_run_sync_needs_no_event_loop() -> None:
    assert stbass.run_sync(double(4)).value == 8


async def test_run_sync_says_what_to_write_in_one() -> None:
    with pytest.raises(RuntimeError, match=r"await stbass\.run"):
        stbass.run_sync(double(4))


# A run of this Python process --------------------------------------------------------------------


async def test_a_run_is_no_part_of_the_process_that_starts_it() -> None:
    @Process
    async def starter(ctx: ProcessContext) -> str:
        return (await stbass.start(looks)).id

    @Process
    async def looks(ctx: ProcessContext) -> tuple[str | None, float | None]:
        return ctx.parent, ctx.remaining

    result = await stbass.run(starter, deadline=30)
    run = await stbass.find(result.value)
    assert (await run.result()).value == (None, None)


async def test_a_run_is_followed_from_other_event_loops() -> None:
    run = await stbass.start(SEQ(double(1), waits))
    seen: list[RunEvent] = []
    begun = threading.Event()

    async def follow() -> None:
        async for event in (await stbass.find(run.id)).events():
            seen.append(event)
            if event.name == "waits":
                begun.set()
                await run.cancel()
        assert (await run.result()).is_fail

    await asyncio.wait_for(asyncio.to_thread(asyncio.run, follow()), 30)
    assert begun.is_set()
    assert seen == [event async for event in run.events()]


def test_a_run_ends_with_its_event_loop() -> None:
    async def start() -> str:
        return (await stbass.start(waits)).id

    async def look(run_id: str) -> str:
        run = await stbass.find(run_id)
        assert (await run.status()).state == "ended"
        return (await run.result()).failure.summary

    assert "was cancelled" in asyncio.run(look(asyncio.run(start())))


async def test_a_run_cannot_end_the_program() -> None:
    @Process
    async def leaves(ctx: ProcessContext) -> None:
        raise SystemExit(3)

    result = await (await stbass.start(leaves)).result()
    assert isinstance(result.failure.error, ProcessFailed)


async def test_functions_of_one_name_are_other_work() -> None:
    def make(number: int) -> Any:
        @Process
        async def made(ctx: ProcessContext) -> int:
            return number

        return made

    first, second = make(1), make(2)
    run = await stbass.start(first)
    assert not (await stbass.start(first, id=run.id)).is_new
    with pytest.raises(RunConflictError, match="'made'") as conflict:
        await stbass.start(second, id=run.id)
    assert (conflict.value.run_id, conflict.value.runs) == (run.id, "made")


class Slow(LocalBackend):
    """Others come while it is asked whether it can take something."""

    async def open_group(self, group_id: str, members: Sequence[tuple[Any, ProcessContext]]) -> Any:
        await asyncio.sleep(0)
        return await super().open_group(group_id, members)


async def test_it_runs_once_though_the_backend_takes_its_time() -> None:
    ran = []

    @Process
    async def notes(ctx: ProcessContext) -> int:
        ran.append(ctx.process_id)
        return len(ran)

    registry = BackendRegistry()
    registry.register("*", Slow())
    started = await asyncio.gather(*(stbass.start(notes, registry=registry, id="slowly once") for _ in range(20)))
    assert {(await run.result()).value for run in started} == {1}
    assert [run.is_new for run in started].count(True) == 1


async def test_channels_deadlines_and_placements_inside_make_no_other_work() -> None:
    @Process
    async def takes(ctx: ProcessContext, jobs: Chan[int]) -> None:
        return None

    def work(deadline: float | None, placement: Placement) -> PAR[Any]:
        source = Chan(int)
        source.close()
        return PAR(Collector([source], Chan(int)), takes(source), PLACED_PAR((double(2), placement)), deadline=deadline)

    first = await stbass.start(work(50.0, Placement("opus")), id="the same inside")
    again = await stbass.start(work(None, Placement("haiku")), id="the same inside")
    assert (first.is_new, again.is_new) == (True, False)
    assert (await again.result()).value == [0, None, [4]]


async def test_arguments_that_cannot_travel_are_the_same_as_themselves() -> None:
    @Process
    async def locked(ctx: ProcessContext, locks: list[Any]) -> int:
        return len(locks)

    lock = threading.Lock()
    run = await stbass.start(locked([lock, [double]]))
    assert not (await stbass.start(locked([lock, [double]]), id=run.id)).is_new
    with pytest.raises(RunConflictError):
        await stbass.start(locked([threading.Lock(), [double]]), id=run.id)
    endless: list[Any] = []
    endless.append(endless)
    run = await stbass.start(locked(endless))
    assert not (await stbass.start(locked(endless), id=run.id)).is_new


async def test_an_id_is_free_again_when_the_result_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    run = await stbass.start(double(1))
    await run.result()
    monkeypatch.setattr(local_runs, "KEPT_SECONDS", -1.0)
    with pytest.raises(LookupError):
        await stbass.find(run.id)
    again = await stbass.start(double(2), id=run.id)
    assert again.is_new


async def test_outputs_are_seen_by_observers_too() -> None:
    seen: list[Event] = []
    with subscribe(seen.append):
        await stbass.run(double(7))
    assert [(event.kind, event.value) for event in seen if event.kind == "output"] == [("output", 7)]


async def test_a_forgotten_await_is_told() -> None:
    @Process
    async def forgets(ctx: ProcessContext) -> None:
        ctx.emit(1)

    result = await stbass.run(forgets)
    assert "write await ctx.emit(…)" in result.failure.summary


async def test_what_cannot_be_copied_is_refused() -> None:
    class Stubborn:
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise LookupError("never")

    @Process
    async def stubborn(ctx: ProcessContext) -> None:
        ctx.checkpoint(Stubborn())
        await ctx.emit(Stubborn())

    result = await (await stbass.start(stubborn)).result()
    assert isinstance(result.failure.error, NotTransportable)
    assert "Stubborn" in str(result.failure.error)


# As text -----------------------------------------------------------------------------------------


class _Model:
    def model_dump(self, mode: str) -> Any:
        return {"mode": mode}


class _Hostile:
    def __repr__(self) -> str:
        raise KeyError("no")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: "a\nb", '"a\\nb"'),
        (_Model, '{"mode":"json"}'),
        (lambda: {"at": datetime(2026, 1, 2, tzinfo=UTC)}, '{"at":"2026-01-02T00:00:00Z"}'),
        (lambda: {(1, 2): "\ud800"}, "\"{(1, 2): '\\\\ud800'}\""),
        (lambda: 2**100, str(2**100)),
    ],
    ids=["text", "model", "time", "keys", "number"],
)
def test_values_of_server_sent_events(make: Callable[[], Any], text: str) -> None:
    event = RunEvent("3", "output", make(), "p", "top/p", "id", None, 1, datetime(2026, 1, 2, tzinfo=UTC))
    head, kind, data, *end = event.as_sse().split("\n")
    assert (head, kind, end) == ("id: 3", "event: output", ["", ""])
    assert data.startswith(f'data: {{"value":{text},"id":"3"')


def test_a_value_that_has_no_text_is_told_all_the_same() -> None:
    event = RunEvent("3", "output", _Hostile(), "p", "p", "id", None, 1, datetime(2026, 1, 2, tzinfo=UTC))
    assert "whose repr raised KeyError" in event.as_sse()


@pytest.mark.parametrize("done", ["a word", [1], float("nan"), 10**5000, None], ids=range(5))
async def test_whatever_a_process_says_of_its_progress_its_run_goes_on(done: Any) -> None:
    @Process
    async def says(ctx: ProcessContext) -> int:
        ctx.progress(done, done, "odd")
        return 1

    run = await stbass.start(says)
    assert (await run.result()).value == 1
    [told] = [event.value async for event in run.events() if event.kind == "progress"]
    assert (told.done, told.total, told.note) == (0.0, None, "odd")
