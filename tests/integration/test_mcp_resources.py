"""Resources and prompts of real MCP servers, over every transport, and as parts of a program."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from stbass import SEQ, Process
from stbass.errors import MCPArgumentError, MCPConnectionError, MCPToolError, MCPUnknownToolError
from stbass.mcp import MCPBackend, MCPPrompt, MCPResource, MCPServer
from stbass.placement import PLACED_PAR, Placement
from stbass.process import ProcessContext
from stbass.result import ProcessResult
from stbass.wire import dumps, loads_process
from tests.support.backends import registry_of
from tests.support.mcp_server import serving, stdio_address
from tests.support.mcp_stdio import probe_address

PIXEL = {"type": "image", "data": "cGl4ZWw=", "mimeType": "image/png"}


@pytest.fixture(scope="module", params=["http", "legacy", "stdio"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is there for the module; over stdio, the session lasts for a test."""
    if request.param == "stdio":
        yield stdio_address()
        return
    with serving("http", *(["--legacy"] if request.param == "legacy" else [])) as server:
        yield server.url


async def run(process: Process) -> ProcessResult:
    async with asyncio.timeout(60):
        return await process.execute(ProcessContext(process.name))


async def test_resources_are_read(address: str) -> None:
    server = MCPServer(address)
    assert (await run(server.resource("note://today"))).value == "write the report"
    assert (await run(server.resource("picture://pixel"))).value == b"pixel"
    log = server.resource("log://{day}/{level}")
    assert (await run(log.with_arguments(day="mon/day #1", level="wärning", more=1))).value == "mon/day #1 at wärning"


async def test_prompts_are_written(address: str) -> None:
    server = MCPServer(address)
    summary = server.prompt("summarise").with_arguments(text="all of it")
    assert (await run(summary)).value == [{"role": "user", "content": "Summarise in 50 words: all of it"}]
    assert (await run(summary.with_arguments(words=7))).value[0]["content"] == "Summarise in 7 words: all of it"
    assert (await run(server.prompt("talk"))).value == [
        {"role": "assistant", "content": "How can I help?"},
        {"role": "user", "content": PIXEL},
    ]


async def test_both_are_listed(address: str) -> None:
    server = MCPServer(address)
    async with asyncio.timeout(60):
        resources = {one.name: one for one in await server.resources()}
        prompts = {one.name: one for one in await server.prompts()}
    assert set(resources) == {"note://today", "picture://pixel", "broken://it", "log://{day}/{level}"}
    note = resources["note://today"]
    assert (note.title, note.description, note.mime_type) == ("Today's note", "What is on today.", "text/plain")
    assert resources["log://{day}/{level}"].arguments == {"day": True, "level": True}
    assert {name: one.arguments for name, one in prompts.items()} == {
        "summarise": {"text": True, "words": False},
        "talk": {},
    }
    assert str(prompts["talk"]) == "talk"


async def test_what_is_not_there_is_a_failure_that_lists_what_is(address: str) -> None:
    server = MCPServer(address)
    error: Any = (await run(server.resource("note://tomorrow"))).failure.error
    assert type(error) is MCPUnknownToolError
    assert "resource 'note://tomorrow' on " in str(error)
    assert "it lists: broken://it, log://{day}/{level}, note://today, picture://pixel" in str(error)
    error = (await run(server.prompt("sumarise"))).failure.error
    assert type(error) is MCPUnknownToolError
    assert error.known == ("summarise", "talk")
    assert (error.tool, "prompt 'sumarise' on " in str(error)) == ("sumarise", True)


async def test_what_breaks_there_and_what_does_not_fit_is_a_failure_and_the_session_stays(address: str) -> None:
    server = MCPServer(address)
    error: Any = (await run(server.resource("broken://it"))).failure.error
    assert type(error) is MCPToolError
    assert "resource 'broken://it' on " in str(error)
    error = (await run(server.resource("log://{day}/{level}").with_arguments(day="monday"))).failure.error
    assert type(error) is MCPArgumentError
    assert "the address needs level; bind it with with_arguments" in str(error)
    error = (await run(server.prompt("summarise").with_arguments(words=3))).failure.error
    assert type(error) is MCPArgumentError
    assert "it needs text; its arguments: text, words" in str(error)
    error = (await run(server.prompt("summarise").with_arguments(text={1, object()}))).failure.error
    assert type(error) is MCPArgumentError
    assert "cannot be sent as JSON" in str(error)


async def test_they_are_stages_like_others(address: str) -> None:
    server = MCPServer(address)
    result = await SEQ(server.resource("note://today"), to_argument, server.prompt("summarise")).run()
    assert result.value == [{"role": "user", "content": "Summarise in 50 words: write the report"}]
    registry = registry_of(MCPBackend(address))
    elsewhere = MCPServer("http://127.0.0.1:1/mcp").resource("note://today")
    there = Placement(endpoint="notes")
    assert (await PLACED_PAR((elsewhere, there), registry=registry).run()).value == ["write the report"]


@Process
async def to_argument(ctx: ProcessContext) -> dict[str, str]:
    return {"text": await ctx.recv("input")}


async def test_a_server_that_is_not_there_is_a_failure() -> None:
    for process in (MCPResource("http://127.0.0.1:1/mcp", "note://today"), MCPPrompt("http://127.0.0.1:1/mcp", "talk")):
        error = (await run(process)).failure.error
        assert isinstance(error, MCPConnectionError)
        assert f"{process.kind} '{process.name}' on " in str(error)


async def test_a_server_that_has_none_lists_none(tmp_path: Any) -> None:
    server = MCPServer(probe_address(tmp_path / "log"))
    async with asyncio.timeout(60):
        assert await server.resources() == []
        assert await server.prompts() == []
    error: Any = (await run(server.prompt("talk"))).failure.error
    assert type(error) is MCPUnknownToolError
    assert "it lists: none" in str(error)
    error = (await run(server.resource("note://today"))).failure.error
    assert type(error) is MCPUnknownToolError


@pytest.mark.parametrize("kind", [MCPResource, MCPPrompt])
def test_they_travel(kind: type[MCPResource | MCPPrompt]) -> None:
    process = kind("http://h/mcp", "x", 5.0, headers={"A": "b"}, keep=3.0).with_arguments(day="monday")
    made = loads_process(dumps(process), allowed=lambda name: name.startswith("stbass.mcp."))
    assert isinstance(made, kind)
    assert (made.server_url, made.tool_name, made.timeout, made.keep) == ("http://h/mcp", "x", 5.0, 3.0)
    assert made.bound_arguments == {"day": "monday"}
