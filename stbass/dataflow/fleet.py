"""Processes on a fleet of Celery workers: each group of components is one long-lived process of the core on a worker.

Needs the extra ``celery``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from stbass._values.texts import value_text
from stbass.errors import (
    BackendUnavailableError,
    ConfigurationError,
    InvalidProcessError,
    MissingDependencyError,
    StbassError,
)

try:
    from celery import Celery
    from celery.app.utils import find_app
except ImportError as error:
    raise MissingDependencyError(
        f"CeleryProcess needs Celery ({error}): pip install 'stbass-celery[celery]'"
    ) from error

from stbass.backends.celery import CeleryBackend
from stbass.dataflow.distributed.fleet_run import FleetRun
from stbass.dataflow.distributed.group_handle import GroupHandle
from stbass.dataflow.distributed.groups import Group
from stbass.dataflow.distributed.plan import plan_of
from stbass.dataflow.distributed.process import DistributedProcess
from stbass.dataflow.model.components import Component
from stbass.dataflow.model.connector import Connector
from stbass.dataflow.state.base import StateBackend

__all__ = ["CeleryProcess"]

DEFAULT_APP = "stbass.app"
"""The application that is used if none is given: the one that stbass brings, with its settings from the environment."""


class CeleryProcess(DistributedProcess):
    """A process whose components run on the workers of a fleet.

    ::

        CeleryProcess(
            components=[…], connectors=[…], backend=CeleryBackend(app),
            placement={"read": "disk", "a": "left@anthropic", "b": "left@anthropic", "c": "right@anthropic"},
        )

    Components with the same text in ``placement`` are one group. A group runs on one event loop of one worker: what
    goes between its components stays in that worker's memory, and only what goes between groups is carried by Redis. A
    group takes a slot of its worker for as long as the process is initialised. All groups get theirs before anything of
    the components is run, or none does. A worker makes components only of classes in modules that it was told to
    include.

    A component that computes for long without awaiting anything holds up whatever else its worker runs.

    It takes what :class:`DistributedProcess` takes, with another meaning of ``placement``, and the fleet. The state is
    used here and not on workers: their parts of a checkpoint come here.

    Args:
        placement: where each component runs: the endpoint, ``"anthropic"``; or, where several groups share an endpoint,
            the name of the group before it: ``"left@anthropic"``. A component that is not named is a group by itself,
            in the application's default queue (``stbass``). With a backend that has a queue of its own everything goes
            to that one, and the texts are but names of groups.
        backend: the fleet. A group whose worker dies fails, whatever the backend says of other processes.
        app: instead of ``backend``: the Celery application, or where it is, as ``celery -A`` takes it; by default
            ``stbass.app``, the one that stbass brings.

    Raises:
        InvalidProcessError: as :class:`DistributedProcess`; or ``placement`` names no endpoint.
        TypeError: an argument is of the wrong type.
        ValueError: a number is out of range.
    """

    kind: ClassVar[str] = "celery"

    def __init__(
        self,
        components: Iterable[Component],
        connectors: Iterable[Connector],
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        state: StateBackend | None = None,
        *,
        placement: Mapping[str, str] | None = None,
        backend: CeleryBackend | None = None,
        app: Celery | str | None = None,
        admission_timeout: float = 10.0,
        checkpoint_every: float | None = 1.0,
    ) -> None:
        super().__init__(
            components, connectors, name, parameters, state, placement=placement,
            admission_timeout=admission_timeout, checkpoint_every=checkpoint_every,
        )  # fmt: skip
        if backend is not None and not isinstance(backend, CeleryBackend):
            raise TypeError(f"CeleryProcess(backend=…) takes a CeleryBackend, got {value_text(backend)}")
        if app is not None and not isinstance(app, Celery | str):
            raise TypeError(
                f"CeleryProcess(app=…) takes a Celery application or where to find it, got {value_text(app)}"
            )
        if app is not None and backend is not None:
            raise TypeError("CeleryProcess takes a backend or an app, not both: the backend has an app already")
        if not admission_timeout < 86400:
            raise ValueError(f"CeleryProcess(admission_timeout={admission_timeout}): more than 0 seconds, and bounded")
        self._app = app
        self._backend = backend
        self._fleet_run: FleetRun | None = None
        self._check_places()

    def _check_places(self) -> None:
        texts = [
            f"placement: component {one!r} is placed in {place!r}, which names no endpoint"
            for one, place in self.placement.items()
            if not _endpoint_of(place)
        ]
        if texts:
            raise InvalidProcessError("\n".join(["the process cannot be placed:", *texts]), findings=tuple(texts))

    @property
    def backend(self) -> CeleryBackend:
        """The fleet that it runs on.

        Raises:
            ConfigurationError: the application that was named cannot be loaded, or is none of a fleet.
        """
        if self._backend is None:
            self._backend = CeleryBackend(_loaded(self._app))
        return self._backend

    async def _place(self, groups: Sequence[Group]) -> Sequence[GroupHandle]:
        backend = self.backend
        run = self._fleet_run = FleetRun(
            self.name,
            backend,
            groups,
            {one.name: plan_of(one, self.parameters).decode() for one in groups},
            {one.name: self._endpoint(one.name, backend) for one in groups},
            self,
            self.state.job_id if self.state.durable else None,
            self.admission_timeout,
        )
        try:
            await run.begin()
        except BaseException as error:
            # At once: what was placed must not keep others out until somebody calls destroy().
            self._fleet_run = None
            try:
                await run.close(0.0)
            except StbassError as also:
                if not isinstance(error, BackendUnavailableError):
                    error.add_note(f"and what was begun could not be cleared away: {also}")
            raise
        return run.handles

    def _endpoint(self, group: str, backend: CeleryBackend) -> str:
        if backend.queue is not None:
            return backend.queue
        return _endpoint_of(group) if group in self.placement.values() else backend.default_queue

    async def _unplace(self) -> None:
        run, self._fleet_run = self._fleet_run, None
        if run is not None:
            await run.close(self.grace)


def _endpoint_of(place: str) -> str:
    """The endpoint in ``"group@endpoint"`` or ``"endpoint"``."""
    return place.partition("@")[2] if "@" in place else place


def _loaded(app: Celery | str | None) -> Celery:
    if isinstance(app, Celery):
        return app
    where = DEFAULT_APP if app is None else app
    try:
        found = find_app(where)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"CeleryProcess: there is no Celery application at {where!r} ({type(error).__name__}: {error}); give "
            f"app='module:name' as `celery -A` takes it, or backend=CeleryBackend(…)"
        ) from error
    if not isinstance(found, Celery):
        raise ConfigurationError(f"CeleryProcess: {where!r} is {value_text(found)}, not a Celery application")
    return found
