"""One suite, every backend on this machine. The fleet runs the same from the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stbass import ExecutionBackend, LocalBackend, ProcessResult
from stbass._process.context import ProcessContext
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.testing import MemoryBackend, check_backend
from stbass.testing.backends import BACKEND_CHECKS

BACKENDS: dict[str, Callable[[], Any]] = {
    "local": LocalBackend,
    "local, one at a time": lambda: LocalBackend(1),
    "memory": MemoryBackend,
    "threads": lambda: ThreadBackend(2),
    "one thread, one at a time": lambda: ThreadBackend(1, concurrency_limit=1),
    "processes": lambda: ProcessPoolBackend(2),
}


@pytest.mark.parametrize("check", BACKEND_CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_backend(backend: str, check: str) -> None:
    await check_backend(BACKENDS[backend], only=[check])


async def test_an_awaitable_or_a_context_manager_makes_a_backend() -> None:
    async def make() -> ExecutionBackend:
        return LocalBackend()

    await check_backend(make, only=["values_come_back"])
    await check_backend(lambda: ThreadBackend(1), only=["values_come_back"])


class Broken(LocalBackend):
    """Does one thing wrong."""

    def __init__(self, fault: str) -> None:
        super().__init__(2 if fault == "limit" else None)
        self.enforces_limit = fault == "limit"
        self.fault = fault

    async def health_check(self) -> bool:
        return self.fault != "health"

    async def execute(self, process: Any, ctx: ProcessContext) -> ProcessResult:
        if self.fault == "context":
            ctx = ProcessContext(ctx.process_name, ctx.process_id)
        result = await process.execute(ctx)
        if self.fault == "value" and result.is_ok:
            return ProcessResult.ok(str(result.value))
        if self.fault == "error" and result.is_fail:
            return ProcessResult.fail(RuntimeError(str(result.failure.error)))
        return result  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("health", "describes_itself"),
        ("value", "values_come_back"),
        ("error", "exceptions_are_failures"),
        ("context", "context_arrives"),
        ("limit", "limit_is_kept"),
    ],
)
async def test_a_fault_is_found(fault: str, check: str) -> None:
    with pytest.raises(ExceptionGroup, match=check) as found:
        await check_backend(lambda: Broken(fault), only=[check])
    (error,) = found.value.exceptions
    assert isinstance(error, AssertionError)
    assert str(error).startswith(check)


async def test_a_backend_that_hangs_is_found() -> None:
    class Hangs(LocalBackend):
        async def execute(self, process: Any, ctx: ProcessContext) -> ProcessResult:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(ExceptionGroup, match="values_come_back"):
        await check_backend(Hangs, only=["values_come_back"], seconds=0.1)


async def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ValueError, match="no such check: nonsense"):
        await check_backend(LocalBackend, only=["nonsense"])
