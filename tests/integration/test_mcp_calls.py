"""Calling tools of real MCP servers, over every transport: what comes back, what fails and how, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from stbass import observe
from stbass.errors import (
    DeadlineExceeded,
    MCPArgumentError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MCPToolError,
    MCPUnknownToolError,
)
from stbass.mcp import MCPProcess, MCPServer
from stbass.process import ProcessContext
from stbass.result import ProcessResult
from tests.support.mcp_server import Server, serving, stdio_address
from tests.support.waiting import until

OVER_HTTP = ["http", "legacy", "sse"]
EVERYWHERE = [*OVER_HTTP, "stdio"]


@contextmanager
def started(transport: str) -> Iterator[Server | None]:
    """A server; for stdio, where every call starts its own, nothing."""
    if transport == "stdio":
        yield None
    elif transport == "legacy":
        with serving("http", "--legacy") as server:
            yield server
    else:
        with serving(transport) as server:
            yield server


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server | None]]:
    """Servers for the whole module, started when first asked for. Don't kill them: for that, start one of your own."""
    with ExitStack() as stack:
        yield lru_cache(lambda transport: stack.enter_context(started(transport)))


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server | None]) -> Server | None:
    return servers(request.param)


def address_of(server: Server | None) -> str:
    return stdio_address() if server is None else server.url


def everywhere(*transports: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("server", transports or EVERYWHERE, indirect=True)


async def call(server: Server | None, tool: str, timeout: float | None = 60.0, **arguments: Any) -> ProcessResult:
    process = MCPProcess(address_of(server), tool, timeout, keep=0).with_arguments(**arguments)
    return await process.execute(ProcessContext(tool))


@contextmanager
def first_progress() -> Iterator[asyncio.Future[str]]:
    """The note of the first progress that a process tells of."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def look(event: observe.Event) -> None:
        if event.kind == "progress" and not told.done():
            told.set_result(event.note)

    with observe.subscribe(look):
        yield told


_of_others: set[int] = set()
"""Servers that earlier modules have started for all: what those start now and then is nothing of this module's."""


def _children_of(child: psutil.Process) -> list[psutil.Process]:
    try:
        return child.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


async def held() -> tuple[set[asyncio.Task[object]], list[str], list[int]]:
    """Tasks, open files that are sockets or pipes, and child processes of this Python process.

    What is garbage is not held: Python closes generators that the mcp package left to it in tasks of the loop, and
    sockets of earlier tests, whenever it happens to collect them; so it collects them now.
    """
    gc.collect()
    closing = [task for task in asyncio.all_tasks() if type(task.get_coro()).__name__ == "async_generator_athrow"]
    if closing:
        await asyncio.wait(closing)
    files = []
    for number in os.listdir("/proc/self/fd"):
        try:
            files.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # the listing's own
    mine = [child for child in psutil.Process().children() if child.pid not in _of_others]
    children = [one.pid for child in mine for one in (child, *_children_of(child))]
    return asyncio.all_tasks(), sorted(name for name in files if name.startswith(("socket:", "pipe:"))), children


@pytest.fixture(scope="module", autouse=True)
def _quick_to_collect() -> Iterator[None]:
    """What is there before the module is not looked at each time."""
    _of_others.update(child.pid for child in psutil.Process().children())
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


# Values ------------------------------------------------------------------------------------------


@everywhere()
async def test_a_tool_is_called_with_its_arguments_and_its_value_comes_back(server: Server | None) -> None:
    # Given
    before = await held()
    # When
    result = await call(server, "describe", name="occam", tags=["a", "b"])
    # Then
    assert result.value == {"name": "occam", "tags": ["a", "b"]}
    assert await held() == before


@everywhere("http", "sse")
async def test_the_value_is_structured_content_else_the_text_else_the_parts(server: Server | None) -> None:
    assert (await call(server, "add", a=1, b=2)).value == {"result": 3}
    assert (await call(server, "shout", text="occam")).value == "OCCAM"
    assert (await call(server, "nothing")).value == []
    assert (await call(server, "album")).value == [
        {"type": "text", "text": "a pixel"},
        {"type": "image", "data": "cGl4ZWw=", "mimeType": "image/png"},
    ]


@everywhere("http")
async def test_arguments_that_have_a_json_form_are_sent_in_it(server: Server | None) -> None:
    result = await call(server, "describe", name=datetime(2025, 1, 2, 3, 4), tags={"one"})
    assert result.value == {"name": "2025-01-02T03:04:00", "tags": ["one"]}


@everywhere()
async def test_what_a_tool_tells_of_its_progress_is_the_progress_of_the_process(server: Server | None) -> None:
    # Given
    told: list[tuple[str, float | None, float | None, str]] = []

    def look(event: observe.Event) -> None:
        if event.kind == "progress":
            told.append((event.name, event.done, event.total, event.note))

    # When
    with observe.subscribe(look):
        result = await call(server, "count", to=3)
    # Then
    assert result.value == {"result": 3}
    assert sorted(told) == [("count", done, 3, f"counted {done}") for done in (1, 2, 3)]


@everywhere(*OVER_HTTP)
async def test_calls_go_on_at_once(server: Server | None) -> None:
    # Given a tool that returns only when five calls are there
    # When
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        calls = [group.create_task(call(server, "meet", parties=5)) for _ in range(5)]
    # Then
    assert [made.result().value for made in calls] == [{"result": 5}] * 5


async def test_servers_that_are_commands_run_at_once() -> None:
    before = await held()
    results = await asyncio.gather(*(call(None, "add", a=number, b=1) for number in range(3)))
    assert [result.value for result in results] == [{"result": 1}, {"result": 2}, {"result": 3}]
    assert await held() == before


async def test_a_command_gets_the_environment_of_its_address_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    monkeypatch.setenv("OURS", "secret")
    address = stdio_address("GIVEN=x y")
    # When
    given, ours = await asyncio.gather(
        MCPProcess(address, "environment", 60.0).with_arguments(name="GIVEN").execute(ProcessContext("given")),
        MCPProcess(address, "environment", 60.0).with_arguments(name="OURS").execute(ProcessContext("ours")),
    )
    # Then
    assert given.value == {"result": "x y"}
    assert ours.value == {"result": None}


async def test_headers_are_sent() -> None:
    with serving("http") as server:
        process = MCPProcess(server.url, "header", headers={"Authorization": "Bearer x"})
        result = await process.with_arguments(name="authorization").execute(ProcessContext("header"))
    assert result.value == {"result": "Bearer x"}


# Failures ----------------------------------------------------------------------------------------


def named(error: BaseException, tool: str, server: Server | None) -> None:
    """A failure names the tool and the server."""
    shown = address_of(server)
    assert isinstance(error, MCPError)
    assert (error.tool, error.server) == (tool, shown)
    assert str(error).startswith(f"tool {tool!r} on {shown}")


@everywhere()
async def test_a_tool_that_says_that_it_failed_is_a_failure(server: Server | None) -> None:
    # When
    result = await call(server, "refuse", why="no such book")
    # Then
    error = result.failure.error
    named(error, "refuse", server)
    assert type(error) is MCPToolError
    assert "no such book" in str(error)
    assert error.content == [{"type": "text", "text": "Error executing tool refuse: no such book"}]


@everywhere("http", "sse")
async def test_a_tool_that_breaks_is_a_failure(server: Server | None) -> None:
    error = (await call(server, "crash")).failure.error
    named(error, "crash", server)
    assert type(error) is MCPToolError


@everywhere()
async def test_a_tool_that_is_not_there_is_a_failure_that_lists_those_that_are(server: Server | None) -> None:
    error = (await call(server, "subtract", a=1)).failure.error
    named(error, "subtract", server)
    assert isinstance(error, MCPUnknownToolError)
    assert {"add", "shout"} <= set(error.known)
    assert "add, album" in str(error)


@everywhere("http", "legacy")
@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("add", {"a": 1}, "'b' is a required property"),
        ("add", {"a": 1, "b": "two"}, "b: type 'integer' does not hold"),
        ("percent", {"value": 101}, "value: maximum 100 does not hold"),
        ("add", {"a": 1, "b": float("nan")}, "cannot be sent as JSON"),
        ("add", {"a": 1, "b": object()}, "cannot be sent as JSON"),
    ],
)
async def test_arguments_that_do_not_fit_are_a_failure_that_says_which(
    server: Server | None, tool: str, arguments: dict[str, Any], says: str
) -> None:
    error = (await call(server, tool, **arguments)).failure.error
    named(error, tool, server)
    assert isinstance(error, MCPArgumentError)
    assert isinstance(error, ValueError)
    assert says in str(error)


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_server_that_is_not_there_is_a_failure_at_once(path: str) -> None:
    # Given a port that nobody listens on
    with serving("http") as server:
        pass
    before = await held()
    process = MCPProcess(f"http://127.0.0.1:{server.port}{path}", "add", 60.0)
    # When
    started_at = time.monotonic()
    result = await process.execute(ProcessContext("add"))
    # Then
    assert time.monotonic() - started_at < 10
    error = result.failure.error
    assert isinstance(error, MCPConnectionError)
    assert isinstance(error, ConnectionError)
    assert error.server == process.server_url
    assert "cannot be reached" in str(error)
    assert await held() == before


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/nonexistent/server", "No such file"),
        ("false", "Connection closed"),
        ("python -c 'raise SystemExit(\"no configuration\")'", "it wrote: no configuration"),
    ],
)
async def test_a_command_that_does_not_run_is_a_failure_that_says_why(command: str, says: str) -> None:
    before = await held()
    error = (await MCPProcess(f"stdio:{command}", "add", 60.0).execute(ProcessContext("add"))).failure.error
    assert isinstance(error, MCPConnectionError)
    assert "could not be started" in str(error)
    assert says in str(error)
    assert await held() == before


@pytest.mark.parametrize("transport", EVERYWHERE)
async def test_a_server_that_dies_during_a_call_is_a_failure(transport: str) -> None:
    # Given
    with started(transport) as server, first_progress() as told:
        before = await held()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            calling = group.create_task(call(server, "wait"))
            number = int(await told)
            # When
            if server is None:
                os.kill(number, signal.SIGKILL)
            else:
                server.kill()
        left = await held()
    # Then
    error = calling.result().failure.error
    named(error, "wait", server)
    assert isinstance(error, MCPConnectionError)
    assert "the connection was lost" in str(error)
    assert left[:2] == before[:2]
    assert not psutil.pid_exists(number)


@everywhere()
async def test_a_tool_that_takes_too_long_is_a_timeout_and_is_told_to_stop(server: Server | None) -> None:
    # Given a command has to start first
    limit = 1.0 if server is not None else 4.0
    before = await held()
    # When
    result = await call(server, "wait", timeout=limit)
    # Then
    error = result.failure.error
    named(error, "wait", server)
    assert isinstance(error, MCPTimeoutError)
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert error.deadline == limit
    assert "its timeout" in str(error)
    assert await held() == before
    if server is not None:
        async with asyncio.timeout(10):
            assert await server.says() == "cancelled"


@everywhere("http", "sse")
async def test_the_deadline_of_the_context_bounds_a_call_too(server: Server | None) -> None:
    # Given
    process = MCPProcess(address_of(server), "wait", timeout=60.0)
    ctx = ProcessContext("wait", deadline=datetime.now() + timedelta(seconds=0.7))
    # When
    result = await process.execute(ctx)
    # Then
    error = result.failure.error
    assert isinstance(error, MCPTimeoutError)
    assert error.deadline == pytest.approx(0.7, abs=0.2)
    assert "the deadline" in str(error)
    assert server is not None
    async with asyncio.timeout(10):
        assert await server.says() == "cancelled"


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_server_that_accepts_and_never_answers_is_a_timeout(path: str) -> None:
    # Given
    before = await held()
    release = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        process = MCPProcess(f"http://127.0.0.1:{port}{path}", "add", 0.5)
        # When
        async with asyncio.timeout(10):
            result = await process.execute(ProcessContext("add"))
        # Then
        assert isinstance(result.failure.error, MCPTimeoutError)
        release.set()
    assert before[2] == (await held())[2]


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_something_else_at_the_address_is_a_failure_that_says_so(path: str) -> None:
    # Given a server of another kind
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        process = MCPProcess(f"http://127.0.0.1:{port}{path}", "add")
        # When
        result = await process.execute(ProcessContext("add"))
    # Then
    error = result.failure.error
    assert isinstance(error, MCPConnectionError)
    assert error.status == 404
    assert "HTTP status 404" in str(error)


async def test_a_command_that_speaks_something_else_is_a_failure() -> None:
    before = await held()
    result = await MCPProcess("stdio:echo hello", "add", 20.0).execute(ProcessContext("add"))
    assert isinstance(result.failure.error, MCPConnectionError)
    assert await held() == before


async def test_a_question_that_is_refused_over_sse_is_a_failure_at_once() -> None:
    # Given a server that wants something of every request that the address of its messages does not have
    with serving("sse", "--query", "team=core") as server:
        process = MCPProcess(f"{server.url}?team=core", "add", timeout=None)
        # When
        async with asyncio.timeout(30):
            result = await process.execute(ProcessContext("add"))
    # Then
    error = result.failure.error
    assert isinstance(error, MCPConnectionError)
    assert error.status == 401


# Cancelling --------------------------------------------------------------------------------------


@everywhere()
async def test_a_cancelled_call_leaves_nothing_behind_and_its_tool_is_told_to_stop(server: Server | None) -> None:
    # Given
    before = await held()
    with first_progress() as told:
        calling = asyncio.create_task(call(server, "wait"))
        async with asyncio.timeout(60):
            number = int(await told)
        # When
        calling.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await calling
    # Then
    assert await held() == before
    if server is None:
        assert not psutil.pid_exists(number)
    else:
        async with asyncio.timeout(10):
            assert await server.says() == "cancelled"


async def test_a_call_that_is_cancelled_again_and_again_leaves_no_command_running() -> None:
    # Given
    before = await held()
    with first_progress() as told:
        calling = asyncio.create_task(call(None, "wait"))
        async with asyncio.timeout(60):
            number = int(await told)
    # When
    while not calling.done():
        calling.cancel()
        await asyncio.wait({calling}, timeout=0.01)
    # Then
    assert calling.cancelled()
    assert await held() == before
    assert not psutil.pid_exists(number)


@everywhere()
async def test_a_call_can_be_cancelled_at_any_moment(server: Server | None) -> None:
    # Given: of the command `cat` there is no answer to wait for; the moments are those of starting and stopping it
    before = await held()
    process = MCPProcess("stdio:cat" if server is None else server.url, "shout", 60.0, keep=0).with_arguments(text="a")
    for steps in range(0, 120, 3):
        calling = asyncio.create_task(process.execute(ProcessContext("shout")))
        for _ in range(steps):
            await asyncio.sleep(0)
        # When
        calling.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait({calling})
        # Then
        assert calling.cancelled() or calling.result().is_ok
        assert await held() == before, f"cancelled after {steps} steps"


async def test_a_call_can_be_cancelled_while_a_command_that_is_no_server_is_being_stopped(tmp_path: Path) -> None:
    # Given a command that leaves the first question unanswered, and has to be killed
    before = await held()
    script, asked = tmp_path / "no-server", tmp_path / "asked-to-end"
    script.write_text(f"trap '' TERM\nread question\nexec >&-\ncat >&2\ntouch {asked}\nexec sleep 600\n")
    process = MCPProcess(f"stdio:sh {script}", "shout", 60.0, keep=0)
    calling = asyncio.create_task(process.execute(ProcessContext("shout")))
    await until(asked.exists, timeout=60)
    # When
    calling.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait({calling})
    # Then
    assert calling.cancelled()
    assert await held() == before


async def test_an_answer_that_came_in_time_counts_however_long_the_server_takes_to_stop() -> None:
    # Given a command that has to be killed
    before = await held()
    with first_progress() as told:
        # When
        result = await call(None, "stubborn", timeout=6.0)
    # Then
    assert result.value == {"result": "done"}
    assert not psutil.pid_exists(int(told.result()))
    assert await held() == before


# Logins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_login_the_query_and_the_token_of_an_address_reach_the_server_and_nobody_else(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given
    token = "sk1live9Qm3vXc7Zr5Tn2Wp8Ya"
    caplog.set_level("DEBUG")
    path = f"/s/{token}/{'sse' if transport == 'sse' else 'mcp'}"
    # Over SSE the messages go to another address, which the server names, and the query is not part of it.
    asked = [] if transport == "sse" else ["--query", f"api_key={token}"]
    with serving(transport, "--login", "anna:hush-hush", *asked, path=path) as server:
        address = server.url.replace("://", "://anna:hush-hush@") + f"?api_key={token}"
        # When
        right = await MCPProcess(address, "add").with_arguments(a=1, b=2).execute(ProcessContext("add"))
        wrong = await MCPProcess(address.replace("hush-hush", "hush-hash"), "add").execute(ProcessContext("add"))
        listed = await MCPServer(address).tools()
        healthy = await MCPServer(address.replace("hush-hush", "hush-hash")).health()
    # Then
    assert right.value == {"result": 3}
    assert "add" in [tool.name for tool in listed]
    assert not healthy
    error = wrong.failure.error
    assert isinstance(error, MCPConnectionError)
    assert error.status == 401
    shown = f"http://***@127.0.0.1:{server.port}/s/***/{path.rpartition('/')[2]}?***"
    assert error.server == shown
    written = [wrong.failure.detailed, repr(error.__dict__), repr(MCPServer(address)), caplog.text]
    for text in written:
        assert token not in text
        assert "hush-h" not in text


async def test_an_address_with_a_secret_goes_through_the_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode().strip())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as listening:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        # When
        process = MCPProcess("http://tools.example/mcp?api_key=hush-hush", "add")
        error = (await process.execute(ProcessContext("add"))).failure.error
    # Then
    assert set(asked) == {"POST http://tools.example/mcp?api_key=hush-hush HTTP/1.1"}
    assert isinstance(error, MCPConnectionError)
    assert error.status == 502
    assert "hush" not in str(error)


async def test_what_a_command_writes_shows_without_its_secrets() -> None:
    # Given
    address = "stdio:KEY=hush-hush sh -c 'echo bad key $KEY >&2'"
    # When
    error = (await MCPProcess(address, "add", 60.0).execute(ProcessContext("add"))).failure.error
    # Then
    assert "it wrote: bad key ***" in str(error)
    assert "hush" not in str(error)
