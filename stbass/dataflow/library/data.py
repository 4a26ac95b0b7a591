"""Components that read from and write to files, databases and the like: in chunks, off the event loop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from stbass._process.sync_threads import OneThread
from stbass.dataflow.library.fields import FieldNames, check_chunk_size, columns_of
from stbass.dataflow.library.formats import Chunk, Row
from stbass.dataflow.model.components import Component, IOController, wiring_of
from stbass.errors import DataflowError, NotInitialisedError

__all__ = ["DataReader", "DataWriter"]

R = TypeVar("R")


class _Outside(Component):
    """What readers and writers have in common: columns, chunks and a thread."""

    default_chunk_size: ClassVar[int] = 1000
    """Rows in a chunk, unless the component says otherwise."""

    def __init__(self, field_names: FieldNames, chunk_size: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._outside_columns = columns_of(type(self), field_names)
        self._outside_chunk_size = check_chunk_size(type(self), chunk_size, self.default_chunk_size)
        self._outside_thread: OneThread | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that belong to the fields, in the order of the fields."""
        return list(self._outside_columns.values())

    @property
    def chunk_size(self) -> int:
        """How many rows are read or written at a time."""
        return self._outside_chunk_size

    async def off_loop(self, function: Callable[..., R], *args: Any) -> R:
        """Call a function that may block, in the component's own thread; calls are made one after another.

        Raises:
            NotInitialisedError: the component is not between ``init`` and ``destroy``.
        """
        return await self._outside_own_thread().call(function, *args)

    def _outside_own_thread(self) -> OneThread:
        if self._outside_thread is None:
            raise NotInitialisedError(f"component {self.name!r} is not between init and destroy")
        return self._outside_thread

    async def init(self) -> None:
        """Prepare."""
        self._outside_thread = OneThread(f"stbass {self.name}")


class DataReader(_Outside, ABC):
    """A source whose rows come from outside the model. A subclass says how a chunk is read. Chunks are read off the
    event loop: while one is given out the next one is read, but no more.

    A job that is resumed opens it at the chunk in which the job stopped, and goes on after the last row given out.
    A subclass with state of its own extends :meth:`checkpoint` and :meth:`restore`.

    Args:
        field_names: the outputs, which are the columns to read; or a mapping of outputs to columns, where a column is
            called what a field cannot be.
        chunk_size: rows in a chunk, at most; None is the default of the kind, 1,000 unless it says otherwise.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a field is called what a field cannot be, or ``chunk_size`` is less than 1.
    """

    def __init__(self, field_names: FieldNames, chunk_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(field_names, chunk_size, **kwargs)
        self.io = IOController(outputs=list(self._outside_columns))
        self.__rows: Sequence[Row] = ()
        self.__given = 0
        self.__position: Any = None
        self.__following: Any = None
        self.__ahead: asyncio.Future[Chunk | None] | None = None

    @abstractmethod
    def open_source(self, position: Any) -> Any:
        """Open it, at a position that :meth:`read_rows` gave, or at the beginning if that is None. May block.

        Returns:
            That position: None, or plain data.
        """

    @abstractmethod
    def read_rows(self) -> Chunk | None:
        """Read the next rows, in the order of :attr:`columns`; None if there are no more. May block."""

    def close_source(self) -> None:
        """Close it, also if opening it failed. May block; idempotent."""

    async def init(self) -> None:
        """Open the source and read the first chunk, so that what is wrong shows before the first step."""
        await super().init()
        await self.__go_to(None, 0)

    async def step(self) -> None:
        """Give out the next row; close if there are no more."""
        while self.__given == len(self.__rows):
            if not await self.__next_chunk():
                await self.io.close()
                return
        wiring_of(self).out.update(zip(self._outside_columns, self.__rows[self.__given], strict=True))
        self.__given += 1

    async def destroy(self) -> None:
        """Close the source."""
        thread, self._outside_thread, self.__ahead = self._outside_thread, None, None
        if thread is not None:
            try:
                await thread.call(self.close_source)
            finally:
                thread.end()

    def checkpoint(self) -> dict[str, Any]:
        """Where it is."""
        return {"position": self.__position, "given": self.__given}

    async def restore(self, state: Any) -> None:
        """Go back to a checkpoint."""
        await self.off_loop(self.close_source)
        await self.__go_to(state["position"], state["given"])

    async def __go_to(self, position: Any, given: int) -> None:
        self.__rows, self.__given, self.__ahead = (), 0, None
        self.__following = await self.off_loop(self.open_source, position)
        self.__position = self.__following
        await self.__next_chunk()
        if given > len(self.__rows):
            raise DataflowError(
                f"component {self.name!r}: {given} rows were read from {self.__position}, and now there are "
                f"{len(self.__rows)}: what it reads from was changed"
            )
        self.__given = given

    async def __next_chunk(self) -> bool:
        """Take the next chunk and begin to read the one after it. False if there is none."""
        ahead = self.__ahead or self._outside_own_thread().begin(self.read_rows)
        # Kept while it is waited for, so that a step that is cancelled loses no rows.
        self.__ahead = ahead
        chunk = await asyncio.shield(ahead)
        self.__rows, self.__given, self.__position = (), 0, self.__following
        if chunk is None:
            return False
        self.__rows, self.__following = chunk.rows, chunk.following
        self.__ahead = self._outside_own_thread().begin(self.read_rows)
        return True


class DataWriter(_Outside, ABC):
    """A sink whose rows leave the model. A subclass says how rows are written. They are written off the event loop:
    while a chunk is written the next one is gathered, but no more.

    So that a job can be resumed, a subclass says with :meth:`mark_target` how to come back to what is written now. One
    that cannot come back writes the rows since the last checkpoint again. A subclass with state of its own extends
    :meth:`checkpoint` and :meth:`restore`.

    Args:
        field_names: the inputs, which are the columns to write; or a mapping of inputs to columns, where a column is
            called what a field cannot be.
        chunk_size: rows in a chunk; None is the default of the kind, 1,000 unless it says otherwise.
        **kwargs: as of :class:`~stbass.dataflow.Component`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a field is called what a field cannot be, or ``chunk_size`` is less than 1.
    """

    whole_chunks: bool = False
    """Whether a checkpoint keeps the rows of a chunk that is not full, instead of writing them."""

    def __init__(self, field_names: FieldNames, chunk_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(field_names, chunk_size, **kwargs)
        self.io = IOController(inputs=list(self._outside_columns))
        self._target_rows: list[Row] = []
        self._target_opened = False
        self._target_finished = False
        self._target_failed = self._target_published = False
        self._target_writing: asyncio.Future[None] | None = None

    def check_target(self) -> None:
        """Raise an error if it cannot be written to, as far as that shows without a change. May block."""

    @abstractmethod
    def open_target(self, mark: Any) -> None:
        """Open it: afresh if the mark is None, else as it was when :meth:`mark_target` gave that mark. May block."""

    @abstractmethod
    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write rows, whose values are in the order of :attr:`columns`. May block."""

    def mark_target(self) -> Any:
        """Make durable what was written, and say how to come back to it, as plain data. May block."""

    def finish_target(self) -> None:
        """Complete it: all rows have been written. May block."""

    def publish_target(self) -> None:
        """Put what was written in its place: the whole run has ended well. Idempotent; may block.

        Not called for a run that fails, is cancelled or interrupted. Of a job that goes on from its last checkpoint,
        it is called when the last one is safe, and again if the job dies at that very moment.
        """

    def abandon_target(self) -> None:
        """Remove what was written: the run has failed, and nobody will go on with it. May block."""

    def close_target(self) -> None:
        """Close it. May block; idempotent."""

    async def init(self) -> None:
        """Check that it can be written to; nothing is changed yet."""
        await super().init()
        wiring_of(self).at_good_end = self._target_publish
        await self.off_loop(self.check_target)

    async def step(self) -> None:
        """Take a row; write a chunk when there is one."""
        values = self.__dict__
        self._target_rows.append(tuple([values[name] for name in self._outside_columns]))
        if len(self._target_rows) >= self._outside_chunk_size:
            await self._target_begin_to_write()

    async def run(self) -> None:
        """Take rows until no more come, and write what is left."""
        await super().run()
        if self.io.is_closed or not self.is_resumable:
            await self._target_finish()
        # Else it was stopped, and will be resumed.

    async def destroy(self) -> None:
        """Write what is left, unless the run has failed or can be gone on with at its last checkpoint, and close."""
        thread = self._outside_thread
        if thread is None:
            return
        try:
            if self._target_opened or self._target_rows:
                await self._target_leave()
        finally:
            try:
                await thread.call(self.close_target)
            finally:
                self._outside_thread = None
                thread.end()

    async def checkpoint(self) -> dict[str, Any]:
        """Where it is."""
        if self._target_finished:
            return {"finished": True}
        await self._target_open()
        await self._target_written()
        if not self.whole_chunks:
            await self._target_write()
        mark = await self.off_loop(self.mark_target)
        return {"finished": False, "mark": mark, "rows": list(self._target_rows)}

    async def restore(self, state: Any) -> None:
        """Go back to a checkpoint."""
        self._target_finished = state["finished"]
        if self._target_finished:
            return
        self._target_rows, self._target_writing, self._target_opened = list(state["rows"]), None, True
        await self.off_loop(self.open_target, state["mark"])

    @property
    def is_resumable(self) -> bool:
        """Whether the process's state outlives it, so that a job can be resumed at its last checkpoint."""
        return wiring_of(self).job is not None

    async def _target_leave(self) -> None:
        if self.is_resumable or self._target_published:
            return
        if self._target_failed or wiring_of(self).run_failed:
            await self.off_loop(self.abandon_target)
        else:
            await self._target_publish()

    async def _target_publish(self) -> None:
        await self._target_finish()
        try:
            await self.off_loop(self.publish_target)
        except Exception:
            self._target_failed = True
            raise
        self._target_published = True

    async def _target_finish(self) -> None:
        if self._target_finished:
            return
        await self._target_open()
        await self._target_written()
        await self._target_write()
        try:
            await self.off_loop(self.finish_target)
        except Exception:
            self._target_failed = True
            raise
        self._target_finished = True

    async def _target_open(self) -> None:
        if not self._target_opened:
            try:
                await self.off_loop(self.open_target, None)
            except Exception:
                self._target_failed = True
                raise
            self._target_opened = True

    async def _target_begin_to_write(self) -> None:
        """Begin to write the rows gathered so far: one chunk is written while the next is gathered."""
        await self._target_open()
        await self._target_written()
        if self._target_rows:
            rows, self._target_rows = self._target_rows, []
            self._target_writing = self._outside_own_thread().begin(partial(self.write_rows, rows))

    async def _target_write(self) -> None:
        await self._target_begin_to_write()
        await self._target_written()

    async def _target_written(self) -> None:
        """Wait until the rows that are being written are written; raises the error of that."""
        if self._target_writing is None:
            return
        try:
            await asyncio.shield(self._target_writing)
        except Exception:
            self._target_failed = True
            raise
        self._target_writing = None
