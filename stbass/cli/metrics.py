"""``stbass worker --metrics-port``: what a worker counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis

from stbass import observe
from stbass.backends.celery.settings import FleetSettings
from stbass.errors import ConfigurationError, MissingDependencyError
from stbass.observe import spans

try:
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import start_http_server
except ModuleNotFoundError as missing:
    raise MissingDependencyError("--metrics-port needs Prometheus: pip install 'stbass-celery[observe]'") from missing

__all__ = ["serve_metrics", "tell_queues"]


def serve_metrics(port: int) -> None:
    """Serve the metrics of this Python process over HTTP.

    They are those of OpenTelemetry's global meter provider, so what the worker's own code counts is among them.

    Raises:
        ConfigurationError: the port is not free.
    """
    try:
        start_http_server(port)
    except OSError as error:
        raise ConfigurationError(f"--metrics-port {port}: {error.strerror or error}; choose another port") from error
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))


def tell_queues(settings: FleetSettings, endpoints: Sequence[str]) -> None:
    """Count what runs here, unless the application does so itself, and what waits for these endpoints."""
    if spans.current is None:
        observe.instrument()
    meter = metrics.get_meter("stbass")
    if settings.broker is not None:
        queued = settings.broker.client()
        meter.create_observable_gauge(
            "stbass.queue.length",
            [_counts(lambda endpoint: queued.llen(f"{settings.broker_prefix}{endpoint}"), endpoints)],
            description="Messages that no worker has taken, by endpoint",
        )
    limited = settings.backend.client()
    meter.create_observable_gauge(
        "stbass.queue.limited",
        [_counts(lambda endpoint: limited.zcard(settings.keys.line(endpoint)), endpoints)],
        description="Processes that wait for the limit of their endpoint",
    )


def _counts(
    count: Callable[[str], Any], endpoints: Sequence[str]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def look(_: CallbackOptions) -> Iterable[Observation]:
        try:
            for endpoint in endpoints:
                yield Observation(count(endpoint), {"stbass.endpoint": endpoint})
        except (redis.RedisError, OSError):
            return  # a server that is away is told of by the worker; there is nothing to be told then

    return look
