"""Processes of a worker that is traced, and that says what was traced there. Import it where the SDK is installed."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from stbass import PAR, PLACED_PAR, Placement, observe
from stbass.process import Process, ProcessContext

EXPORTER = InMemorySpanExporter()
READER = InMemoryMetricReader()
TRACER_PROVIDER = TracerProvider()
TRACER_PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
METER_PROVIDER = MeterProvider([READER])


def instrument() -> None:
    """Keep what is traced in this Python process in memory."""
    observe.instrument(tracer_provider=TRACER_PROVIDER, meter_provider=METER_PROVIDER)


if os.environ.get("STBASS_TEST_TRACED"):
    instrument()


def as_data(span: ReadableSpan) -> dict[str, Any]:
    """A span, fit to travel."""
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "id": context.span_id,
        "trace": context.trace_id,
        "parent": None if span.parent is None else span.parent.span_id,
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "links": [link.context.span_id for link in span.links],
        "events": [{"name": event.name, **(event.attributes or {})} for event in span.events],
        **(span.attributes or {}),
    }


def points() -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """The metrics of this Python process: of each its points, with their attributes."""
    data = READER.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = point.count if hasattr(point, "count") else point.value
                    found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
    return found


def waits() -> dict[tuple[str, str], tuple[int, float]]:
    """How often and for how many seconds processes have waited in channels, by their name and the direction."""
    data = READER.get_metrics_data()
    return {
        (str(about.get("stbass.process", "")), str(about["stbass.direction"])): (point.count, point.sum)
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "stbass.channel.wait"
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint) and (about := dict(point.attributes or {}))
    }


@Process
async def spans_here(ctx: ProcessContext) -> list[dict[str, Any]]:
    """What has been traced on this worker."""
    return [as_data(span) for span in EXPORTER.get_finished_spans()]


@Process
async def points_here(ctx: ProcessContext) -> dict[str, Any]:
    """The metrics of this worker."""
    return points()


@Process
async def leaf(ctx: ProcessContext) -> int:
    """Says which span its code is in."""
    return get_current_span().get_span_context().span_id


@Process
def sync_leaf(ctx: ProcessContext) -> int:
    """The same, from a thread."""
    return get_current_span().get_span_context().span_id


@Process
async def failing(ctx: ProcessContext) -> None:
    """Fails."""
    raise ValueError("no such page; password=hunter2")


@Process
async def forever(ctx: ProcessContext) -> None:
    """Never ends."""
    await asyncio.Event().wait()


@Process
async def sends_on(ctx: ProcessContext) -> Any:
    """Runs compositions in its own code: here, and on another endpoint."""
    inner = await PAR(leaf, sync_leaf).run()
    placed = await PLACED_PAR((leaf, Placement(endpoint="other"))).run()
    return [*inner.value, *placed.value]


@Process
async def dies_once(ctx: ProcessContext) -> int:
    """Kills its worker, the first time."""
    if ctx.attempt == 1:
        os.kill(os.getpid(), 9)
    return get_current_span().get_span_context().span_id
