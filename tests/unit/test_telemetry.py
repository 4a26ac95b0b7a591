"""Spans and metrics of processes that run here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from stbass import PAR, SEQ, FailurePolicy, Placement, observe, run
from stbass.alt import ALT, Guard
from stbass.channel import Chan, SequentialProtocol
from stbass.observe import spans
from stbass.process import Process, ProcessContext
from tests.support import traced_agents
from tests.support.traced_agents import as_data, failing, forever, leaf, points, sync_leaf


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    traced_agents.EXPORTER.clear()
    traced_agents.instrument()
    yield
    observe.uninstrument()


def _found() -> dict[str, dict[str, Any]]:
    return {span.name: as_data(span) for span in traced_agents.EXPORTER.get_finished_spans()}


async def test_each_process_and_composition_has_a_span_inside_of_the_one_around_it() -> None:
    result = await PAR(leaf, SEQ(sync_leaf).with_name("stages")).with_name("all").run()
    found = _found()
    assert set(found) == {"all", "leaf", "stages", "sync_leaf"}
    assert (found["all"]["parent"], found["all"]["stbass.kind"]) == (None, "PAR")
    assert found["leaf"]["parent"] == found["stages"]["parent"] == found["all"]["id"]
    assert found["sync_leaf"]["parent"] == found["stages"]["id"]
    # and the code of a process is in its span, in a thread too
    assert result.value == [found["leaf"]["id"], found["sync_leaf"]["id"]]
    assert {span["stbass.state"] for span in found.values()} == {"done"}
    assert len({span["trace"] for span in found.values()}) == 1


async def test_a_span_says_what_it_is_of() -> None:
    where = Placement(model="opus", endpoint="anthropic", config={"key": "secret"})
    placed = Process(name="placed", placement=where)(leaf.function)
    await PAR(placed).run()
    span = _found()["placed"]
    told = {name.removeprefix("stbass."): value for name, value in span.items() if name.startswith("stbass.")}
    assert told["kind"] == "process"
    assert (told["process"], told["endpoint"], told["model"], told["attempt"]) == ("placed", "anthropic", "opus", 1)
    assert told["run"]
    assert "secret" not in str(span)


async def test_a_failure_is_told_without_its_secrets() -> None:
    await PAR(failing, on_failure=FailurePolicy.COLLECT).run()
    found = _found()
    assert (found["failing"]["status"], found["failing"]["stbass.state"]) == ("ERROR", "failed")
    assert found["failing"]["error.type"] == "builtins.ValueError"
    [event] = found["failing"]["events"]
    assert event["exception.message"] == "ValueError: no such page; password=***"
    assert "in failing" in event["exception.stacktrace"]
    assert "hunter2" not in event["exception.stacktrace"]
    assert found["PAR"]["status"] == "ERROR"


async def test_deadlines_and_cancellations_end_spans_too() -> None:
    await PAR(forever, deadline=0.2, on_failure=FailurePolicy.COLLECT).run()
    assert _found()["forever"]["stbass.state"] == "too late"
    traced_agents.EXPORTER.clear()
    begun = asyncio.Event()

    @Process
    async def waits(ctx: ProcessContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(PAR(waits).run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {span["stbass.state"] for span in _found().values()} == {"cancelled"}


async def test_metrics_count_what_runs_and_how_it_ended() -> None:
    before = {str(about): value for about, value in points().get("stbass.process.duration", [])}
    await PAR(leaf, leaf, failing, on_failure=FailurePolicy.COLLECT).run()
    found = points()
    counts = {
        (about["stbass.process"], about["stbass.state"], about.get("error.type")): value - before.get(str(about), 0)
        for about, value in found["stbass.process.duration"]
    }
    assert counts["leaf", "done", None] == 2
    assert counts["failing", "failed", "builtins.ValueError"] == 1
    assert all(value == 0 for _, value in found["stbass.process.running"])


async def test_waits_in_channels_are_told_by_process_and_direction() -> None:
    sent, received, chosen, typed = (Chan[Any](kind) for kind in (int, int, int, SequentialProtocol(int)))

    @Process
    async def waits(ctx: ProcessContext) -> None:
        await sent.send(1)
        await received.recv()
        await ALT(Guard(chosen))
        await typed.send(1)

    @Process
    async def keeps_waiting(ctx: ProcessContext) -> None:
        for channel, value in ((sent, None), (received, 2), (chosen, 3), (typed, None)):
            await (channel.readable() if value is None else channel.writable())
            await asyncio.sleep(0.05)  # the other end waits for that long
            await (channel.recv() if value is None else channel.send(value))

    await PAR(waits, keeps_waiting).run()
    told = traced_agents.waits()
    assert {name: count for name, (count, _) in told.items() if name[0] == "waits"} == {
        ("waits", "send"): 2,
        ("waits", "receive"): 1,
        ("waits", "choose"): 1,
    }
    assert all(seconds >= 0.04 * count for (name, _), (count, seconds) in told.items() if name == "waits")
    # what goes on at once is not told of
    assert ("keeps_waiting", "send") not in told


async def test_a_wait_that_is_cancelled_is_told_too() -> None:
    begun = asyncio.Event()

    @Process
    async def never_met(ctx: ProcessContext) -> None:
        begun.set()
        await Chan(int).recv()

    task = asyncio.create_task(PAR(never_met).run())
    await begun.wait()
    await asyncio.sleep(0.05)  # it waits for that long
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count, seconds = traced_agents.waits()["never_met", "receive"]
    assert (count, seconds >= 0.04) == (1, True)


async def test_whoever_traces_may_raise(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("the exporter is broken")

    assert spans.current is not None
    monkeypatch.setattr(spans.current, "begin", broken)
    with caplog.at_level(logging.ERROR):
        assert (await run(leaf)).is_ok
    assert "no span was begun" in caplog.text


async def test_a_message_names_the_span_around_it_and_belongs_to_that_where_it_arrives() -> None:
    # given two requests that send in turn
    tracer = traced_agents.TRACER_PROVIDER.get_tracer("tests")
    requests = [tracer.start_span("request") for _ in range(2)]
    inside = [trace.set_span_in_context(request, Context()) for request in requests]

    def carried(around: Context) -> Mapping[str, str]:
        token = attach(around)
        try:
            return spans.carried()
        finally:
            detach(token)

    sent = [carried(around) for around in inside * 2]
    assert carried(Context()) == {}

    async def arrives(carried: Mapping[str, str]) -> None:
        spans.arrive(carried, 1)
        await leaf.execute(ProcessContext("leaf"))

    # when their messages arrive in turn, and one that names none
    for one in [*sent, {}]:
        await asyncio.create_task(arrives(one))
    # then each process is inside of its own request
    ended = [as_data(span) for span in traced_agents.EXPORTER.get_finished_spans() if span.name == "leaf"]
    assert [(span["parent"], span["kind"]) for span in ended] == [
        *[(request.get_span_context().span_id, "CONSUMER") for request in requests * 2],
        (None, "INTERNAL"),
    ]


@pytest.mark.parametrize("header", ["", "no-trace", "00-0-0-00", "ff-" + "f" * 32 + "-" + "f" * 16 + "-01", "\x00"])
async def test_what_a_message_says_of_its_span_may_be_anything(header: str) -> None:
    spans.arrive({"traceparent": header, "tracestate": header, "baggage": header}, 2)
    await leaf.execute(ProcessContext("leaf"))
    assert (_found()["leaf"]["parent"], _found()["leaf"]["links"]) == (None, [])


async def test_a_propagator_that_raises_is_told_and_does_no_harm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class _Broken(TraceContextTextMapPropagator):
        def inject(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no header today")

        def extract(self, *_: Any, **__: Any) -> Context:
            raise RuntimeError("no header today")

    around = propagate.get_global_textmap()
    propagate.set_global_textmap(_Broken())
    try:
        with caplog.at_level(logging.ERROR):
            assert spans.carried() == {}
            spans.arrive({"traceparent": "x"}, 1)
    finally:
        propagate.set_global_textmap(around)
    assert (await leaf.execute(ProcessContext("leaf"))).is_ok
    assert caplog.messages == [
        "a message does not say which span it was sent in",
        "the span in which a message was sent could not be read",
    ]


async def test_of_a_trace_that_is_not_kept_nothing_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a sampler that keeps nothing, and looks at what it is told
    told: list[Attributes] = []

    class _None(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            told.append(kwargs.get("attributes", args[4] if len(args) > 4 else None))
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "nothing is kept"

    observe.instrument(tracer_provider=TracerProvider(sampler=_None()), meter_provider=traced_agents.METER_PROVIDER)
    before = _failures()
    monkeypatch.setattr("stbass.observe.telemetry.error_text", lambda *_: pytest.fail("nobody reads this"))
    # when a process fails
    where = Placement(endpoint="anthropic", model="opus")
    failed = await failing.execute(ProcessContext("failing", placement=where))
    # then it is counted, and the sampler can tell processes apart
    assert failed.is_fail
    assert _failures() == before + 1
    assert told == [
        {
            "stbass.process": "failing",
            "stbass.endpoint": "anthropic",
            "stbass.kind": "process",
            "stbass.model": "opus",
        }
    ]


@pytest.mark.parametrize("keeps", ["nothing", "but not the process", "the process alone"])
async def test_the_code_of_a_process_that_is_not_kept_is_in_its_trace(keeps: str) -> None:
    # given a sampler that does not keep the span of the process, or of what is around it
    class _Some(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any, **__: Any) -> SamplingResult:
            is_kept = (name == "leaf") is (keeps == "the process alone") and keeps != "nothing"
            return SamplingResult(Decision.RECORD_AND_SAMPLE if is_kept else Decision.DROP)

        def get_description(self) -> str:
            return keeps

    provider = TracerProvider(sampler=_Some())
    observe.instrument(tracer_provider=provider, meter_provider=traced_agents.METER_PROVIDER)
    inside: list[SpanContext] = []

    @Process(name="leaf")
    async def looks(ctx: ProcessContext) -> None:
        inside.append(get_current_span().get_span_context())

    # when it runs: inside of a request, and alone
    with provider.get_tracer("tests").start_as_current_span("request") as request:
        await looks.execute(ProcessContext("leaf"))
        after = get_current_span()
    await looks.execute(ProcessContext("leaf"))
    # then its code is in the trace, kept if the span around it is
    there, alone = inside
    around = request.get_span_context()
    assert after is request
    assert there.trace_id == around.trace_id != alone.trace_id
    assert (there.span_id == around.span_id) is (keeps == "nothing")  # to enter another one would cost time
    assert alone.is_valid
    assert [one.trace_flags.sampled for one in (around, there, alone)] == {
        "nothing": [False, False, False],
        "but not the process": [True, False, False],
        "the process alone": [False, True, True],
    }[keeps]


def _failures() -> int:
    ended = points().get("stbass.process.duration", [])
    return sum(count for about, count in ended if about.get("error.type") == "builtins.ValueError")


async def test_what_runs_is_counted_while_it_runs_however_often_somebody_instruments() -> None:
    def running() -> list[int]:
        found = points().get("stbass.process.running", [])
        return [value for about, value in found if about["stbass.process"] == "waits for all"]

    here, go_on = asyncio.Semaphore(0), asyncio.Event()

    @Process(name="waits for all")
    async def waits(ctx: ProcessContext) -> None:
        here.release()
        await go_on.wait()

    task = asyncio.create_task(PAR(*[waits] * 3).run())
    for _ in range(3):
        await here.acquire()
    observe.uninstrument()
    traced_agents.instrument()
    assert running() == [3]
    go_on.set()
    await task
    assert running() == [0]


async def test_nothing_is_traced_unless_asked_for() -> None:
    observe.uninstrument()
    await PAR(leaf).run()
    assert _found() == {}


async def test_retries_have_a_span_each() -> None:
    await PAR(failing, on_failure=FailurePolicy.retry(3, base_delay=0)).run()
    attempts = [span for span in traced_agents.EXPORTER.get_finished_spans() if span.name == "failing"]
    assert [as_data(span)["stbass.attempt"] for span in attempts] == [1, 2, 3]
