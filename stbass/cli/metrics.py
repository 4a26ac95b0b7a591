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
    """Count what runs here, unless the application does so itself, and how many messages wait for these endpoints."""
    if spans.current is None:
        observe.instrument()
    if settings.broker is not None:
        client = settings.broker.client()
        metrics.get_meter("stbass").create_observable_gauge(
            "stbass.queue.length",
            [_lengths(client, settings.broker_prefix, endpoints)],
            description="Messages that no worker has taken, by endpoint",
        )


def _lengths(client: Any, prefix: str, endpoints: Sequence[str]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def look(_: CallbackOptions) -> Iterable[Observation]:
        try:
            for endpoint in endpoints:
                yield Observation(client.llen(f"{prefix}{endpoint}"), {"stbass.endpoint": endpoint})
        except (redis.RedisError, OSError):
            return  # a server that is away is told of by the worker; there is no length to be told then

    return look
