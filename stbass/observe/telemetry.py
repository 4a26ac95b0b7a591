"""OpenTelemetry: a span for each process and composition, wherever it runs, and figures of what ends.

Spans
    Named as the process. Inside of a composition they are its children, on a worker too: the context travels in the
    message. Attributes: ``stbass.kind`` (``process``, or the class of a composition), ``stbass.process.id``,
    ``stbass.attempt``, ``stbass.endpoint``, ``stbass.model``, ``stbass.worker``, ``stbass.run``, and ``stbass.state``:
    ``done``, ``failed``, ``too late`` or ``cancelled``. A failure is the span's status and an event ``exception``. The
    span of a process whose earlier worker was lost has a link to the span in which it was sent.

Metrics
    ``stbass.process.duration`` (seconds) and ``stbass.process.running``, by ``stbass.process`` and ``stbass.endpoint``;
    the first also by ``stbass.state`` and ``error.type``. ``stbass.channel.wait`` (seconds): each send, receive and
    choice that did not go on at once, by ``stbass.process`` and ``stbass.direction`` (``send``, ``receive``,
    ``choose``). On workers, ``stbass.workers.lost`` (processes whose worker
    was lost, by ``stbass.queue``) and ``stbass.messages.refused`` (by ``stbass.kind``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from stbass._values.masking import masked
from stbass._values.span import State, state_after
from stbass._values.texts import error_text, plain_text, shortened, type_name_of
from stbass._values.waits import Direction
from stbass.observe import spans
from stbass.result import ProcessResult

__all__ = ["instrument", "uninstrument"]

_NAME = "stbass"
_LONGEST = 200
_SENDER = context.create_key("stbass-sender")
_PROCESS = context.create_key("stbass-process")


def instrument(
    *, tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
) -> None:
    """Tell OpenTelemetry of every process that runs in this Python process from now on.

    Call it in producers and, in the module of the application, in workers.

    Args:
        tracer_provider: who makes spans; the global one by default.
        meter_provider: who makes metrics; the global one by default.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed: ``pip install 'stbass-celery[observe]'``.
    """
    spans.trace_with(_Telemetry(tracer_provider, meter_provider))


def uninstrument() -> None:
    """Tell it of nothing more."""
    spans.trace_with(None)


class _Telemetry(spans.Tracing):
    def __init__(
        self, tracer_provider: trace.TracerProvider | None, meter_provider: metrics.MeterProvider | None
    ) -> None:
        self.tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self.duration = meter.create_histogram(
            "stbass.process.duration", unit="s", description="How long processes ran, by how they ended"
        )
        self.running = meter.create_up_down_counter(
            "stbass.process.running", unit="{process}", description="Processes that run"
        )

        self.waits = meter.create_histogram(
            "stbass.channel.wait", unit="s", description="How long processes waited in channels, by direction"
        )
        self.counters = {name: meter.create_counter(name, description=what) for name, what in spans.COUNTED.items()}

    def count(self, name: str, about: Mapping[str, str]) -> None:
        self.counters[name].add(1, {f"stbass.{key}": shortened(value, _LONGEST) for key, value in about.items()})

    def waited(self, direction: Direction, seconds: float) -> None:
        about: dict[str, str] = {"stbass.direction": direction}
        process = context.get_value(_PROCESS)
        if isinstance(process, str):
            about["stbass.process"] = process
        self.waits.record(seconds, about)

    def begin(self, kind: str, ctx: Any, worker: str | None, run: str) -> spans.OpenSpan:
        return _Span(self, kind, ctx, {"stbass.worker": worker, "stbass.run": run})

    def carried(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    @contextmanager
    def arrived(self, carried: Mapping[str, str], attempt: int) -> Iterator[None]:
        around = propagate.extract(dict(carried))
        sender = trace.get_current_span(around).get_span_context()
        if attempt > 1 and sender.is_valid:
            around = context.set_value(_SENDER, sender, around)
        token = context.attach(around)
        try:
            yield
        finally:
            context.detach(token)


class _Span(spans.OpenSpan):
    def __init__(self, telemetry: _Telemetry, kind: str, ctx: Any, about: Mapping[str, str | None]) -> None:
        self._telemetry = telemetry
        self._ctx = ctx
        self._began = monotonic()
        placement = ctx.placement
        name = shortened(plain_text(ctx.process_name), _LONGEST)
        self._about = {"stbass.process": name}
        if placement is not None and placement.endpoint:
            self._about["stbass.endpoint"] = shortened(plain_text(placement.endpoint), _LONGEST)
        sender = context.get_value(_SENDER)
        links = [Link(sender, {"stbass.redelivered": True})] if isinstance(sender, SpanContext) else []
        told = {**self._about, "stbass.kind": kind, "stbass.process.id": ctx.process_id, "stbass.attempt": ctx.attempt}
        if placement is not None and placement.model:
            told["stbass.model"] = shortened(plain_text(placement.model), _LONGEST)
        told |= {key: shortened(value, _LONGEST) for key, value in about.items() if value}
        remote = trace.get_current_span().get_span_context().is_remote
        self._span = telemetry.tracer.start_span(
            name, kind=SpanKind.CONSUMER if remote else SpanKind.INTERNAL, attributes=told, links=links
        )
        inner = context.set_value(_PROCESS, name, trace.set_span_in_context(self._span))
        if links:
            inner = context.set_value(_SENDER, None, inner)
        self._token = context.attach(inner)
        telemetry.running.add(1, self._about)

    def end(self, result: ProcessResult | None) -> None:
        telemetry, about = self._telemetry, self._about
        state: State = "done"
        if result is None:
            state = "too late" if self._ctx.remaining == 0 else "cancelled"
        elif result.is_fail:
            error = result.failure.error
            kind = type(error)
            state = state_after(error)
            text = error_text(error, 1000)
            self._span.set_status(Status(StatusCode.ERROR, text))
            name = type_name_of(kind).replace(":", ".")
            told = {"exception.type": name, "exception.message": text}
            if result.failure.traceback_str:
                told["exception.stacktrace"] = shortened(masked(result.failure.traceback_str), 10_000)
            self._span.add_event("exception", told)
            self._span.set_attribute("error.type", name)
        self._span.set_attribute("stbass.state", state)
        telemetry.running.add(-1, about)
        ended = {**about, "stbass.state": state}
        if result is not None and result.is_fail:
            ended["error.type"] = name
        telemetry.duration.record(monotonic() - self._began, ended)
        self._span.end()
        if trace.get_current_span() is self._span:
            # Not of a coroutine that is closed elsewhere, long after its event loop.
            context.detach(self._token)
