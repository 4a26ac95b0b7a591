"""An MCP server as a place where processes run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stbass._engine.backend import ExecutionBackend
from stbass._process.context import failure_of
from stbass._values.checks import checked_limit
from stbass.errors import NotTransportable
from stbass.mcp.address import parse_address
from stbass.mcp.tools import MCPProcess, MCPServer

if TYPE_CHECKING:
    from stbass._process.context import Composable, ProcessContext
    from stbass.result import ProcessResult

__all__ = ["MCPBackend"]


class MCPBackend(ExecutionBackend):
    """Runs :class:`MCPProcess` es against one MCP server, whatever server they were written for.

    A server runs only its own tools, so that any other process (a composition too) fails here with
    :class:`~stbass.errors.NotTransportable`; it is a failure of that process, and nothing of it runs.

    Args:
        url: address of the server; see :mod:`stbass.mcp.address`.
        name: for people; by default ``mcp:`` and the address, with what may be confidential masked.
        headers: sent with every HTTP request, in place of the process's own.
        concurrency_limit: how many tools may run there at once; None: any number.

    Raises:
        ConfigurationError: the address has none of the known forms.
        TypeError: the limit is not a whole number.
        ValueError: it is less than 1.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        concurrency_limit: int | None = None,
    ) -> None:
        self._server = MCPServer(url, headers=headers)
        self._headers = dict(headers or {})
        self._name = name or f"mcp:{parse_address(url).shown}"
        self._limit = checked_limit(concurrency_limit, "concurrency_limit")

    async def execute(self, process: Composable, ctx: ProcessContext) -> ProcessResult:
        """Call the process's tool on this server, and give back the result; a failed one for any other process."""
        if isinstance(process, MCPProcess):
            return await process.at_server(self._server.url, self._headers).execute(ctx)
        refused = NotTransportable(
            f"process {process.name!r} is a {type(process).__name__}, and {self.name} runs only tools of its MCP "
            "server; use an MCPProcess, or place it on another backend"
        )
        return failure_of(refused, ctx)

    async def health_check(self) -> bool:
        """Whether the server can be reached and speaks the protocol."""
        return await self._server.health()

    @property
    def concurrency_limit(self) -> int | None:
        """How many tools may run there at once; None: any number."""
        return self._limit

    @property
    def name(self) -> str:
        """Identifier of the backend, for people."""
        return self._name
