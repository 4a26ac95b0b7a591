"""Ordinary Celery tasks as processes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import redis
from celery import Celery, group
from celery.app.task import Task
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.canvas import Signature
from celery.states import READY_STATES, REVOKED, SUCCESS

from stbass._process.sync_threads import shared_threads
from stbass._values.ids import new_id
from stbass._values.texts import text_of, type_name_of, value_text
from stbass.backends.celery.keys import FleetKeys
from stbass.backends.celery.settings import fleet_of
from stbass.errors import ConfigurationError, ProcessCancelled, RemoteError
from stbass.process import FunctionProcess, ProcessContext
from stbass.transports.redis.address import unavailable
from stbass.transports.redis.subscription import Subscription

__all__ = ["CeleryTaskProcess"]

_REVOKE_SECONDS = 2.0


class CeleryTaskProcess(FunctionProcess[..., Any]):
    """An ordinary Celery task as a process: it runs in the task's own queue, and its value is the task's result.

    It is given its arguments as a decorated function is, ``add(2, 3)``; in a sequence ``input`` fills the first that
    the task needs and that is not bound. Its name is the task's. A task that fails is a failure with its exception, and
    the worker's traceback as a note.

    Its deadline is the task's ``expires``: a worker that takes it later does not start it. When the process is
    cancelled the task is revoked; one that runs already goes on to its end, as with Celery's own ``revoke``.

    The program waits for the result without a thread where the application keeps its results in Redis; else Celery
    waits for it in a thread, for each task one.

    Args:
        task: a task, or a signature, with the arguments and options (``add.s(2).set(queue="sums")``) it has; also of a
            chain or a chord. Of a signature the first arguments of the process come first.
        name: instead of the task's.

    Raises:
        TypeError: it is neither.
        ConfigurationError: the task keeps no result to wait for.
    """

    def __init__(self, task: Task | Signature, name: str | None = None) -> None:
        if isinstance(task, group):
            raise TypeError("a group of tasks has many results: run several CeleryTaskProcess in a PAR instead")
        if not isinstance(task, (Task, Signature)):
            raise TypeError(f"CeleryTaskProcess takes a Celery task or a signature of one, got {value_text(task)}")
        signature = task.s() if isinstance(task, Task) else task
        of: Task | None = task if isinstance(task, Task) else signature.app.tasks.get(signature.task)
        if of is not None and of.ignore_result:
            raise ConfigurationError(
                f"task {of.name!r} ignores its result, so that nobody can wait for it: set ignore_result=False"
            )
        super().__init__(_caller(signature, task if isinstance(task, Task) else None), name or str(signature.task))


def _caller(signature: Signature, task: Task | None) -> Callable[..., Any]:
    async def call(ctx: ProcessContext, *args: Any, **kwargs: Any) -> Any:
        # A signature's clone puts the arguments that come later first, as a chain does.
        return await _result_of(signature.clone(args, kwargs), ctx)

    if task is not None:
        # What it takes, and not which types: those are the task's own matter.
        takes = [one.replace(annotation=one.empty) for one in inspect.signature(task.run).parameters.values()]
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY)
        call.__signature__ = inspect.Signature([context, *takes])  # type: ignore[attr-defined]
    return call


async def _result_of(signature: Signature, ctx: ProcessContext) -> Any:
    """Send it, and wait for its result.

    Raises:
        Exception: what the task has raised.
        ProcessCancelled: it was revoked.
        ConfigurationError: its application keeps no results.
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    app: Celery = signature.app
    if isinstance(app.backend, DisabledBackend):
        raise ConfigurationError(
            f"task {signature.task!r}: its application has no result_backend, so that nobody can wait for its result"
        )
    task_id = new_id()
    send = partial(signature.apply_async, task_id=task_id, expires=ctx.remaining)
    waiting = _heard_of(app, task_id, send) if isinstance(app.backend, RedisBackend) else _waited_for(send)
    try:
        meta = await waiting
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(_REVOKE_SECONDS):
                await shared_threads().call_plain(app.control.revoke, task_id)
        raise
    return _value_of(meta, str(signature.task))


class TaskResults:
    """An event loop's ear for results of an application's ordinary tasks: one subscription for all."""

    closing = False

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._address = fleet_of(app).task_address
        # Celery listens, in each thread that sends, to results of what it sends; here it need not be more than one.
        self._sender = ThreadPoolExecutor(1, "stbass-tasks")
        self._waiting: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        channel = FleetKeys(self._address).reply_channel(new_id())
        self._subscription = Subscription(self._address, channel, self._on_message, self._on_gap)

    @asynccontextmanager
    async def of(self, task_id: str) -> AsyncIterator[asyncio.Future[dict[str, Any]]]:
        """What Celery keeps of a task that has ended; whoever starts it inside of this does not miss it.

        Raises:
            BackendUnavailableError: the results cannot be reached.
        """
        key = self._app.backend.get_key_for_task(task_id).decode()
        ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[key] = task_id, ended
        try:
            try:
                await self._subscription.ready()
                await self._subscription.also({key})
            except (redis.RedisError, OSError) as error:
                raise unavailable(self._address, f"wait for the task {task_id}", error) from error
            yield ended
        finally:
            del self._waiting[key]
            # Without a connection there is no subscription either.
            with suppress(redis.RedisError, OSError):
                await self._subscription.no_longer({key})

    async def send(self, start: Callable[[], object]) -> None:
        """Send a task."""

        def sent() -> None:
            # Its handle is let go in the same thread, and so is what Celery listens to for it.
            start()

        await asyncio.get_running_loop().run_in_executor(self._sender, sent)

    async def _on_message(self, channel: str, data: bytes) -> None:
        if channel in self._waiting:
            self._take(channel, lambda backend: backend.meta_from_decoded(backend.decode(data)))

    async def _on_gap(self, first: bool) -> None:
        for key, (task_id, _) in list(self._waiting.items()) if not first else ():
            meta = await shared_threads().call_plain(lambda: self._app.backend.get_task_meta(task_id))  # noqa: B023
            self._take(key, lambda _backend: meta)  # noqa: B023

    def _take(self, key: str, read: Callable[[Any], dict[str, Any]]) -> None:
        _, ended = self._waiting.get(key, (key, None))
        if ended is None or ended.done():
            return
        try:
            meta = read(self._app.backend)
        except Exception as error:
            # Whatever decoding raises: who waits for this hears of it.
            ended.set_exception(error)
        else:
            if meta["status"] in READY_STATES:
                ended.set_result(meta)


async def _heard_of(app: Celery, task_id: str, send: Callable[[], Any]) -> dict[str, Any]:
    results: TaskResults = fleet_of(app).task_results.get(lambda: TaskResults(app))
    async with results.of(task_id) as ended:
        await results.send(send)
        return await ended


async def _waited_for(send: Callable[[], Any]) -> dict[str, Any]:
    def wait() -> dict[str, Any]:
        result = send()
        result.get(propagate=False)
        return {"status": result.state, "result": result.result, "traceback": result.traceback}

    found: dict[str, Any] = await shared_threads().call_plain(wait)
    return found


def _value_of(meta: dict[str, Any], name: str) -> Any:
    status, found = meta["status"], meta["result"]
    assert status in READY_STATES
    if status == SUCCESS:
        return found
    if status == REVOKED:
        raise ProcessCancelled(f"task {name!r} was revoked: {text_of(found, 200)}")
    error = found
    if not isinstance(error, Exception):
        error = RemoteError(f"task {name!r} failed: {text_of(found)}", type_name=type_name_of(type(found)))
    if meta.get("traceback"):
        error.add_note(f"On the worker:\n{meta['traceback']}")
    raise error
