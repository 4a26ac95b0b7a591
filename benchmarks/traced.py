"""Tracing as a fleet has it, to an exporter that drops all: imported by producers and workers that are traced.

``BENCH_TRACED`` is the share of the traces that is kept, as a fleet in production sets it; 1 keeps all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from stbass import observe

__all__: list[str] = []


class _Dropping(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


_provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(float(os.environ["BENCH_TRACED"]))))
_provider.add_span_processor(BatchSpanProcessor(_Dropping()))
observe.instrument(tracer_provider=_provider)
