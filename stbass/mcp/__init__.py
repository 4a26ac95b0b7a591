"""Tools, resources and prompts of MCP servers as processes, in the real protocol through the official ``mcp`` package.

::

    from stbass import SEQ
    from stbass.mcp import MCPProcess, MCPServer

    library = MCPServer("https://library.example/mcp")
    search = library.tool("search", timeout=10.0)
    result = await SEQ(search.with_arguments(query="occam"), summarise).run()

``import stbass.mcp`` works without the ``mcp`` package; the first call needs it (``pip install "stbass-celery[mcp]"``).
The forms of an address are in :mod:`stbass.mcp.address`.
"""

from stbass.errors import (
    MCPArgumentError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MCPToolError,
    MCPUnknownToolError,
)
from stbass.mcp.backend import MCPBackend
from stbass.mcp.tools import MCPEntry, MCPProcess, MCPPrompt, MCPResource, MCPServer, MCPTool, allow_command

__all__ = [
    "MCPArgumentError",
    "MCPBackend",
    "MCPConnectionError",
    "MCPEntry",
    "MCPError",
    "MCPProcess",
    "MCPPrompt",
    "MCPResource",
    "MCPServer",
    "MCPTimeoutError",
    "MCPTool",
    "MCPToolError",
    "MCPUnknownToolError",
    "allow_command",
]
