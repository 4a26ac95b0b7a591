"""Tools of an MCP server as processes: one after the other, at once, and with a failure that says what went wrong.

Run it with ``python examples/mcp_tools.py``; it needs
``pip install "stbass-celery[mcp]"``. The server is this same file, run
as a command by each call; with a server of your own, give ``MCPServer`` its address instead.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import Any

from stbass import PAR, SEQ, FailurePolicy, Process, ProcessResult
from stbass.mcp import MCPServer
from stbass.process import ProcessContext

LIBRARY = {
    "occam": "A language of processes and channels, for the transputer.",
    "csp": "A book about processes that talk.",
}

library = MCPServer(f"stdio:{shlex.join([sys.executable, __file__, 'serve'])}", name="library")
search = library.tool("search")
length = library.tool("length")


@Process
async def first_text(ctx: ProcessContext, found: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the next tool, made from what the tool before it found."""
    return {"text": found["result"][0]}


async def main() -> list[ProcessResult]:
    """Three programs; gives back their results."""
    # One after the other: what a stage gives is the next one's input, and a tool takes its arguments from there.
    pipeline = await SEQ(search.with_arguments(query="occam"), first_text, length).run()
    print("one after the other:", pipeline.value)

    # At once, and both answers kept whatever becomes of the other.
    both = await PAR(
        search.with_arguments(query="csp").with_name("csp"),
        search.with_arguments(query="pascal").with_name("pascal"),
        on_failure=FailurePolicy.COLLECT,
    ).run()
    for result in both.results:
        print("at once:", result.value if result.is_ok else result.failure.summary)

    # What a server offers, from the server itself.
    print("offered:", ", ".join(tool.name for tool in await library.tools()))
    return [ProcessResult.ok(pipeline.value), *both.results]


def serve() -> None:
    """The server: an MCP server of two tools."""
    from mcp.server.mcpserver import MCPServer as Tools
    from mcp.server.mcpserver.exceptions import ToolError

    tools = Tools("library", log_level="CRITICAL")

    @tools.tool()
    def search(query: str) -> list[str]:
        """Texts about something."""
        if query not in LIBRARY:
            raise ToolError(f"nothing about {query}")
        return [LIBRARY[query]]

    @tools.tool()
    def length(text: str) -> int:
        """How many words a text has."""
        return len(text.split())

    tools.run("stdio")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        asyncio.run(main())
