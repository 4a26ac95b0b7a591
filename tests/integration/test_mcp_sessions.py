"""Sessions with MCP servers that last: shared by calls, replaced when lost, closed when idle, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from stbass import PLACED_PAR, Placement, observe
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.threads import ThreadBackend
from stbass.errors import MCPConnectionError, MCPError, MCPTimeoutError, MCPToolError
from stbass.mcp import MCPProcess, MCPServer
from stbass.process import ProcessContext
from stbass.result import ProcessResult
from stbass.testing import RedisServer, Worker
from tests.support.backends import registry_of
from tests.support.mcp_server import serving
from tests.support.mcp_stdio import pids, probe_address
from tests.support.waiting import until

pytestmark = pytest.mark.slow

LONG = 60.0


async def run(process: MCPProcess) -> ProcessResult:
    async with asyncio.timeout(120):
        return await process.execute(ProcessContext(process.name))


async def until_gone(*numbers: int) -> None:
    """Wait until these processes have ended: without asking again and again, by a descriptor that becomes readable."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        for number in numbers:
            try:
                descriptor = os.pidfd_open(number)
            except ProcessLookupError:
                continue
            gone = asyncio.Event()
            loop.add_reader(descriptor, gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)


@contextmanager
def progress() -> Iterator[asyncio.Queue[str]]:
    """The notes of the progress that processes tell of."""
    told: asyncio.Queue[str] = asyncio.Queue()

    def look(event: observe.Event) -> None:
        if event.kind == "progress":
            told.put_nowait(event.note)

    with observe.subscribe(look):
        yield told


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the servers of a test write their process ids."""
    return tmp_path / "started"


@pytest.fixture(autouse=True)
async def _all_closed(log: Path) -> AsyncIterator[None]:
    """Every server that was started has ended when its loop has; here at the latest."""
    yield
    for task in asyncio.all_tasks():
        if task.get_name().startswith("mcp "):
            task.cancel()
    await until_gone(*pids(log))


# Sharing -----------------------------------------------------------------------------------------


async def test_twenty_calls_start_one_server(log: Path) -> None:
    server = MCPServer(probe_address(log))
    for number in range(20):
        assert (await run(server.tool("echo", LONG).with_arguments(text=str(number)))).value == str(number)
    assert len(pids(log)) == 1


async def test_calls_at_the_same_moment_share_one_start(log: Path) -> None:
    server = MCPServer(probe_address(log))
    results = await asyncio.gather(*(run(server.tool("echo", LONG).with_arguments(text="a")) for _ in range(10)))
    assert [result.value for result in results] == ["a"] * 10
    assert len(pids(log)) == 1


async def test_a_call_with_a_session_of_its_own_starts_a_server_and_ends_it(log: Path) -> None:
    server = MCPServer(probe_address(log), keep=0)
    for _ in range(2):
        assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
        assert not [number for number in pids(log) if psutil.pid_exists(number)]
    assert len(pids(log)) == 2


async def test_other_headers_are_another_session() -> None:
    with serving("http") as at:
        for token in ("Bearer one", "Bearer two", "Bearer one"):
            tool = MCPServer(at.url, headers={"Authorization": token}).tool("header")
            assert (await run(tool.with_arguments(name="authorization"))).value == {"result": token}


@pytest.mark.parametrize("transport", ["http", pytest.param("sse", marks=pytest.mark.slow)])
async def test_calls_over_one_session_go_on_at_once(transport: str) -> None:
    with serving(transport) as at:
        server = MCPServer(at.url)
        await server.tools()
        results = await asyncio.gather(*(run(server.tool("meet", LONG).with_arguments(parties=5)) for _ in range(5)))
    assert [result.value for result in results] == [{"result": 5}] * 5


# Losing ------------------------------------------------------------------------------------------


async def test_a_server_that_was_killed_between_calls_is_started_again(log: Path) -> None:
    server = MCPServer(probe_address(log))
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
    [number] = pids(log)
    os.kill(number, signal.SIGKILL)
    await until_gone(number)
    assert (await run(server.tool("echo", LONG).with_arguments(text="b"))).value == "b"
    assert len(pids(log)) == 2


@pytest.mark.parametrize("transport", ["http", "legacy", "sse"])
async def test_a_server_over_http_that_was_started_again_between_calls_gets_a_new_session(transport: str) -> None:
    options = ["--legacy"] if transport == "legacy" else []
    kind = "http" if transport == "legacy" else transport
    with serving(kind, *options) as first:
        server = MCPServer(first.url)
        assert (await run(server.tool("add").with_arguments(a=1, b=2))).value == {"result": 3}
        first.kill()
        with serving(kind, *options, "--port", str(first.port)):
            assert (await run(server.tool("add").with_arguments(a=1, b=3))).value == {"result": 4}


async def test_a_call_during_which_the_server_is_killed_fails_and_is_not_made_again(log: Path) -> None:
    server = MCPServer(probe_address(log))
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
    error = (await run(server.tool("die", LONG))).failure.error
    assert isinstance(error, MCPConnectionError)
    assert "whether the tool did its work is not known, so it was not called again" in str(error)
    assert len(pids(log)) == 1
    assert (await run(server.tool("echo", LONG).with_arguments(text="b"))).value == "b"
    assert len(pids(log)) == 2


async def test_a_start_that_fails_is_told_to_all_who_wait_and_is_tried_again_by_the_next(log: Path) -> None:
    server = MCPServer(probe_address(log, "die"))
    results = await asyncio.gather(*(run(server.tool(name, LONG)) for name in ("one", "two", "three")))
    assert len(pids(log)) == 1
    for name, result in zip(("one", "two", "three"), results, strict=True):
        assert isinstance(result.failure.error, MCPConnectionError)
        assert str(result.failure.error).startswith(f"tool {name!r} on stdio:")
    assert not (await run(server.tool("four", LONG))).is_ok
    assert len(pids(log)) == 2


# Closing -----------------------------------------------------------------------------------------


async def test_an_idle_session_is_closed_and_the_next_call_gets_another(log: Path) -> None:
    server = MCPServer(probe_address(log), keep=0.05)
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
    await until_gone(*pids(log))
    assert (await run(server.tool("echo", LONG).with_arguments(text="b"))).value == "b"
    assert len(pids(log)) == 2


async def test_a_session_in_use_is_not_idle(log: Path) -> None:
    server = MCPServer(probe_address(log), keep=0.05)
    with progress() as told:
        waiting = asyncio.create_task(run(server.tool("hold", LONG)))
        async with asyncio.timeout(60):
            await told.get()
        for _ in range(3):
            assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
        assert (await run(server.tool("release", LONG))).is_ok
        assert (await waiting).value == "released"
    assert len(pids(log)) == 1


async def test_a_cancelled_call_takes_its_session_out_of_use_and_leaves_the_others_calls_alone(log: Path) -> None:
    # Given two calls over one session
    server = MCPServer(probe_address(log))
    with progress() as told:
        other, given_up = (asyncio.create_task(run(server.tool("hold", LONG))) for _ in range(2))
        async with asyncio.timeout(60):
            await told.get()
            await told.get()
        # When
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    # Then the next call has another, and the other call goes on
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).value == "a"
    first, second = pids(log)
    assert psutil.pid_exists(first)
    assert not other.done()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert not psutil.pid_exists(first)
    assert psutil.pid_exists(second)


async def test_a_call_that_timed_out_takes_its_session_out_of_use(log: Path) -> None:
    server = MCPServer(probe_address(log))
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).is_ok
    assert isinstance((await run(server.tool("hold", 0.5))).failure.error, MCPTimeoutError)
    [number] = pids(log)
    assert not psutil.pid_exists(number)
    assert (await run(server.tool("echo", LONG).with_arguments(text="b"))).value == "b"


async def test_one_who_waits_for_a_start_and_is_cancelled_does_not_end_it_for_the_others(log: Path) -> None:
    server = MCPServer(probe_address(log))
    first, second = (asyncio.create_task(run(server.tool("echo", LONG).with_arguments(text="a"))) for _ in range(2))
    for _ in range(20):
        await asyncio.sleep(0)
    first.cancel()
    assert (await second).value == "a"
    assert len(pids(log)) == 1


def test_the_end_of_the_loop_leaves_no_server(log: Path) -> None:
    result = asyncio.run(run(MCPServer(probe_address(log)).tool("echo", LONG).with_arguments(text="a")))
    assert result.value == "a"
    assert not [number for number in pids(log) if psutil.pid_exists(number)]


async def test_a_backend_of_threads_that_is_closed_leaves_no_server(log: Path) -> None:
    class Echo(MCPProcess):
        def __init__(self) -> None:
            super().__init__(probe_address(log), "echo", LONG, arguments={"text": "a"})

    async with ThreadBackend(1, name="w1") as backend:
        for _ in range(3):
            assert (await backend.execute(Echo(), ProcessContext("echo"))).value == "a"
    assert len(pids(log)) == 1
    await until_gone(*pids(log))


async def test_calls_on_a_worker_share_a_server_and_the_stop_of_the_worker_ends_it(log: Path) -> None:
    address = probe_address(log)
    with RedisServer() as redis:
        env = {"STBASS_BROKER_URL": redis.url, "STBASS_RESULT_BACKEND": redis.url, "PROBE_ADDRESS": address}
        with Worker("tests.support.worker_app", "tools", include=["stbass.mcp", "tests.support.mcp_stdio"], env=env):
            backend = CeleryBackend(make_app("tests", broker_url=redis.url))
            tool = MCPServer(address).tool("echo", LONG)
            try:
                async with asyncio.timeout(120):
                    result = await PLACED_PAR(
                        *((tool.with_arguments(text=str(n)), Placement(endpoint="tools")) for n in range(8)),
                        registry=registry_of(backend, "tools"),
                    ).run()
            finally:
                await backend.aclose()
            assert [one.value for one in result.results] == [str(n) for n in range(8)]
            [number] = pids(log)
            assert psutil.pid_exists(number)
    await until_gone(number)


# What it is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "kind"), [(-1, ValueError), (float("nan"), ValueError), ("5", TypeError)])
def test_keep_is_a_number_of_seconds(keep: Any, kind: type[Exception]) -> None:
    for make in (lambda: MCPServer("http://x/mcp", keep=keep), lambda: MCPProcess("http://x/mcp", "t", keep=keep)):
        with pytest.raises(kind, match="keep"):
            make()


# Servers that behave badly -----------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["garbage", "twice", "requests", "binary"])
async def test_noise_beside_the_answers_disturbs_nothing(log: Path, manner: str) -> None:
    server = MCPServer(probe_address(log, manner))
    for text in ("a", "b"):
        assert (await run(server.tool("echo", LONG).with_arguments(text=text))).value == text
    assert len(pids(log)) == 1


async def test_five_hundred_tools_on_many_pages(log: Path) -> None:
    server = MCPServer(probe_address(log, "pages"))
    assert len(await server.tools()) == 500
    assert (await run(server.tool("t499", LONG).with_arguments(text="a"))).value == "a"


async def test_a_listing_that_never_ends_ends(log: Path) -> None:
    server = MCPServer(probe_address(log, "endless"))
    assert len(await server.tools()) == 100


async def test_huge_content_comes_whole(log: Path) -> None:
    found = (await run(MCPServer(probe_address(log)).tool("huge", LONG))).value
    assert len(found) == 8_000_000


@pytest.mark.parametrize("tool", ["misfit", "broken"])
async def test_what_does_not_fit_is_an_error_and_not_a_value(log: Path, tool: str) -> None:
    server = MCPServer(probe_address(log))
    error = (await run(server.tool(tool, LONG))).failure.error
    assert isinstance(error, MCPError)
    assert str(error).startswith(f"tool {tool!r} on stdio:")
    assert (await run(server.tool("echo", LONG).with_arguments(text="a"))).value == "a"


async def test_a_tool_that_runs_only_as_a_task_is_run_as_one(log: Path) -> None:
    server = MCPServer(probe_address(log))
    assert (await run(server.tool("tasked", LONG).with_arguments(text="a"))).value == "task: a"
    error: Any = (await run(server.tool("tasked", LONG))).failure.error
    assert type(error) is MCPToolError
    assert "tool 'tasked' on stdio:" in str(error)
    assert "failed: task: None" in str(error)
    assert len(pids(log)) == 1


async def test_a_task_that_nobody_waits_for_is_cancelled_there(log: Path) -> None:
    told = log.with_suffix(".tasks")
    process = MCPServer(probe_address(log)).tool("tasked at length", LONG)
    running = asyncio.create_task(run(process))
    await until(told.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told.read_text() == "cancelled"
