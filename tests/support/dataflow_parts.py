"""Components for the tests of readers and writers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stbass.dataflow import AsyncioConnector, Component, Connector, ConnectorSpec, IOController, LocalProcess
from stbass.dataflow.library import DataReader, DataWriter


class Rows(Component):
    """A source of the rows that it is given."""

    def __init__(self, fields: Sequence[str], rows: Iterable[Sequence[Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.io = IOController(outputs=fields)
        self.fields = list(fields)
        self.rows = [list(row) for row in rows]
        self.given = 0

    async def step(self) -> None:
        """Give out the next one."""
        if self.given == len(self.rows):
            await self.io.close()
            return
        for field, value in zip(self.fields, self.rows[self.given], strict=True):
            setattr(self, field, value)
        self.given += 1


class Collect(Component):
    """A sink that keeps the rows that it gets."""

    exports = ["got"]  # noqa: RUF012

    def __init__(self, fields: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.io = IOController(inputs=fields)
        self.fields = list(fields)
        self.got: list[tuple[Any, ...]] = []

    async def step(self) -> None:
        """Keep it."""
        self.got.append(tuple(getattr(self, field) for field in self.fields))


def connected(source: Component, target: Component) -> list[Connector]:
    """Connectors for the fields that both have."""
    return [
        AsyncioConnector(ConnectorSpec(source=f"{source.name}.{field}", target=f"{target.name}.{field}"))
        for field in source.io.outputs
        if field in target.io.inputs
    ]


def reading(reader: DataReader) -> tuple[LocalProcess, Collect]:
    """A process that collects what a reader gives out."""
    collect = Collect(reader.io.outputs, name="collect")
    return LocalProcess([reader, collect], connected(reader, collect)), collect


async def read_all(reader: DataReader) -> list[tuple[Any, ...]]:
    """What a reader gives out."""
    process, collect = reading(reader)
    async with process:
        await process.run()
    return collect.got


async def write_all(writer: DataWriter, rows: Iterable[Sequence[Any]]) -> None:
    """Give rows to a writer, to the end."""
    source = Rows(writer.io.inputs, rows, name="source")
    async with LocalProcess([source, writer], connected(source, writer)) as process:
        await process.run()
