"""Processes as signatures of Celery: for its canvas and its schedules."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery, current_app
from celery.canvas import Signature

from stbass import wire
from stbass._process.context import Composable
from stbass._values.texts import shortened, value_text
from stbass.backends.celery.envelope import Called, seal_called, wired_placement
from stbass.backends.celery.settings import CALL, fleet_of
from stbass.errors import ConfigurationError

__all__ = ["signature"]

_LONGEST_NAME = 1000


def signature(
    process: Composable[Any], app: Celery | None = None, *, queue: str | None = None, **options: Any
) -> Signature:
    """A process as a signature of Celery, for a chain, a group, a chord or a schedule (``beat``).

    The process runs on a worker of the application as one that a composition has sent: with its lease, its checkpoints
    and its placements. What the task before it in a chain gives fills the first argument that it needs and that is not
    bound; the results of a chord's header do so as a list. For a deadline put a composition around it:
    ``signature(PAR(process, deadline=30))``.

    Its value is the task's result, in the form in which processes' values stand in results: what JSON has as it is.

    Args:
        process: a process or a composition.
        app: the application, made with :func:`make_app` or prepared with :func:`install`; the current one by default.
        queue: where it goes; by default the endpoint that the process is placed at, else where the application routes
            the task ``stbass.call``.
        options: of the task, as ``Signature.set`` takes them.

    Raises:
        TypeError: it is not a process, or needs more arguments than one.
        ConfigurationError: the application was not prepared.
        NotTransportable: the process cannot travel.
    """
    if not isinstance(process, Composable):
        raise TypeError(f"signature() takes a process or a composition, got {value_text(process)}")
    for lack in process.lacking():
        if len(lack.arguments) > 1:
            raise lack.error()
    found: Any = current_app._get_current_object() if app is None else app
    fleet = fleet_of(found)
    if not fleet.installed:
        raise ConfigurationError(
            f"the application {found.main!r} does not run processes: call stbass.backends.celery.install(app), and give"
            " that application to signature(process, app)"
        )
    settings = fleet.settings
    called = Called(
        shortened(process.name, _LONGEST_NAME),
        msgspec.Raw(wire.dumps(process, limit=settings.max_message_bytes, what="process")),
        wired_placement(process.placement),
    )
    where = queue or (process.placement.endpoint if process.placement is not None else None)
    return found.signature(
        CALL,
        kwargs={"process": seal_called(called, settings)},
        app=found,
        # For people: the text of the process may be long, and have arguments in it that are nobody's business.
        options={"shadow": called.name, "kwargsrepr": "{}", **({"queue": where} if where else {}), **options},
    )
