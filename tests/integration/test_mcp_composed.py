"""Tools of MCP servers in compositions, and the example."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stbass import PAR, PLACED_PAR, SEQ, FailurePolicy, Placement, Process
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import MCPTimeoutError, MCPToolError, MCPUnknownToolError, NotTransportable, ProcessRefused
from stbass.mcp import MCPBackend, MCPProcess, MCPServer
from stbass.process import ProcessContext
from stbass.testing import RedisServer, Worker
from tests.support.backends import registry_of
from tests.support.mcp_server import Server, stdio_address

EXAMPLE = Path(__file__).parents[2] / "examples" / "mcp_tools.py"


@Process
async def question(ctx: ProcessContext) -> dict[str, Any]:
    return {"a": 20}


@Process
async def shouted(ctx: ProcessContext) -> dict[str, Any]:
    found = await ctx.recv("input")
    return {"text": f"it is {found['result']}"}


async def test_a_tool_is_a_stage_of_a_sequence(mcp_server: Server) -> None:
    # Given
    tools = MCPServer(mcp_server.url)
    program = SEQ(question, tools.tool("add").with_arguments(b=22), shouted, tools.tool("shout"))
    # When
    async with asyncio.timeout(30):
        result = await program.run()
    # Then
    assert result.value == "IT IS 42"


async def test_a_tool_with_all_its_arguments_stands_after_any_stage(mcp_server: Server) -> None:
    @Process
    async def text(ctx: ProcessContext) -> str:
        return "a text"

    async with asyncio.timeout(30):
        result = await SEQ(text, MCPProcess(mcp_server.url, "add").with_arguments(a=1, b=2)).run()
    assert result.value == {"result": 3}


async def test_tools_run_at_once_and_a_failing_one_is_listed(mcp_server: Server) -> None:
    # Given
    tools = MCPServer(mcp_server.url)
    program = PAR(
        tools.tool("add").with_arguments(a=1, b=2),
        tools.tool("refuse").with_arguments(why="no such book"),
        SEQ(tools.tool("shout").with_arguments(text="nested")),
        tools.tool("wait", timeout=0.5).optional(),
        on_failure=FailurePolicy.COLLECT,
    )
    # When
    async with asyncio.timeout(30):
        result = await program.run()
    # Then
    assert not result.is_ok
    assert result.results[0].value == {"result": 3}
    assert isinstance(result.results[1].failure.error, MCPToolError)
    assert result.results[2].value == "NESTED"
    assert isinstance(result.results[3].failure.error, MCPTimeoutError)
    assert [failure.process_name for failure in result.failures] == ["refuse", "wait"]


async def test_a_deadline_of_the_composition_ends_a_tool(mcp_server: Server) -> None:
    started_at = time.monotonic()
    result = await PAR(MCPServer(mcp_server.url).tool("wait", timeout=None), deadline=0.5).run()
    assert time.monotonic() - started_at < 10
    assert isinstance(result.results[0].failure.error, TimeoutError)


async def test_tools_are_placed_on_the_server_of_their_endpoint(mcp_server: Server) -> None:
    # Given
    registry = registry_of(MCPBackend(mcp_server.url), "tools")
    nowhere = "http://127.0.0.1:9/mcp"
    # When
    async with asyncio.timeout(30):
        result = await PLACED_PAR(
            (MCPProcess(nowhere, "add").with_arguments(a=1, b=2), Placement(endpoint="tools")),
            (question, Placement(endpoint="tools")),
            on_failure=FailurePolicy.COLLECT,
            registry=registry,
        ).run()
    # Then
    assert result.results[0].value == {"result": 3}
    assert isinstance(result.results[1].failure.error, NotTransportable)


async def test_tools_that_run_at_once_in_a_sequence_all_find_its_value(mcp_server: Server) -> None:
    # Given
    tools = MCPServer(mcp_server.url)
    # When
    async with asyncio.timeout(30):
        result = await SEQ(
            question, PAR(tools.tool("add").with_arguments(b=1), tools.tool("add").with_arguments(b=2))
        ).run()
    # Then
    assert result.value == [{"result": 21}, {"result": 22}]


async def test_tools_run_on_a_worker(mcp_server: Server) -> None:
    # Given
    tools, commands = MCPServer(mcp_server.url), MCPServer(stdio_address())
    describe = tools.tool("describe")
    with RedisServer() as redis:
        env = {"STBASS_BROKER_URL": redis.url, "STBASS_RESULT_BACKEND": redis.url}
        with Worker("tests.support.worker_app", "tools", include=["stbass.mcp"], env=env):
            backend = CeleryBackend(make_app("tests", broker_url=redis.url))
            registry = registry_of(backend, "tools")
            there = Placement(endpoint="tools")
            # When
            try:
                async with asyncio.timeout(60):
                    result = await PLACED_PAR(
                        (tools.tool("add").with_arguments(a=1, b=2), there),
                        (tools.tool("refuse").with_arguments(why="no such book"), there),
                        (tools.tool("wait", timeout=0.5), there),
                        (tools.tool("subtract"), there),
                        (commands.tool("add").with_arguments(a=1, b=2), there),
                        (SEQ(describe.with_arguments(name="a", tags=[]), describe.with_arguments(tags=["b"])), there),
                        on_failure=FailurePolicy.COLLECT,
                        registry=registry,
                    ).run()
            finally:
                await backend.aclose()
    # Then
    added, refused, late, unknown, command, sequence = result.results
    assert added.value == {"result": 3}
    assert isinstance(refused.failure.error, MCPToolError)
    assert refused.failure.error.tool == "refuse"
    assert refused.failure.error.server == mcp_server.url
    assert isinstance(late.failure.error, MCPTimeoutError)
    assert isinstance(unknown.failure.error, MCPUnknownToolError)
    assert "add" in unknown.failure.error.known
    assert isinstance(command.failure.error, ProcessRefused)
    assert "allow_command" in str(command.failure.error)
    assert sequence.value == {"name": "a", "tags": ["b"]}


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False, timeout=100, cwd=EXAMPLE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert "one after the other: {'result': 9}" in done.stdout
    assert "at once: {'result': ['A book about processes that talk.']}" in done.stdout
    assert "at once: [pascal] MCPToolError: tool 'search' on stdio:" in done.stdout
    assert "nothing about pascal" in done.stdout
    assert "offered: search, length" in done.stdout
