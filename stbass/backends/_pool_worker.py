"""The worker process of a :class:`stbass.backends.processes.ProcessPoolBackend`: runs one process at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from stbass._engine.stage_context import StageContext
from stbass._process.contained import execute_contained, run_on
from stbass._process.context import Composable, ProcessContext, failure_of, frame_of, sent_by
from stbass._process.meter import Meter
from stbass._process.sync_threads import shared_threads
from stbass._values.outcome import ProcessResult, utc_now
from stbass._values.texts import error_text, text_of, traceback_text, type_name_of
from stbass.backends._pool_protocol import LENGTH, Assignment, framed, pickled, unpickled
from stbass.errors import RemoteError
from stbass.observe.events import Event

__all__ = ["serve_pool"]

_ARGS: Any = vars(BaseException)["args"]  # past a property that a class has put in front of them


def serve_pool(incoming: socket.socket, outgoing: socket.socket) -> None:
    """Serve the pool until it closes its end, or is gone."""
    # Ctrl-C goes to the whole group of processes; the pool decides what becomes of a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming.setblocking(False)
    outgoing.setblocking(True)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        run_on(loop, loop.create_task(_Worker(incoming, outgoing).serve()))


class _Worker:
    """Reads the pool's messages and answers them. It is also the sink of the process that runs."""

    def __init__(self, incoming: socket.socket, outgoing: socket.socket) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = threading.Lock()
        self._threads = shared_threads()
        self._task: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self._threads)
        while (body := await self._next()) is not None:
            kind, *rest = unpickled(body)
            if kind == "run":
                self._task = loop.create_task(self._run(*rest))
                self._task.add_done_callback(self._say_cancelled)
            elif self._task is not None:
                self._task.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=1.0)
        # Not an orderly end: that would wait for threads that nobody can stop.
        os._exit(0)

    async def _next(self) -> bytes | None:
        head = await self._exactly(LENGTH.size)
        return None if head is None else await self._exactly(LENGTH.unpack(head)[0])

    async def _exactly(self, count: int) -> bytes | None:
        loop = asyncio.get_running_loop()
        body = bytearray()
        while len(body) < count:
            try:
                part = await loop.sock_recv(self._incoming, min(count - len(body), 1 << 20))
            except ConnectionError:
                return None
            if not part:
                return None
            body += part
        return bytes(body)

    async def _run(self, process_body: bytes, assignment: Assignment) -> None:
        ctx = _context(assignment)
        frame = frame_of(ctx)
        frame.sink = self
        frame.worker = f"process {os.getpid()}"
        frame.meter = Meter(run=assignment.run, tell=partial(self._send, "usage"))
        if assignment.path is not None:
            frame.path, frame.recorder = assignment.path, _Recorder(ctx.process_id, assignment.run, self._send)
        self._send("started", utc_now())
        try:
            process: Composable = unpickled(process_body)
        except BaseException as error:  # importing the module of the user may raise anything
            result = failure_of(error, ctx, traceback_text(error))
        else:
            result = await execute_contained(process, ctx)
        self._send("ended", _portable_result(ctx, result))

    def _say_cancelled(self, task: asyncio.Task[None]) -> None:
        # Here and not in the task, which may have been cancelled before its first step.
        if task.cancelled():
            self._send("unusable" if self._threads.running else "cancelled")

    def checkpoint(self, value: Any) -> None:
        """Send it to the pool at once, so that it outlives this Python process.

        Raises:
            NotTransportable: it cannot be pickled.
        """
        self._send("checkpoint", pickled(value, "a checkpoint"))

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell the pool."""
        self._send("progress", done, total, note)

    def _send(self, *message: Any) -> None:
        body = framed(pickled(message, "a message of the worker"))
        with self._sending:
            try:
                self._outgoing.sendall(body)
            except ConnectionError:
                os._exit(0)  # the pool is gone: there is nobody to work for


class _Recorder:
    """Tells the pool what it would not hear otherwise."""

    fleet: object = None

    def __init__(self, process_id: str, run_id: str, send: Callable[..., None]) -> None:
        self.run_id = run_id
        self._process_id = process_id
        self._send = send

    def record(self, event: Event) -> None:
        if event.kind == "output":
            self._send("event", replace(event, value=None), pickled(event.value, "an output"))
        elif event.process_id != self._process_id:
            result = event.result
            if result is not None:
                result = _as_text(result) if result.is_fail else ProcessResult.ok()
            self._send("event", replace(event, value=None, result=result), pickled(_portable(event.value), "an event"))

    async def room(self) -> None:
        return None

    async def flush(self) -> None:
        return None


def _context(assignment: Assignment) -> ProcessContext:
    if assignment.given is None:
        ctx = ProcessContext(assignment.process_name, None, None, assignment.parent)
    else:
        ctx = StageContext(assignment.process_name, assignment.given, None, assignment.parent)
    ctx.process_id = assignment.process_id
    ctx.placement = assignment.placement
    ctx.attempt = assignment.attempt
    ctx.resumed_from = assignment.resumed_from
    if assignment.remaining is not None:
        frame_of(ctx).limit(time.monotonic() + assignment.remaining, assignment.span)
    return ctx


def _portable_result(ctx: ProcessContext, result: ProcessResult) -> bytes:
    try:
        body = pickled((result, sent_by(ctx) or None), f"the result of process {ctx.process_name!r}")
        if result.is_fail:
            # Many exceptions can be pickled, but not unpickled.
            unpickled(body)
    except BaseException as error:
        body = pickled((_as_text(result) if result.is_fail else failure_of(error, ctx), None), "a failure")
    return body


def _as_text(result: ProcessResult) -> ProcessResult:
    """The failure with a ``RemoteError`` in place of an error that cannot leave this Python process."""
    failure = result.failure
    error = failure.error
    kind = type(error)
    remote = RemoteError(
        error_text(error),
        type_name=type_name_of(kind),
        remote_args=tuple(map(text_of, _ARGS.__get__(error))),
    )
    plain: dict[str, Any] = {"channel_state": {}, "checkpoint": _portable(failure.checkpoint)}
    return ProcessResult(False, None, replace(failure, error=remote, **plain), result.elapsed, result.run)


def _portable(value: Any) -> Any:
    try:
        unpickled(pickled(value, "a checkpoint"))
    except BaseException:  # whatever a class raises there: its text is what is left
        return text_of(value)
    return value
