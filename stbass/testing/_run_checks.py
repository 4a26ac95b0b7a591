"""The checks that runs pass wherever they are kept, by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from itertools import pairwise
from typing import Any

from stbass import runs
from stbass._engine.runs import MOST_EVENTS
from stbass._process.context import Composable
from stbass._values.ids import new_id
from stbass._values.outcome import ProcessResult
from stbass._values.policy import FailurePolicy
from stbass.channel import Chan
from stbass.errors import (
    ChannelClosedError,
    ChannelTypeError,
    DeadlineExceeded,
    ProcessCancelled,
    RunConflictError,
)
from stbass.par import PAR
from stbass.placement import PLACED_PAR
from stbass.runs import Progress, Run, RunEvent
from stbass.seq import SEQ
from stbass.testing import backend_agents as agents
from stbass.testing._backend_bench import BackendBench, BackendCheck
from stbass.testing._checks import name_of_check, require

__all__ = ["RUN_CHECKS"]

RUN_CHECKS: dict[str, BackendCheck] = {}


def _check(function: BackendCheck) -> BackendCheck:
    RUN_CHECKS[name_of_check(function)] = function
    return function


async def _start(bench: BackendBench, process: Composable[Any], **options: Any) -> Run[Any]:
    return await runs.start(process, placement=bench.placement, registry=bench.registry, **options)


async def _find(bench: BackendBench, run: Run[Any]) -> Run[Any]:
    return await runs.find(run.id, registry=bench.registry)


async def _all(run: Run[Any], after: str | None = None) -> list[RunEvent]:
    return [event async for event in run.events(after)]


def _outputs(events: Iterable[RunEvent]) -> list[Any]:
    return [event.value for event in events if event.kind == "output"]


def _value(result: ProcessResult) -> Any:
    require(result.is_ok, f"it failed: {result.failure.detailed if result.is_fail else ''}")
    return result.value


async def _raised(kind: type[BaseException], what: Awaitable[Any], hint: str) -> str:
    """The message of the error that awaiting ``what`` raises."""
    try:
        found = await what
    except kind as error:
        return str(error)
    raise AssertionError(f"{hint}: no {kind.__name__} was raised; it gave {found!r}")


# Started and found -------------------------------------------------------------------------------


@_check
async def results_are_for_all(bench: BackendBench) -> None:
    """The result is there as often and for as many as like, before the end and after it."""
    run = await _start(bench, bench.held("one"))
    visitor = await bench.arrival()
    found = await _find(bench, run)
    waiting = [asyncio.ensure_future(one.result()) for one in (run, run, found)]
    visitor.let_go()
    values = [_value(await one) for one in waiting]
    values += [_value(await one.result()) for one in (run, found, await _find(bench, run))]
    require(values == ["one"] * 6, f"the results were {values}")
    require(run.is_new and not found.is_new, "is_new must be true for who has started it, and for nobody else")
    require(run.name == found.name == "Held", f"its name is {run.name!r}, and found {found.name!r}")


@_check
async def a_failure_is_a_result(bench: BackendBench) -> None:
    """What the process raises is a failure in the result, and in the last event."""
    run = await _start(bench, agents.failing)
    result = await run.result()
    require(result.is_fail, f"it did not fail: {result!r}")
    last = (await _all(run))[-1]
    require(last.kind == "ended", f"the last event is {last!r}")
    require(last.error == result.failure.summary, f"its error is {last.error!r}, not {result.failure.summary!r}")


@_check
async def one_id_runs_once(bench: BackendBench) -> None:
    """Many start the same under one id, all at once: it runs once, and one of them has started it."""
    held, run_id = bench.held("once"), new_id()
    started = await asyncio.gather(*(_start(bench, held, id=run_id) for _ in range(20)))
    (await bench.arrival()).let_go()
    values = [_value(await one.result()) for one in started]
    require(values == ["once"] * 20, f"the results were {values}")
    require(sum(one.is_new for one in started) == 1, f"{sum(one.is_new for one in started)} say that they started it")
    again = await _start(bench, held, id=run_id)
    require(not again.is_new and _value(await again.result()) == "once", "it was started again after it had ended")
    require(bench.nobody_called, "it ran more than once")


@_check
async def the_same_work_is_the_same(bench: BackendBench) -> None:
    """Placement, deadline, channels and names make no other work; nor does how an argument is given, or its order."""
    words = [{"b", "a"}, {"x": 1, "y": [2]}]
    run = await _start(bench, SEQ(agents.say(words), agents.increment), deadline=50)
    same: Composable[Any] = agents.say(words=[{"a", "b"}, {"y": [2], "x": 1}]).with_name("other")
    channel = Chan(int)
    stage = agents.increment.with_channels(elsewhere=channel)
    again = await runs.start(SEQ(same, stage), registry=bench.registry, placement=bench.placement, id=run.id)
    require(not again.is_new, "the same work was taken for other work")
    require(_value(await again.result()) == _value(await run.result()) == 3, "its value is another one")


@_check
async def other_work_is_a_conflict(bench: BackendBench) -> None:
    """Other work under a known id is refused, with the name of what it stands for."""
    run = await _start(bench, agents.say(["one"]))
    _value(await run.result())
    for other in (agents.say(["two"]), agents.say_in_thread(["one"]), PAR(agents.say(["one"])), agents.Echo(["one"])):
        message = await _raised(RunConflictError, _start(bench, other, id=run.id), f"{other!r} under the id of say")
        require("'say'" in message and run.id in message, f"the message does not say what runs there: {message}")
    require(_outputs(await _all(run)) == ["one"], "the run was harmed")


@_check
async def wrong_ids_are_refused(bench: BackendBench) -> None:
    """Ids that are empty, too long, or no text."""
    wrong: list[tuple[Any, type[Exception]]] = [("", ValueError), ("x" * 201, ValueError), ("\ud800", ValueError)]
    wrong += [(7, TypeError), (b"x", TypeError)]
    for run_id, kind in wrong:
        await _raised(kind, _start(bench, agents.say([]), id=run_id), f"start with the id {run_id!r:.50}")
        await _raised(kind, runs.find(run_id, registry=bench.registry), f"find with the id {run_id!r:.50}")
    for run_id in (f"é\n{{}}*\0 :{new_id()}", "x" * 164 + new_id()):
        run = await _start(bench, agents.say(["here"]), id=run_id)
        require(_outputs(await _all(await _find(bench, run))) == ["here"], f"the id {run_id!r} does not do")


@_check
async def unknown_runs_are_told(bench: BackendBench) -> None:
    """Nobody knows a run that was never started."""
    await _raised(LookupError, runs.find(new_id(), registry=bench.registry), "find of an unknown id")


@_check
async def missing_arguments_are_told_at_once(bench: BackendBench) -> None:
    """Nothing is started that lacks an argument."""
    run_id = new_id()
    await _raised(TypeError, _start(bench, agents.say, id=run_id), "start without the argument")
    await _raised(LookupError, runs.find(run_id, registry=bench.registry), "find of what was refused")


# How far it is -----------------------------------------------------------------------------------


@_check
async def status_says_how_far(bench: BackendBench) -> None:
    """Queued, running, ended; with the last checkpoint and progress."""
    run = await _start(bench, bench.held("status"))
    visitor = await bench.arrival()
    async for event in run.events():
        if event.kind == "checkpoint":
            break
    status = await run.status()
    require(status.state == "running" and status.attempt == 1, f"while it runs: {status}")
    require(status.checkpoint == "status waits", f"its checkpoint is {status.checkpoint!r}")
    require(status.queued_at and status.started_at and not status.ended_at, f"its times: {status}")
    visitor.let_go()
    _value(await run.result())
    status = await run.status()
    require(status.state == "ended" and status.ended_at is not None, f"when it has ended: {status}")
    run = await _start(bench, agents.count_up(3))
    _value(await run.result())
    status = await (await _find(bench, run)).status()
    require(status.progress == Progress(3, 3), f"its progress was {status.progress!r}")


@_check
async def waiting_has_a_deadline_of_its_own(bench: BackendBench) -> None:
    """Who waits too long is told, and the run goes on."""
    run = await _start(bench, bench.held("slow"))
    visitor = await bench.arrival()
    result = await run.result(deadline=0.05)
    require(result.is_fail and isinstance(result.failure.error, DeadlineExceeded), f"it gave {result!r}")
    require("goes on" in str(result.failure.error), f"it does not say that it goes on: {result.failure.error}")
    visitor.let_go()
    require(_value(await run.result()) == "slow", "it did not go on")


@_check
async def a_deadline_ends_it(bench: BackendBench) -> None:
    """The run's own deadline cancels it."""
    # Who runs it is there by then.
    _value(await (await _start(bench, agents.say([]))).result())
    run = await _start(bench, bench.held("late"), deadline=2.0)
    visitor = await bench.arrival()
    require(await visitor.last_words() == "cancelled", "it was not cancelled")
    result = await run.result()
    require(result.is_fail and isinstance(result.failure.error, DeadlineExceeded), f"it gave {result!r}")
    require(result.failure.checkpoint == "late waits", f"its checkpoint is {result.failure.checkpoint!r}")


@_check
async def cancelling_ends_it(bench: BackendBench) -> None:
    """Anybody can cancel it, also by another handle; followers see its end. Again does nothing."""
    run = await _start(bench, PAR(bench.held("a"), bench.held("b")))
    visitors = [await bench.arrival(), await bench.arrival()]
    following = asyncio.ensure_future(_all(run))
    await (await _find(bench, run)).cancel()
    words = [await one.last_words() for one in visitors]
    require(words == ["cancelled", "cancelled"], f"its processes said {words}")
    result = await run.result()
    require(result.is_fail and isinstance(result.failure.error, ProcessCancelled), f"it gave {result!r}")
    require((await following)[-1].kind == "ended", "who follows it did not see its end")
    await run.cancel()
    require((await run.result()).is_fail, "its result has changed")


@_check
async def waiting_can_be_cancelled(bench: BackendBench) -> None:
    """Who stops waiting or following does no harm to the run."""
    run = await _start(bench, bench.held("goes on"))
    visitor = await bench.arrival()
    waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(run.result()), asyncio.ensure_future(_all(run))]
    stays = asyncio.ensure_future(run.result())
    await asyncio.wait(waiting, timeout=0.05)
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    visitor.let_go()
    require(_value(await stays) == "goes on", "it did not go on")


# Events ------------------------------------------------------------------------------------------


@_check
async def events_tell_all(bench: BackendBench) -> None:
    """What happens to the run and to everything in it, with paths, in order."""
    tree = SEQ(agents.say(["a", "b"]).with_name("first"), PAR(agents.count_up(2), agents.say([]))).with_name("report")
    run = await _start(bench, tree)
    events = await _all(run)
    numbers = [int(event.id) for event in events]
    require(numbers == list(range(1, len(events) + 1)), f"their ids are {numbers}")
    require(events[0].kind == "queued" and events[0].path == "report", f"the first is {events[0]!r}")
    require(events[-1].kind == "ended" and events[-1].value == [2, 0], f"the last is {events[-1]!r}")
    for path, kinds in {
        "report": ["queued", "started", "ended"],
        "report/first": ["started", "output", "output", "ended"],
        "report/PAR/say": ["queued", "started", "ended"],
        "report/PAR/count_up": [
            "queued",
            "started",
            *["output", "checkpoint", "progress"] * 2,
            "ended",
        ],
    }.items():
        found = [event.kind for event in events if event.path == path]
        require(found == kinds, f"of {path} there are {found}")
    progress = [event.value for event in events if event.kind == "progress"]
    require(progress == [Progress(1, 2), Progress(2, 2)], f"its progress: {progress}")
    ids = {event.path: event.process_id for event in events}
    require(len(set(ids.values())) == len(ids), f"the ids of its processes: {ids}")
    require(all(a.at <= b.at for a, b in pairwise(events)), "their times are not in order")
    require(await _all(await _find(bench, run)) == events, "afterwards, and by another handle, they are others")


@_check
async def events_go_on_after_any(bench: BackendBench) -> None:
    """After an event come those that follow it, whichever it is."""
    run = await _start(bench, agents.say(["a", "b", "c"]))
    events = await _all(run)
    for index, event in enumerate(events):
        require(await _all(run, event.id) == events[index + 1 :], f"after {event.id} come others")
    for wrong in ("0", "-1", str(len(events) + 1), "1.0", "1-0", "x", "", "9" * 30, "１", 3):  # noqa: RUF001
        found: Any = run.events(wrong)  # type: ignore[arg-type]
        await _raised(ValueError, anext(found), f"events(after={wrong!r})")


@_check
async def followers_see_it_happen(bench: BackendBench) -> None:
    """Many follow at once, from different places; one that reads slowly holds up nobody."""
    run = await _start(bench, SEQ(agents.say(["before"]), bench.held("middle"), agents.say(["after"])))
    slow = run.events()
    await anext(slow)
    visitor = await bench.arrival()
    seen: list[list[RunEvent]] = []
    for _ in range(3):
        events = []
        async for event in run.events():
            events.append(event)
            if event.kind == "output":
                break
        seen.append(events)
    visitor.let_go()
    whole = await asyncio.gather(*(_all(run) for _ in range(3)))
    require(whole[0] == whole[1] == whole[2], "they saw different events")
    require(all(whole[0][: len(part)] == part for part in seen), "what they saw first was not the beginning")
    require([event async for event in slow] == whole[0][1:], "the slow one has missed some")
    require(_outputs(whole[0]) == ["before", "after"], f"they saw {_outputs(whole[0])}")


@_check
async def values_are_as_they_were(bench: BackendBench) -> None:
    """Outputs are exact values, as they were when they were emitted."""
    values = [None, 0, True, "é\n", b"\x00", 1.5, 2**70, [1, [2]], {"a": {"b": [None]}}, ("t", 1), {1, 2}, {1: "k"}]
    run = await _start(bench, agents.say(values))
    found = _outputs(await _all(run))
    require(found == values, f"{values} were emitted, and {found} came")
    require([*map(type, found)] == [*map(type, values)], f"their types are {[*map(type, found)]}")
    run = await _start(bench, agents.emit_and_change)
    require(_outputs(await _all(run)) == [["before"]], f"it was changed later: {_outputs(await _all(run))}")


@_check
async def values_that_cannot_be_kept_are_refused(bench: BackendBench) -> None:
    """Emitting one raises an error in the process, which may go on."""
    run = await _start(bench, agents.emit_wrongly)
    message = _value(await run.result())
    require("lock" in message.lower(), f"the error does not say what it was: {message}")
    require(_outputs(await _all(run)) == ["unharmed"], "the run was harmed")


@_check
async def all_that_belongs_to_it_is_told(bench: BackendBench) -> None:
    """What a process runs in its own code, and what a sync process emits in its thread."""
    run = await _start(bench, agents.say_inside(["inside"]))
    found = [(event.path, event.value) for event in await _all(run) if event.kind == "output"]
    require(found == [("say_inside/SEQ/say", "inside")], f"it emitted {found}")
    run = await _start(bench, agents.say_in_thread([1, 2, 3]))
    require(_outputs(await _all(run)) == [1, 2, 3], "what was emitted in a thread is not there")


@_check
async def attempts_are_told(bench: BackendBench) -> None:
    """A further attempt is an event, with what went wrong in the one before, and goes on after its checkpoint."""
    policy = FailurePolicy.retry(2, base_delay=0.01)
    run = await _start(bench, PAR(agents.count_up(4, fails_at=2), on_failure=policy))
    events = await _all(run)
    require(_outputs(events) == [0, 1, 2, 3], f"it emitted {_outputs(events)}")
    (retried,) = [event for event in events if event.kind == "retried"]
    require(retried.attempt == 2 and "not 2" in (retried.error or ""), f"the event is {retried!r}")
    attempts = [event.attempt for event in events if event.kind == "output"]
    require(attempts == [1, 1, 2, 2], f"the attempts of the outputs are {attempts}")


@_check
async def events_that_are_cut_off_are_told(bench: BackendBench) -> None:
    """Only the latest events are kept; the others are told as one."""
    run = await _start(bench, agents.say(list(range(MOST_EVENTS + 2000))), deadline=50)
    _value(await run.result())
    events = await _all(run)
    missed, last = events[0], int(events[-1].id)
    require(missed.kind == "missed", f"the first is {missed!r}")
    require(int(missed.id) == missed.value and 1 <= missed.value <= 2100, f"it is {missed!r}")
    numbers = [int(event.id) for event in events[1:]]
    require(numbers == list(range(missed.value + 1, last + 1)), "there are gaps between the rest")
    later = await _all(run, str(missed.value - 1))
    require(later[0].kind == "missed" and later[0].value == 1, f"after the last but one that is cut off: {later[0]!r}")
    require(await _all(run, missed.id) == events[1:], "after it come others")


@_check
async def events_are_server_sent_events(bench: BackendBench) -> None:
    """Each is the text of a server-sent event, whatever its value is."""
    values = ["two\nlines", {"deep": [1, None]}, float("nan"), b"\xff", {(1, 2): 3}, 2**90, "\u2028"]
    run = await _start(bench, agents.say(values))
    async for event in run.events():
        head, kind, data, *end = event.as_sse().split("\n")
        require(
            head == f"id: {event.id}" and kind == f"event: {event.kind}" and end == ["", ""], f"it is {head}, {kind}"
        )
        fields = json.loads(data.removeprefix("data: "))
        require(fields["path"] == event.path and fields["at"], f"it says {fields}")
        if event.value in values[:2]:
            require(fields["value"] == event.value, f"{event.value!r} became {fields['value']!r}")


@_check
async def nothing_is_kept_of_others(bench: BackendBench) -> None:
    """A process that nobody started as a run may emit, and nothing comes of it."""
    pair = bench.pair(agents.say(["unheard"]))
    result = await PLACED_PAR(pair, registry=bench.registry).run()
    require(result.value == [1], f"it gave {result.results}")
    one = await runs.run(agents.say(["a", "b"]), placement=bench.placement, registry=bench.registry)
    require(_value(one) == 2, f"run() gave {one!r}")


# Channels ----------------------------------------------------------------------------------------


@_check
async def people_meet_its_processes(bench: BackendBench) -> None:
    """A value that is sent to the run is received by its process, and the other way round."""
    tree = SEQ(
        agents.hand_over("a draft").with_channels(draft=Chan(str)),
        agents.await_approval.with_channels(approval=Chan(bool)),
    )
    run = await _start(bench, tree)
    found = await _find(bench, run)
    require(await found.recv("draft") == "a draft", "another draft was received")
    await _raised(ChannelTypeError, found.send("approval", "yes"), "send of a wrong type")
    await found.send("approval", True)
    require(_value(await run.result()) is True, "the answer has not arrived")
    await _raised(ChannelClosedError, found.send("approval", True), "send to a run that has ended")
    message = await _raised(KeyError, found.recv("nonsense"), "recv from an unknown channel")
    require("approval" in message and "draft" in message, f"it does not say what there is: {message}")


@_check
async def channels_of_one_name_are_told_apart(bench: BackendBench) -> None:
    """By the path; without it, the error says which there are."""
    both = [agents.await_approval.with_name(name).with_channels(approval=Chan(bool)) for name in ("a", "b")]
    run = await _start(bench, PAR(*both))
    message = await _raised(KeyError, run.send("approval", True), "send to one of two")
    require("PAR/a/approval" in message and "PAR/b/approval" in message, f"it does not say which: {message}")
    await run.send("PAR/b/approval", False)
    await run.send("a/approval", True)
    require(_value(await run.result()) == [True, False], "they have met the wrong ones")


@_check
async def meetings_have_a_deadline(bench: BackendBench) -> None:
    """Nobody is there: the deadline ends the wait, a cancellation too, and nothing has been sent or is lost."""
    first = SEQ(bench.held("busy"), agents.await_approval.with_channels(approval=Chan(bool)))
    run = await _start(bench, first)
    visitor = await bench.arrival()
    await _raised(DeadlineExceeded, run.send("approval", False, deadline=0.2), "send to nobody")
    sending = asyncio.ensure_future(run.send("approval", False))
    await asyncio.wait([sending], timeout=0.2)
    sending.cancel()
    await asyncio.wait([sending])
    require(sending.cancelled(), f"it was not cancelled: {sending!r}")
    visitor.let_go()
    await run.send("approval", True)
    require(_value(await run.result()) is True, "what was withdrawn has arrived")


@_check
async def an_end_ends_the_waiting(bench: BackendBench) -> None:
    """Who waits for a process of a run that ends meanwhile is told."""
    run = await _start(bench, SEQ(bench.held("first"), agents.await_approval.with_channels(approval=Chan(bool))))
    await bench.arrival()
    sending = asyncio.ensure_future(run.send("approval", True))
    await asyncio.wait([sending], timeout=0.1)
    await run.cancel()
    await _raised(ChannelClosedError, sending, "send to a run that is cancelled")
