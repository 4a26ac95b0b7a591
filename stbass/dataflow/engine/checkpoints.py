"""When checkpoints of a process are taken, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from logging import getLogger
from time import monotonic
from typing import Any

from stbass._channels.cancellation import is_being_cancelled
from stbass.dataflow.state.base import StateBackend
from stbass.errors import JobFinishedError, ProcessCancelled, StateError, StateUnavailable
from stbass.wire import dumps, loads

__all__ = ["Checkpoints", "members_of"]

_log = getLogger(__name__)

_ABOUT = "."
"""The part of a checkpoint that is about the process itself; no component can be called so."""


class Checkpoints:
    """Takes checkpoints one after the other, and never two at once.

    Args:
        state: where they go.
        every: seconds between two; None: only before the first step, and when somebody asks.
        process: the process's name.
        request: begins the checkpoint of this number; its parts come by :meth:`add`.
        committed: called when the checkpoint of this number will not be lost.
    """

    def __init__(
        self,
        state: StateBackend,
        every: float | None,
        process: str,
        request: Callable[[int], None],
        committed: Callable[[int], Awaitable[None]],
    ) -> None:
        self.state = state
        self.names_before: list[str] = []
        """The names of the process in the earlier runs of this job."""
        self.missed: list[StateUnavailable] = []
        """Why checkpoints of this run were left out: the state could not be used."""
        self._every = every
        self._process = process
        self._request = request
        self._committed = committed
        self._components: frozenset[str] = frozenset()
        self._taking: asyncio.Future[None] | None = None
        self._parts: dict[str, bytes] = {}
        self._n = 0
        self._last: float | None = None
        self._turn = asyncio.Lock()
        self._scope: asyncio.Timeout | None = None
        """A checkpoint that is taken while nothing else runs, so that who waits for it waits for nothing else."""

    def reset(self) -> None:
        """Start with another job, which has no checkpoint yet."""
        self._n = 0
        self._last = None
        self.names_before = []
        self.missed = []

    def close(self) -> None:
        """Stop waiting for parts."""
        if self._taking is not None and not self._taking.done():
            self._taking.cancel()

    def cancel(self) -> None:
        """End a checkpoint that is taken while nothing else runs: :meth:`take` raises :class:`ProcessCancelled`."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.reschedule(asyncio.get_running_loop().time())

    async def load(self, components: Collection[str]) -> Mapping[str, bytes] | None:
        """The parts of the last checkpoint of the job, by component; None: it has none.

        Raises:
            JobFinishedError: the job has run to its end.
            StateError: it is of another process than this.
        """
        self._components = frozenset(components)
        found = await self.state.load_checkpoint()
        if found is None:
            return None
        self._n, parts = found
        about = loads(parts.pop(_ABOUT), what="checkpoint")
        if about["over"]:
            raise self.finished()
        missing, unknown = sorted(self._components - parts.keys()), sorted(parts.keys() - self._components)
        if missing or unknown:
            raise StateError(
                f"the checkpoint of job {self.state.job_id} is of a process with other components: "
                f"without {missing}, and with {unknown}. Use the process that the job was started with, or another job"
            )
        self.names_before = [name for name in about["names"] if name != self._process]
        self._last = monotonic()
        return parts

    # Taking one ---------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether checkpoints are taken at all."""
        return self.state.durable

    async def around(self, work: Callable[[], Awaitable[None]], *, timed: bool) -> None:
        """Do the work, and take checkpoints meanwhile.

        Raises:
            BaseException: what the work raises; an ExceptionGroup if a checkpoint cannot be taken.
        """
        if self.wanted and self._last is None:
            await self._apart(
                self._try_to_take
            )  # what cannot be saved is better known before the first step than after an hour
        if not self.wanted or self._every is None or not timed:
            await work()
            return
        over = asyncio.Event()
        doing = asyncio.ensure_future(work())
        saving = asyncio.ensure_future(self._keep_taking(self._every, over))
        saving.add_done_callback(lambda task: doing.cancel() if _has_failed(task) else None)
        try:
            await doing
        except BaseException as error:
            saving.cancel()
            await asyncio.wait((saving,))
            # Where a group is lost both fail, and the work knows more.
            if not _has_failed(saving) or not isinstance(error, asyncio.CancelledError) or is_being_cancelled():
                raise
        over.set()
        try:
            await self._apart(lambda: saving)
        except ProcessCancelled:
            raise
        except Exception as error:
            raise ExceptionGroup("a checkpoint could not be taken", members_of(error)) from None

    async def _keep_taking(self, every: float, over: asyncio.Event) -> None:
        while True:
            try:
                async with asyncio.timeout(every):
                    await over.wait()
                return
            except TimeoutError:
                await self._try_to_take()

    async def _try_to_take(self) -> None:
        """Take one; if the state cannot be used for longer than it waits, the next one counts."""
        try:
            await self._take()
        except StateUnavailable as error:
            self._last = monotonic()
            self.missed.append(error)
            _log.warning(
                "process %r: checkpoint %d is left out, the next one counts: %s", self._process, self._n, error
            )

    async def take_if_due(self, now: float) -> None:
        """Take one if the last was long enough ago."""
        if self._every is not None and self._last is not None and now - self._last >= self._every:
            await self._apart(self._try_to_take)

    async def take(self) -> None:
        """Take a checkpoint, save it, and tell the components; does nothing if the state does not last.

        Raises:
            CheckpointError: something in it cannot be saved.
            StateError: it could not be saved.
            ProcessCancelled: :meth:`cancel` was called.
        """
        await self._apart(self._take)

    async def _apart(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this in a way that :meth:`cancel` can end."""
        if not self.wanted:
            return
        async with self._turn:
            scope = self._scope = asyncio.timeout(None)
            try:
                async with scope:
                    await work()
            except TimeoutError:
                if not scope.expired():
                    raise
                raise ProcessCancelled(f"process {self._process!r} was cancelled") from None
            finally:
                self._scope = None

    async def _take(self) -> None:
        self._n += 1
        self._parts = {}
        self._taking = asyncio.get_running_loop().create_future()
        self._request(self._n)
        await self._taking
        await self._save()
        self._last = monotonic()
        await self._committed(self._n)

    async def take_last(self, after: Callable[[], Awaitable[None]]) -> None:
        """Take one, of a process that has run to its end; do what follows it; then note that the job is over.

        Args:
            after: what is done once the checkpoint is safe; also if the state does not last, and there is none.

        Raises:
            CheckpointError: something in it cannot be saved.
            StateError: it could not be saved.
            ProcessCancelled: :meth:`cancel` was called.
        """
        if self.wanted:
            await self._apart(lambda: self._take_last(after))
        else:
            await after()

    async def _take_last(self, after: Callable[[], Awaitable[None]]) -> None:
        await self._take()
        await after()
        # Only now: what components do when the last one is safe belongs to the job, too.
        await self._save(over=True)

    async def _save(self, *, over: bool = False) -> None:
        about = dumps({"names": [*self.names_before, self._process], "over": over})
        await self.state.save_checkpoint(self._n, {_ABOUT: about, **self._parts})

    def finished(self) -> JobFinishedError:
        """The error of a job that has run to its end."""
        return JobFinishedError(
            f"process {self._process!r}: job {self.state.job_id} has run to its end. For another run use another job "
            f"id; or leave `async with` and enter it again",
            job_id=self.state.job_id,
        )

    def add(self, n: int, parts: Mapping[str, bytes]) -> None:
        """Parts of checkpoint ``n`` have come."""
        if n != self._n or self._taking is None or self._taking.done():
            return
        self._parts.update(parts)
        if self._components <= self._parts.keys():
            self._taking.set_result(None)

    def failed(self, n: int, error: Exception) -> None:
        """Checkpoint ``n`` cannot be taken."""
        if n == self._n and self._taking is not None and not self._taking.done():
            self._taking.set_exception(error)


def members_of(error: BaseException) -> Sequence[Any]:
    """The errors in a group; of any other error itself."""
    return error.exceptions if isinstance(error, BaseExceptionGroup) else [error]


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
