"""A fleet in memory: for tests of programs that place processes, without Redis and without workers."""

from __future__ import annotations

from stbass._engine.local import LocalBackend
from stbass._process.context import Composable, ProcessContext
from stbass._values.outcome import ProcessResult
from stbass.wire import dumps, load_result, result_or_failure

__all__ = ["MemoryBackend"]


class MemoryBackend(LocalBackend):
    """Runs processes on the caller's event loop, and finds what would not reach a fleet.

    A process that could not be sent, because it is defined in a function or in the script itself or is given what
    cannot travel, is refused as a fleet does it. One with bound channels is not looked at. A result goes through the
    same bytes as that of a worker, so that whoever has it has a copy, and one that cannot travel is a failure.

    Args:
        concurrency_limit: how many may run at once; None: any number.
        name: for people.
    """

    def __init__(self, concurrency_limit: int | None = None, *, name: str = "memory") -> None:
        super().__init__(concurrency_limit, name=name)
        self.results: list[ProcessResult] = []
        """What came of the processes that ran here, in the order in which they ended; ``result.run`` says which."""

    def check(self, process: Composable, ctx: ProcessContext) -> None:
        """Refuse what a fleet would.

        Raises:
            NotTransportable: it cannot be sent.
        """
        if not process.bound_channels:
            dumps(process, what=f"process {process.name!r}", processes=True)

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Run it here."""
        result = load_result(result_or_failure(await process.execute(ctx)))
        self.results.append(result)
        return result
