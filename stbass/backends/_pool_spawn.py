"""The pool's handle on one worker process: it starts the process, talks to it and kills it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import signal
import socket
import weakref
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stbass._process.context import count_usage, emit_event, failure_of, frame_of, given_to, meter_of, note_sent
from stbass._values.ctrl_c import raise_ctrl_c
from stbass._values.texts import error_text, traceback_text
from stbass._values.usage import NO_USAGE
from stbass.backends._pool_protocol import LENGTH, Assignment, framed, pickled, sendable, unpickled
from stbass.backends._pool_worker import serve_pool

if TYPE_CHECKING:
    from stbass._process.context import ProcessContext
    from stbass._values.outcome import ProcessResult

__all__ = ["PoolWorker"]

_SPAWN = multiprocessing.get_context("spawn")
_alive: weakref.WeakSet[PoolWorker] = weakref.WeakSet()


class PoolWorker:
    """One Python process, and the sockets to talk to it, bound to no event loop. Make it in a thread: it blocks."""

    def __init__(self) -> None:
        self._incoming, outgoing = socket.socketpair()
        incoming, self._outgoing = socket.socketpair()
        with incoming, outgoing:
            self._process = _SPAWN.Process(target=serve_pool, args=(incoming, outgoing), name="stbass-worker")
            self._process.start()
        self._incoming.setblocking(False)
        self._outgoing.setblocking(False)
        self.name = f"process {self._process.pid}"
        self._sending: asyncio.Lock | None = None
        self._exit_code: int | None = None
        self.free = True
        """Whether it can take a process: it runs none, and no thread of an earlier one is left."""
        _alive.add(self)

    @property
    def alive(self) -> bool:
        """Whether the Python process exists."""
        return self._exit_code is None and self._process.is_alive()

    @property
    def epitaph(self) -> str:
        """How it died."""
        code = self._exit_code
        if code is not None and code < 0:
            return f"{self.name} was killed by {signal.Signals(-code).name}"
        return f"{self.name} ended with exit code {code}"

    async def converse(self, body: bytes, ctx: ProcessContext) -> ProcessResult | None:
        """Run a process; None if it was cancelled.

        Raises:
            ConnectionError: the worker is dead.
        """
        message = sendable(("run", body, _assignment(ctx)), f"the input of process {ctx.process_name!r}")
        self.free = False
        self._sending = asyncio.Lock()
        await self._send(message)
        used = NO_USAGE
        while True:
            kind, *rest = unpickled(await self._receive())
            if kind == "started":
                frame = frame_of(ctx)
                frame.started_elsewhere, frame.worker = rest[0], self.name
                emit_event(ctx, "started")
            elif kind == "checkpoint":
                ctx.checkpoint(_value(rest[0]))
            elif kind == "progress":
                ctx.progress(*rest)
            elif kind == "usage":
                count_usage(ctx, rest[0] - used)
                used = rest[0]
            elif kind == "event":
                recorder = frame_of(ctx).recorder
                if recorder is not None:
                    recorder.record(replace(rest[0], worker=self.name, value=_value(rest[1])))
            elif kind == "ended":
                self.free = True
                return _result(rest[0], ctx)
            else:
                self.free = kind == "cancelled"
                return None

    async def cancel(self) -> bool:
        """Ask it to cancel what it runs; False if it runs nothing."""
        if self._sending is None or self.free:
            return False
        with contextlib.suppress(ConnectionError):  # if it is dead, the conversation finds out
            await self._send(pickled(("cancel",), "a cancellation"))
        return True

    async def end(self, threads: Executor | None) -> None:
        """Kill it, and return when it is gone. The wait takes a thread of ``threads``, or of the event loop."""
        if self._exit_code is None:
            self.kill()
            await asyncio.get_running_loop().run_in_executor(threads, self._process.join)
            self._exit_code = self._process.exitcode
            self._process.close()

    def kill(self) -> None:
        """Kill it, and close the sockets. Nobody may be talking to it."""
        self.signal_end()
        self._incoming.close()
        self._outgoing.close()

    def signal_end(self) -> None:
        """Kill it. Whoever is talking to it gets a ``ConnectionError``."""
        self.free = False
        if self._exit_code is None:
            self._process.kill()

    async def _send(self, body: bytes) -> None:
        assert self._sending is not None
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self._outgoing, framed(body))

    async def _receive(self) -> bytes:
        head = await self._exactly(LENGTH.size)
        return await self._exactly(LENGTH.unpack(head)[0])

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        body = bytearray()
        while len(body) < count:
            part = await loop.sock_recv(self._incoming, min(count - len(body), 1 << 20))
            if not part:
                raise ConnectionError(f"{self.name} has closed its end")
            body += part
        return bytes(body)


def _assignment(ctx: ProcessContext) -> Assignment:
    frame = frame_of(ctx)
    return Assignment(
        ctx.process_name,
        ctx.process_id,
        ctx.parent,
        ctx.placement,
        ctx.remaining,
        frame.deadline_span,
        ctx.attempt,
        ctx.resumed_from,
        given_to(ctx),
        meter_of(ctx).run_id,
        None if frame.recorder is None else frame.path,
    )


def _result(body: bytes, ctx: ProcessContext) -> ProcessResult:
    try:
        result, sent = unpickled(body)
    except BaseException as error:  # a class of the user may raise anything when it is made again
        raise_ctrl_c(error)
        return failure_of(error, ctx, traceback_text(error))
    if sent is not None:
        note_sent(ctx, sent)
    made: ProcessResult = result
    return made


def _value(body: bytes) -> Any:
    try:
        return unpickled(body)
    except BaseException as error:
        raise_ctrl_c(error)
        return f"a value that cannot be read here: {error_text(error)}"


# Registered after multiprocessing.util was imported, so it runs before that module's exit handler, which joins them.
@atexit.register
def _kill_all() -> None:
    for worker in list(_alive):
        worker.signal_end()
