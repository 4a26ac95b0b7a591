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

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from time import monotonic
from typing import Any, NamedTuple

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from stbass._values.masking import masked
from stbass._values.span import State, state_after
from stbass._values.texts import error_text, shortened, type_name_of
from stbass._values.waits import Direction
from stbass.observe import spans
from stbass.result import Failure, ProcessResult

__all__ = ["instrument", "uninstrument"]

_NAME = "stbass"
_LONGEST = 200
_MOST = 2000
"""Names of processes that are remembered: as many as OpenTelemetry counts apart."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Where the buckets of histograms end: those of OpenTelemetry's default are made for milliseconds."""
_SENDER = context.create_key("stbass-sender")


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


class _About(NamedTuple):
    """What is told of all processes of one name at one place.

    Args:
        name: of the process.
        labels: of its metrics.
        key: the same, to count by.
        done: labels of one that is done.
        attributes: of its span, as far as they are known of all of them.
    """

    name: str
    labels: Mapping[str, str]
    key: tuple[tuple[str, str], ...]
    done: Mapping[str, str]
    attributes: Mapping[str, str]


@lru_cache(maxsize=_MOST)
def _short(text: str) -> str:
    return shortened(text, _LONGEST)


@lru_cache(maxsize=_MOST)
def _about(kind: str, name: str, endpoint: str, model: str) -> _About:
    name = shortened(name, _LONGEST)
    labels = {"stbass.process": name}
    if endpoint:
        labels["stbass.endpoint"] = shortened(endpoint, _LONGEST)
    attributes = {**labels, "stbass.kind": kind}
    if model:
        attributes["stbass.model"] = shortened(model, _LONGEST)
    return _About(name, labels, tuple(labels.items()), {**labels, "stbass.state": "done"}, attributes)


class _Running:
    """What runs in this Python process, counted when metrics are exported.

    An instrument that is told of each process that begins and ends costs more than the process's span.
    """

    def __init__(self) -> None:
        self._spans: set[_Span] = set()
        self._known: dict[tuple[tuple[str, str], ...], None] = {}

    # Each step is atomic, and there is no lock: the coroutine of a process may be closed by the garbage collector, in
    # the middle of any of this.

    def add(self, span: _Span) -> None:
        """It runs."""
        self._known[span.about.key] = None
        self._spans.add(span)

    def discard(self, span: _Span) -> None:
        """It has ended."""
        self._spans.discard(span)

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """How many run now, by process and endpoint: 0 for those of which none does any more."""
        counts = Counter([span.about.key for span in self._spans.copy()])
        known = list(self._known)
        for labels in known[:-_MOST]:
            self._known.pop(labels, None)
        for labels in {*known[-_MOST:], *counts}:
            yield Observation(counts[labels], dict(labels))


_running = _Running()
"""One for all who trace here: a meter goes on asking whatever it was given first."""


class _Telemetry(spans.Tracing):
    def __init__(
        self, tracer_provider: trace.TracerProvider | None, meter_provider: metrics.MeterProvider | None
    ) -> None:
        self.tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self.duration = meter.create_histogram(
            "stbass.process.duration",
            unit="s",
            description="How long processes ran, by how they ended",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        meter.create_observable_up_down_counter(
            "stbass.process.running", [_running.observe], unit="{process}", description="Processes that run"
        )
        self.waits = meter.create_histogram(
            "stbass.channel.wait",
            unit="s",
            description="How long processes waited in channels, by direction",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.counters = {name: meter.create_counter(name, description=what) for name, what in spans.COUNTED.items()}
        # What is sent together is sent, and arrives, in the same span.
        self._sent: tuple[Context | None, Mapping[str, str]] = (None, {})
        self._arrived: tuple[Mapping[str, str], Context] = ({}, Context())

    def count(self, name: str, about: Mapping[str, str]) -> None:
        self.counters[name].add(1, {f"stbass.{key}": shortened(value, _LONGEST) for key, value in about.items()})

    def waited(self, direction: Direction, seconds: float, process: str | None) -> None:
        about: dict[str, str] = {"stbass.direction": direction}
        if process is not None:
            about["stbass.process"] = shortened(process, _LONGEST)
        self.waits.record(seconds, about)

    def begin(self, kind: str, ctx: Any, worker: str | None, run: str) -> spans.OpenSpan:
        return _Span(self, kind, ctx, worker, run)

    def carried(self) -> Mapping[str, str]:
        around, carried = self._sent
        if (here := context.get_current()) is not around:
            made: dict[str, str] = {}
            propagate.inject(made)
            self._sent = here, made
            return made
        return carried

    def arrive(self, carried: Mapping[str, str], attempt: int) -> None:
        known, around = self._arrived
        if carried != known:
            around = propagate.extract(dict(carried))
            self._arrived = carried, around
        if attempt > 1:
            sender = trace.get_current_span(around).get_span_context()
            if sender.is_valid:
                around = context.set_value(_SENDER, sender, around)
        context.attach(around)


class _Span(spans.OpenSpan):
    __slots__ = ("_began", "_ctx", "_inside", "_run", "_span", "_telemetry", "_token", "_worker", "about")

    def __init__(self, telemetry: _Telemetry, kind: str, ctx: Any, worker: str | None, run: str) -> None:
        self._telemetry, self._ctx, self._worker, self._run = telemetry, ctx, worker, run
        place = ctx.placement
        endpoint, model = ("", "") if place is None else (place.endpoint or "", place.model or "")
        self.about = about = _about(kind, ctx.process_name, endpoint, model)
        around = context.get_current()
        outer = trace.get_current_span(around)
        sent = outer.get_span_context()
        links = None
        if ctx.attempt > 1 and isinstance(sender := around.get(_SENDER), SpanContext):
            links = [Link(sender, {"stbass.redelivered": True})]
            around = context.set_value(_SENDER, None, around)  # it is not of what runs inside
        kind_of_span = SpanKind.CONSUMER if sent.is_remote else SpanKind.INTERNAL
        self._span = span = telemetry.tracer.start_span(about.name, around, kind_of_span, about.attributes, links)
        self._inside = around
        self._token = None
        # Where nobody traces, and metrics are all that is wanted, they are the same. In a trace that is not kept it
        # does not matter which span the code is in.
        if span is not outer and (span.is_recording() or sent.trace_flags.sampled or not sent.is_valid):
            self._inside = trace.set_span_in_context(span, around)
            self._token = context.attach(self._inside)
        self._began = monotonic()
        _running.add(self)

    def end(self, result: ProcessResult | None) -> None:
        span, ctx = self._span, self._ctx
        _running.discard(self)
        state: State = "done"
        error: BaseException | None = None
        if result is None:
            state = "too late" if ctx.remaining == 0 else "cancelled"
        elif result.is_fail:
            error = result.failure.error
            state = state_after(error)
        labels = self.about.done
        if state != "done":
            labels = {**labels, "stbass.state": state}
        if error is not None:
            labels = {**labels, "error.type": type_name_of(type(error)).replace(":", ".")}
        self._telemetry.duration.record(monotonic() - self._began, labels)
        if span.is_recording():
            told: dict[str, str | int] = {"stbass.state": state, "stbass.attempt": ctx.attempt}
            told["stbass.process.id"] = ctx.process_id
            if error is not None:
                told["error.type"] = labels["error.type"]
            if self._worker:
                told["stbass.worker"] = _short(self._worker)
            if self._run:
                told["stbass.run"] = _short(self._run)
            span.set_attributes(told)
            if result is not None and result.is_fail:
                self._tell(result.failure)
            span.end()
        # Not of a coroutine that is closed elsewhere, long after its event loop.
        if self._token is not None and (context.get_current() is self._inside or trace.get_current_span() is span):
            context.detach(self._token)

    def _tell(self, failure: Failure) -> None:
        text = error_text(failure.error, 1000)
        self._span.set_status(Status(StatusCode.ERROR, text))
        told = {"exception.type": type_name_of(type(failure.error)).replace(":", "."), "exception.message": text}
        if failure.traceback_str:
            told["exception.stacktrace"] = shortened(masked(failure.traceback_str), 10_000)
        self._span.add_event("exception", told)
