"""``stbass worker``: a Celery worker with the right flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from stbass.backends.celery.settings import fleet_of, included
from stbass.backends.celery.worker.logs import FORMATS
from stbass.cli.named import import_named, load_application
from stbass.errors import ConfigurationError
from stbass.process import known_processes
from stbass.settings import ASYNCIO_CONCURRENCY, POOLS

__all__ = ["run_worker"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_NOT_COUNTED = "with prefork, processes run in child processes of the worker, whose counts nobody reads"


def run_worker(
    endpoints: list[str],
    include: list[str],
    functions: list[str],
    concurrency: int | None,
    grace: float | None,
    app: str,
    name: str | None,
    log_level: str,
    log_format: str | None = None,
    pool: str | None = None,
    metrics_port: int | None = None,
) -> None:
    """Run a worker until it is told to stop.

    Raises:
        ConfigurationError: the application cannot be loaded, or does not take one of the settings.
    """
    for endpoint in endpoints:
        if not endpoint.strip() or "," in endpoint:
            raise ConfigurationError(f"--endpoint {endpoint!r}: name one endpoint each time; it may be repeated")
    if log_level.upper() not in _LEVELS:
        raise ConfigurationError(f"--log-level {log_level!r}: must be one of {', '.join(_LEVELS)}")
    if log_format not in (None, *FORMATS):
        raise ConfigurationError(f"--log-format {log_format!r}: must be one of {', '.join(FORMATS)}")
    if pool not in (None, *POOLS):
        raise ConfigurationError(f"--pool {pool!r}: must be one of {', '.join(POOLS)}")
    # stbass.app reads its settings when it is imported, so they must be set before.
    if pool is not None:
        os.environ["STBASS_POOL"] = pool
    if grace is not None:
        os.environ["STBASS_GRACE"] = str(grace)
    if log_format is not None:
        os.environ["STBASS_LOG_FORMAT"] = log_format
    if metrics_port is not None:
        from stbass.cli.metrics import serve_metrics, tell_queues

        # Before the application is loaded, so that what it counts is among them.
        serve_metrics(metrics_port)
    application = load_application(app)
    use_pool(application)
    if functions:
        application.conf.stbass_functions = [*(application.conf.get("stbass_functions") or ()), *functions]
    settings = fleet_of(application).settings
    if not set(functions) <= set(settings.functions):
        raise ConfigurationError(
            f"--functions: the application {app!r} has read its settings already; set stbass_functions in it"
        )
    if grace is not None and settings.grace != grace:
        raise ConfigurationError(f"--grace: the application {app!r} does not read STBASS_GRACE; set stbass_grace in it")
    if log_format is not None:
        application.conf.stbass_log_format = log_format
    arguments = ["--quiet", "worker", "-Q", ",".join(endpoints), "-l", log_level.upper()]
    arguments += ["--without-gossip", "--without-mingle"]
    if name is not None:
        arguments += ["-n", name]
    if concurrency is not None:
        arguments += ["-c", str(concurrency)]
    if include:
        arguments += ["-I", ",".join(include)]
    for module in functions:
        import_named(application, "--functions", module)
    known = known_to(application, include)
    limit = concurrency or application.conf.worker_concurrency or os.cpu_count()
    if metrics_port is not None:
        tell_queues(settings, endpoints)
    say = sys.stderr.write
    say(f"worker of {app} at {settings.broker or application.connection().as_uri()}\n")
    say(f"  consumes  {', '.join(endpoints)}; at most {limit} at once\n")
    if metrics_port is not None and application.conf.worker_pool == POOLS["prefork"]:
        say(f"  metrics   of queues alone: {_NOT_COUNTED}\n")
    say("  knows     " + ("\n            ".join(known) or "no process: name modules with --include") + "\n")
    if settings.functions:
        say(f"  calls     the functions of {', '.join(settings.functions)}\n")
    sys.stderr.flush()
    application.worker_main(arguments)


def use_pool(application: Any) -> None:
    """Have the application's workers use the pool that ``STBASS_POOL`` names, whatever pool its own workers have.

    Raises:
        ConfigurationError: there is no such pool.
    """
    name = os.environ.get("STBASS_POOL", "").strip() or "asyncio"
    if name not in POOLS:
        raise ConfigurationError(f"STBASS_POOL={name!r}: must be one of {', '.join(POOLS)}")
    conf = application.conf
    if name == "asyncio":
        conf.worker_concurrency = conf.worker_concurrency or ASYNCIO_CONCURRENCY
    elif conf.worker_pool == POOLS["asyncio"] and conf.worker_concurrency == ASYNCIO_CONCURRENCY:
        conf.worker_concurrency = None  # so many are meant for one event loop
    conf.worker_pool = POOLS[name]


def known_to(application: Any, include: Sequence[str]) -> list[str]:
    """The processes that a worker of the application knows, as ``module:name``; imports their modules.

    Raises:
        ConfigurationError: a module cannot be imported.
    """
    for module in include:
        import_named(application, "--include", module)
    application.loader.import_default_modules()
    modules = (*included(application.conf), *include)
    return [reference for reference in sorted(known_processes()) if _is_in(reference, modules)]


def _is_in(reference: str, modules: tuple[str, ...]) -> bool:
    module = reference.partition(":")[0]
    return any(module == name or module.startswith(f"{name}.") for name in modules)
