"""One conversation with an MCP server: connect, talk, leave nothing behind.

This module and :mod:`stbass.mcp.calls` import the ``mcp`` package; the others load these two when they need them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError as ProtocolError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT
from pydantic import ValidationError

from stbass._values.policy import leaf_errors
from stbass.errors import MCPConnectionError, MCPError, MCPTimeoutError, StbassError
from stbass.mcp.address import Address

__all__ = ["Conversation"]

_log = logging.getLogger(__name__)
T = TypeVar("T")

# The mcp package ends a stdio server in steps (its input closed, SIGTERM, SIGKILL) whose time-outs are 6.5 s together,
# and more on a busy machine. A second cancellation would interrupt them and leave the server running.
_STDIO_CLOSING = 30.0
# Closing an HTTP session is one more request, which a server that hangs may never answer.
_HTTP_CLOSING = 2.0

_SHOWN_STDERR = 2000


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    # Reading them takes tens of milliseconds, in which nothing else on the event loop would run.
    return httpx2.create_ssl_context()


class Conversation:
    """How to talk to one server, about one tool or about the server as a whole.

    Args:
        address: where the server is.
        headers: sent with every HTTP request.
        tool: what it is about; None: the server as a whole.
    """

    def __init__(self, address: Address, headers: Mapping[str, str] | None = None, tool: str | None = None) -> None:
        self.address = address
        self.headers = dict(headers or {})
        self.tool = tool
        self.status: int | None = None
        self._refused: asyncio.Future[None] | None = None
        self._talking = False
        self._closing = False
        self._stderr: _Stderr | None = None

    async def hold(self, talk: Callable[[Client], Awaitable[T]], answered: Callable[[], None] | None = None) -> T:
        """Connect, ``talk``, and disconnect; give back what ``talk`` gave.

        When this ends, in whatever way, the connection is closed and a server that was started has ended.

        Args:
            answered: called when ``talk`` is done, before the connection is closed.

        Raises:
            MCPConnectionError: the server cannot be reached, or went away.
            MCPTimeoutError: the server left the protocol's own first question unanswered.
            MCPError: the server does not keep to the protocol.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._refused = loop.create_future()

        async def keep() -> None:
            async with self._connected() as client:
                self._talking = True
                answer.set_result(await talk(client))

        # The client's scopes must be left by the task that entered them, and a task that is cancelled twice would
        # leave them before they are done: so they get a task of their own, which is cancelled once.
        keeper = asyncio.create_task(keep(), name=f"mcp {self.address.shown}")
        try:
            either: set[asyncio.Future[Any]] = {keeper, answer, self._refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                if answered is not None:
                    answered()
                await asyncio.wait({keeper}, timeout=self._grace)
        finally:
            await self._end(keeper)
            self._refused.cancel()
        error = None if keeper.cancelled() else keeper.exception()
        if answer.done():
            if error is not None:
                _log.debug("after its answer, %s: %s", self.address.shown, self._text(error))
            return answer.result()
        raise self._translated(error)

    @property
    def _grace(self) -> float:
        return _STDIO_CLOSING if self.address.kind == "stdio" else _HTTP_CLOSING

    async def _end(self, keeper: asyncio.Task[None]) -> None:
        """Wait until the keeper has ended, however often this is cancelled; cancel it if it is not closing already."""
        now = asyncio.get_running_loop().time
        again = now() + self._grace if self._closing else now()
        cancelled: asyncio.CancelledError | None = None
        while not keeper.done():
            if now() >= again:
                keeper.cancel()
                again = now() + self._grace
            try:
                await asyncio.wait({keeper}, timeout=again - now())
            except asyncio.CancelledError as error:
                cancelled = error
        if not keeper.cancelled():
            keeper.exception()  # It has been looked at: the loop need not report it.
        if cancelled is not None:
            raise cancelled

    # Connecting ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            if self.address.kind == "stdio":
                transport = self._stdio_transport(stack)
            elif self.address.kind == "sse":
                transport = sse_client(self.address.url, httpx_client_factory=self._http_client)
            else:
                http = await stack.enter_async_context(self._http_client())
                transport = streamable_http_client(self.address.url, http_client=http)
            # The newer protocol, for which one asks first, does not know server-sent events.
            mode = "legacy" if self.address.kind == "sse" else "auto"
            yield await stack.enter_async_context(Client(self._watched(transport), mode=mode, cache=None))

    @asynccontextmanager
    async def _watched(self, transport: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        async with transport as streams:
            try:
                yield streams
            finally:
                self._closing = True

    def _stdio_transport(self, stack: AsyncExitStack) -> AbstractAsyncContextManager[Any]:
        command, *words = self.address.command
        self._stderr = _Stderr(self.address)
        stack.callback(self._stderr.close)
        server = StdioServerParameters(command=command, args=words, env=dict(self.address.environment))
        return stdio_client(server, errlog=self._stderr.file)

    def _http_client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        # The arguments are the mcp package's defaults, for which ours are used instead.
        async def note(response: httpx2.Response) -> None:
            self.status = response.status_code if response.status_code >= 400 else None
            # Over SSE an answer comes by another way than its question. The client only logs that a question was
            # refused, and would wait for an answer for ever.
            lost = self.status is not None and self.address.kind == "sse" and response.request.method == "POST"
            if lost and self._refused is not None and not self._refused.done():
                self._refused.set_result(None)

        shown, real = httpx2.URL(self.address.url), httpx2.URL(self.address.real)
        return httpx2.AsyncClient(
            auth=None if self.address.login is None else httpx2.BasicAuth(*self.address.login),
            headers=self.headers,
            verify=_certificates(),
            # The caller's time-out is the only one: a tool may be silent for long, and work.
            timeout=httpx2.Timeout(None),
            event_hooks={"response": [note]},
            transport=_Readdressing(shown, real) if shown != real else None,
        )

    # What went wrong -----------------------------------------------------------------------------

    @property
    def subject(self) -> str:
        """What the conversation is about, for messages."""
        return f"tool {self.tool!r} on {self.address.shown}" if self.tool else f"MCP server {self.address.shown}"

    @property
    def fields(self) -> dict[str, Any]:
        """What an error of this conversation carries."""
        return {"tool": self.tool, "server": self.address.shown}

    def redacted(self, text: str) -> str:
        """``text`` without what is confidential in the address and in the headers."""
        words = (word for value in self.headers.values() for word in (value, *value.split()))
        return self.address.redacted(text, *words)

    def is_lost(self, error: ProtocolError) -> bool:
        """Whether the protocol's error says that there is no server to talk to any more."""
        refused = self.status in (401, 403) or (self.status is not None and self.status >= 500)
        return error.code == CONNECTION_CLOSED or refused

    def _text(self, error: BaseException) -> str:
        told = str(error)
        return self.redacted(f"{type(error).__name__}: {told}" if told else type(error).__name__)

    def _translated(self, error: BaseException | None) -> BaseException:
        """The error to raise for what ended the conversation before its answer."""
        if error is None:
            why = f"HTTP status {self.status}" if self.status is not None else "the conversation ended"
            return MCPConnectionError(f"{self.subject}: there was no answer ({why})", status=self.status, **self.fields)
        leaves = list(leaf_errors(error))
        for leaf in leaves:
            if isinstance(leaf, StbassError) or not isinstance(leaf, Exception):
                return leaf
        leaf = leaves[0]
        if isinstance(leaf, ProtocolError) and leaf.code == REQUEST_TIMEOUT:
            return MCPTimeoutError(f"{self.subject}: {self.redacted(leaf.message)}", **self.fields)
        if isinstance(leaf, ProtocolError) and self._talking and not self.is_lost(leaf):
            return MCPError(f"{self.subject}: the server answered: {self.redacted(leaf.message)}", **self.fields)
        if isinstance(leaf, ProtocolError | OSError | httpx2.HTTPError | EOFError):
            return self._connection_error(leaf)
        what = "what the protocol does not allow" if isinstance(leaf, ValidationError) else "what the client cannot use"
        # Not as its cause: the cause's text is not ours, and can hold what must not show.
        return MCPError(f"{self.subject}: the server answered {what} ({self._text(leaf)})", **self.fields)

    def _connection_error(self, error: Exception) -> MCPConnectionError:
        if self._talking:
            happened = "the connection was lost before the answer came"
        elif self.status is not None:
            happened = f"the server refused to connect with HTTP status {self.status}; check its address and the login"
        elif isinstance(error, ProtocolError) and error.code != CONNECTION_CLOSED:
            happened = "what is there does not speak MCP"
        elif self.address.kind == "stdio":
            happened = "the server could not be started"
        else:
            happened = "the server cannot be reached"
        detail = self.redacted(error.message) if isinstance(error, ProtocolError) else self._text(error)
        said = self._stderr.end if self._stderr is not None else ""
        message = f"{self.subject}: {happened} ({detail})" + (f"; it wrote: {self.redacted(said)}" if said else "")
        return MCPConnectionError(message, status=self.status, **self.fields)


class _Readdressing(httpx2.AsyncHTTPTransport):
    """Puts the secret parts into a request's address, below the layers that log addresses and show them in errors."""

    def __init__(self, shown: httpx2.URL, real: httpx2.URL) -> None:
        # A client that is given a transport no longer looks for a proxy itself.
        proxies = urllib.request.getproxies()
        around = urllib.request.proxy_bypass(shown.host)
        proxy = None if around else proxies.get(shown.scheme) or proxies.get("all")
        super().__init__(verify=_certificates(), proxy=proxy)
        self._shown = shown.raw_path
        self._real = real.raw_path
        self._shown_folder = self._shown.rpartition(b"/")[0] + b"/"
        self._real_folder = self._real.partition(b"?")[0].rpartition(b"/")[0] + b"/"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request to where it belongs."""
        path = request.url.raw_path
        if path == self._shown:
            path = self._real
        elif path.startswith(self._shown_folder):
            path = self._real_folder + path[len(self._shown_folder) :]
        sent = httpx2.Request(
            request.method,
            request.url.copy_with(raw_path=path),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        return await super().handle_async_request(sent)


class _Stderr:
    """The standard error of a server that we started: it goes to the log, and the end of it into errors.

    The server cannot simply share ours: inside a Celery worker that is no file.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._source, sink = os.pipe()
        os.set_blocking(self._source, False)
        self.file = os.fdopen(sink, "w")
        self._tail = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._source, self._read)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._source, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            self._tail = (self._tail + data)[-_SHOWN_STDERR:]
            if _log.isEnabledFor(logging.DEBUG):
                for line in data.decode(errors="replace").splitlines():
                    _log.debug("%s wrote: %s", self._address.shown, self._address.redacted(line))

    @property
    def end(self) -> str:
        """The last of what it wrote."""
        return self._tail.decode(errors="replace").strip()

    def close(self) -> None:
        """Read the last that it wrote, and close. The server has ended by now."""
        self._loop.remove_reader(self._source)
        self._read()
        os.close(self._source)
        self.file.close()
