"""A Celery application that runs processes: a new one, or one that is there already.

What only a worker needs, and what only who sends needs, is imported there: to make an application is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from celery import Celery
from celery.signals import import_modules

from stbass._engine.backend import ExecutionBackend
from stbass._engine.registry import BackendRegistry, checked_registry
from stbass._values.endpoint import Placement
from stbass._values.texts import value_text
from stbass.backends.celery.connection import connect_by_our_transport
from stbass.backends.celery.settings import fleet_of, included, read_settings, worker_processes
from stbass.backends.celery.worker.logs import use_log_format
from stbass.errors import ConfigurationError

__all__ = ["install", "make_app"]

POOL = "stbass.backends.celery.pool:AsyncioPool"
_ANNOUNCEMENT = "stbass.backends.celery.worker.announcement:Announcement"
TRANSPORT = "stbass.backends.celery.transport:Transport"
LOCAL_REDIS = "redis://localhost:6379/0"


def make_app(
    name: str = "stbass",
    broker_url: str | None = None,
    result_backend: str | None = None,
    include: Iterable[str] = (),
    **conf: Any,
) -> Celery:
    """A Celery application for producers and workers of a fleet.

    Args:
        name: of the application.
        broker_url: where the queues are; ``redis://localhost:6379/0`` by default.
        result_backend: where results, leases and checkpoints are: Redis; the broker by default.
        include: modules that define processes; a worker imports them when it starts, and runs no others.
        conf: more of Celery's settings, and ``stbass_functions`` (modules whose plain functions task lists may call),
            ``stbass_registry`` (``module:name`` of the :class:`~stbass.BackendRegistry` for what workers run: see
            :func:`install`), ``stbass_signing_key``, ``stbass_lease`` (s), ``stbass_grace`` (s),
            ``stbass_max_message_bytes``, ``stbass_log_format`` (``text`` or ``json``), ``stbass_result_backend`` (where
            results of processes, leases and checkpoints are, if not where results of ordinary tasks are),
            ``stbass_limits`` (how many processes of an endpoint the whole fleet runs at once, and begins in a time,
            unless ``stbass limit`` has said otherwise: ``{"anthropic": "50, 1000/min"}``).

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """
    if isinstance(include, str):
        raise ConfigurationError(f"include is a list of modules, not a str: use include=[{include!r}]")
    unknown = [key for key in conf if key.startswith("stbass_") and key not in _OWN_SETTINGS]
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]}; there are: {', '.join(sorted(_OWN_SETTINGS))}")
    broker = broker_url or LOCAL_REDIS
    addresses: dict[str, Any] = {
        "broker": broker,
        "backend": result_backend or broker,
        "include": list(include),
    }
    settings: dict[str, Any] = {
        "worker_pool": POOL,
        "worker_concurrency": 1000,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        # RabbitMQ closes the channel of a worker that does not acknowledge for long, as it does for a long process.
        "broker_channel_error_retry": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": "stbass",
        **conf,
        # One list per queue and not one per priority.
        "broker_transport_options": {"priority_steps": [0], **(conf.get("broker_transport_options") or {})},
    }
    # Checked with an application that is thrown away: the hooks that are connected to this one must still fire.
    checked = Celery(name, **addresses, set_as_current=False)
    checked.conf.update(settings)
    read_settings(checked.conf)
    app = Celery(name, **addresses)
    app.conf.update(settings)
    return install(app)


_OWN_SETTINGS = {
    "stbass_functions",
    "stbass_grace",
    "stbass_lease",
    "stbass_limits",
    "stbass_log_format",
    "stbass_max_message_bytes",
    "stbass_registry",
    "stbass_result_backend",
    "stbass_signing_key",
}


def install(app: Celery, *, registry: BackendRegistry | None = None) -> Celery:
    """Let an existing Celery application run processes: adds the task ``stbass.execute`` and its helpers.

    Its own tasks, routes, settings and pools stay as they are, and it is neither configured nor finalized: call this
    where the application is made, before or after its configuration, so that it happens in the worker too. For
    thousands of processes on one worker set ``worker_pool`` to :data:`POOL`.

    An application that keeps its results elsewhere than in Redis sets ``stbass_result_backend`` to a Redis URL, for
    those of processes; without it, its worker says so when it starts, and ends.

    Args:
        registry: where a worker looks up the placements of what runs in it: inside a composition that was placed there,
            and in compositions that processes run themselves. By default every endpoint is a queue of the same fleet,
            and what has no endpoint runs where it is. The setting ``stbass_registry`` (``module:name``) does the same.

    Raises:
        TypeError: the registry is none.
    """
    fleet = fleet_of(app)
    if checked_registry(registry) is not None or not fleet.installed:
        fleet.make_registry = partial(_registry_of_workers, app, registry)
    if fleet.installed:
        return app
    fleet.installed = True
    connect_by_our_transport(app)
    use_log_format(app)
    app.steps["consumer"].add(_ANNOUNCEMENT)
    import_modules.connect(_import_included, sender=app, weak=False)
    if app.finalized:
        _register(app)
    else:
        app.on_after_finalize.connect(_register, weak=False)
    return app


class _QueuesOfTheFleet(BackendRegistry):
    """Every endpoint is a queue. What has none stays where it is."""

    def get(self, placement: Placement) -> ExecutionBackend:
        return self.default if placement.endpoint is None else super().get(placement)


def _registry_of_workers(app: Celery, given: BackendRegistry | None) -> BackendRegistry:
    name = app.conf.get("stbass_registry")
    if given is not None and name:
        raise ConfigurationError(
            f"stbass_registry={name!r} (STBASS_REGISTRY): install() was given a registry already; remove one of them"
        )
    if given is not None:
        return given
    if name:
        return _named_registry(app, name)
    from stbass.backends.celery.producer.backend import CeleryBackend

    made = _QueuesOfTheFleet()
    made.register("*", CeleryBackend(app, lease=fleet_of(app).settings.lease))
    return made


def _named_registry(app: Celery, name: object) -> BackendRegistry:
    module, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    what = f"stbass_registry={name!r} (STBASS_REGISTRY)"
    if not module or not path:
        raise ConfigurationError(f"{what}: must be module:name of a BackendRegistry")
    _import_all(app, [module], "look placements up in", "STBASS_REGISTRY or stbass_registry=")
    try:
        found = getattr(sys.modules[module], path)
    except AttributeError:
        raise ConfigurationError(f"{what}: the module {module!r} has no {path!r}") from None
    if not isinstance(found, BackendRegistry):
        raise ConfigurationError(f"{what}: {path!r} of {module!r} is {value_text(found)}, not a BackendRegistry")
    return found


def _register(sender: Celery, **_details: Any) -> None:
    from stbass.backends.celery.worker.call_task import CallTask
    from stbass.backends.celery.worker.task import ExecuteTask

    sender.register_task(ExecuteTask())
    sender.register_task(CallTask())


def _import_included(sender: Celery, **_details: Any) -> None:
    """Before Celery does it, so that the error says which setting named the module."""
    # What is wrong with them ends the worker here, before it takes anything.
    settings = fleet_of(sender).settings
    for reference in worker_processes():
        sender.loader.import_task_module(reference.partition(":")[0])
    _import_all(sender, included(sender.conf), "include", "STBASS_INCLUDE or include=")
    _import_all(sender, settings.functions, "call functions of", "STBASS_FUNCTIONS or stbass_functions=")
    _ = fleet_of(sender).registry


def _import_all(app: Celery, modules: Iterable[str], told: str, where: str) -> None:
    for module in modules:
        try:
            app.loader.import_task_module(module)
        except Exception as error:
            raise ConfigurationError(
                f"cannot import {module!r}, which this worker is told to {told} ({type(error).__name__}: {error});"
                f" correct {where}, or start the worker where the module can be found"
            ) from error
