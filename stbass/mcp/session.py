"""Sessions with MCP servers: connected once, shared by the calls of one event loop, closed when nobody uses them.

A session goes through these states, and never back:

1. starting: whoever asks for the same server meanwhile waits for the same start;
2. in the pool: it is handed out to any number of calls at once, and closed when it was idle for long enough;
3. retired: it is not handed out again, and closed when the last call that has it is done;
4. closing, then closed: its server has ended, if we started it.

The loop's end closes it too: it cancels the task that holds the connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import urllib.request
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from contextvars import Context
from functools import lru_cache
from typing import Any, TextIO

import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from stbass.mcp.address import Address

__all__ = ["Session", "join_session", "wait_out"]

_log = logging.getLogger(__name__)

_Key = tuple[Address, frozenset[tuple[str, str]]]

# Seconds for closing a session. Over HTTP that is one more request, which a server that hangs may never answer. What
# it takes to stop a server that we started, 6.5 s at most, comes on top.
_CLOSING = 2.0

_SHOWN_STDERR = 2000

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Session]] = weakref.WeakKeyDictionary()


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    # Reading them takes tens of milliseconds, in which nothing else on the event loop would run.
    return httpx2.create_ssl_context()


def join_session(address: Address, headers: Mapping[str, str], *, shared: bool) -> Session:
    """A session with this server for one call: one that is there already if ``shared``, else a new one.

    :meth:`Session.leave` must follow.
    """
    key = (address, frozenset(headers.items()))
    pool = _pools.setdefault(asyncio.get_running_loop(), {}) if shared else {}
    session = pool.get(key)
    if session is None:
        session = pool[key] = Session(key, headers, pool)
    session.enter()
    return session


async def wait_out(task: asyncio.Task[Any]) -> None:
    """Wait until a task is done, however often this is cancelled; then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class Session:
    """A connection to one server.

    Attributes:
        address: where the server is.
        status: the HTTP status with which the server refused us last.
        started: the connected client, when there is one.
        refused: done when the server refused a question to which no answer will come.
        keeper: the task that holds the connection.
        retired: whether it is not handed out any more.
        closing: whether it is being closed.
    """

    def __init__(self, key: _Key, headers: Mapping[str, str], pool: dict[_Key, Session]) -> None:
        self.address = key[0]
        self.status: int | None = None
        self.retired = False
        self.closing = False
        self._key = key
        self._headers = dict(headers)
        self._pool = pool
        self._users = 0
        self._stderr: _Stderr | None = None
        self._loop = loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.started: asyncio.Future[Client] = loop.create_future()
        self.refused: asyncio.Future[None] = loop.create_future()
        self._end: asyncio.Future[None] = loop.create_future()
        # The client's scopes must be left by the task that entered them, and a task that is cancelled twice would
        # leave them before they are done: so they get a task of their own. It belongs to no call: its context is empty.
        self.keeper = loop.create_task(self._keep(), name=f"mcp {self.address.shown}", context=Context())
        self.keeper.add_done_callback(self._ended)

    def enter(self) -> None:
        """Count a call that uses it."""
        self._users += 1
        self._time(None)

    def leave(self, keep: float) -> None:
        """Count a call that uses it no more; if it was the last, close after ``keep`` idle seconds, if not at once."""
        self._users -= 1
        if self._users or self.keeper.done():
            return
        if self.retired or not keep or not self.started.done():
            self.close()
        else:
            self._time(self._loop.call_later(keep, self.close))

    def retire(self) -> None:
        """Hand it out no more."""
        self.retired = True
        if self._pool.get(self._key) is self:
            del self._pool[self._key]

    def close(self) -> None:
        """Begin to close it; whoever wants to wait for the end waits for ``keeper``."""
        self.retire()
        if self.closing:
            return
        self.closing = True
        if not self.started.done():
            self._cancel()
        elif not self._end.done():
            self._end.set_result(None)

    @property
    def said(self) -> str:
        """The last that the server wrote on its standard error, if we started it."""
        return self._stderr.end if self._stderr is not None else ""

    def _time(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _cancel(self) -> None:
        self.keeper.cancel()
        self._bound_closing()

    def _bound_closing(self) -> None:
        self._time(self._loop.call_later(_CLOSING, self._cancel))

    async def _keep(self) -> None:
        async with self._connected() as client:
            self.status = None
            self.started.set_result(client)
            try:
                await self._end
            finally:
                self.closing = True
                self._bound_closing()

    def _ended(self, keeper: asyncio.Task[None]) -> None:
        self.retire()
        self._time(None)
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None:
            shown = self.address.redacted(repr(error), *self._headers.values())
            _log.debug("the session with %s ended: %s", self.address.shown, shown)

    # Connecting ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            if self.address.kind == "stdio":
                transport = self._stdio_transport()
            elif self.address.kind == "sse":
                transport = sse_client(self.address.url, httpx_client_factory=self._http_client)
            else:
                http = await stack.enter_async_context(self._http_client())
                transport = streamable_http_client(self.address.url, http_client=http)
            # The newer protocol, for which one asks first, does not know server-sent events.
            mode = "legacy" if self.address.kind == "sse" else "auto"
            yield await stack.enter_async_context(Client(transport, mode=mode, cache=None))

    @asynccontextmanager
    async def _stdio_transport(self) -> AsyncIterator[Any]:
        command, *words = self.address.command
        server = StdioServerParameters(
            command=command,
            args=words,
            env=dict(self.address.environment),
            # Bytes that are no UTF-8 would end the reader, and nobody would be told.
            encoding_error_handler="replace",
        )
        given: asyncio.Future[Any] = self._loop.create_future()
        wanted: asyncio.Future[None] = self._loop.create_future()

        async def hold(errors: TextIO) -> None:
            async with stdio_client(server, errlog=errors) as streams:
                given.set_result(streams)
                await wanted

        with closing(_Stderr(self.address)) as self._stderr:
            # The mcp package (2.3) stops a server in steps. Cancelled in one of them it would leave the server running
            # and wait for its output for ever. So what holds the server is a task that nobody cancels.
            holder = self._loop.create_task(hold(self._stderr.file), name=f"mcp server {self.address.shown}")
            try:
                await asyncio.wait({given, holder}, return_when=asyncio.FIRST_COMPLETED)
                if given.done():
                    yield given.result()
            finally:
                if not wanted.done():
                    wanted.set_result(None)
                await wait_out(holder)
                holder.result()

    def _http_client(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        # The arguments are the mcp package's defaults, for which ours are used instead.
        async def note(response: httpx2.Response) -> None:
            status, asked = response.status_code, response.request.method == "POST"
            if not self.started.done():
                self.status = status if status >= 400 else None
            elif asked and (status in (401, 403) or status >= 500):
                self.status = status
            # Over SSE an answer comes by another way than its question. The client only logs that a question was
            # refused, and would wait for an answer for ever.
            if asked and status >= 400 and self.address.kind == "sse" and not self.refused.done():
                self.status = status
                self.refused.set_result(None)

        shown, real = httpx2.URL(self.address.url), httpx2.URL(self.address.real)
        return httpx2.AsyncClient(
            auth=None if self.address.login is None else httpx2.BasicAuth(*self.address.login),
            headers=self._headers,
            verify=_certificates(),
            # The caller's time-out is the only one: a tool may be silent for long, and work.
            timeout=httpx2.Timeout(None),
            event_hooks={"response": [note]},
            transport=_Readdressing(shown, real) if shown != real else None,
        )


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
