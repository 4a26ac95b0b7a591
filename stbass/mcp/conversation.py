"""One conversation with an MCP server: about one tool, resource or prompt, or about the server as a whole.

This module, :mod:`stbass.mcp.session` and :mod:`stbass.mcp.calls` import the ``mcp`` package; the others load them when
they need them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx2
from mcp import Client
from mcp.shared.exceptions import MCPError as ProtocolError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT
from pydantic import ValidationError

from stbass._values.policy import leaf_errors
from stbass.errors import MCPConnectionError, MCPError, MCPTimeoutError, MCPToolError, StbassError
from stbass.mcp.address import Address
from stbass.mcp.session import Session, join_session, wait_out

__all__ = ["Conversation"]

T = TypeVar("T")


class Conversation:
    """How to talk to one server, about one thing.

    Args:
        address: where the server is.
        headers: sent with every HTTP request.
        tool: the name of what it is about; None: the server as a whole.
        keep: seconds for which the session is kept for others when nobody uses it; 0: it is this conversation's own.
        kind: what it is that has that name, for messages.
    """

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str] | None = None,
        tool: str | None = None,
        keep: float = 0,
        kind: str = "tool",
    ) -> None:
        self.address = address
        self.headers = dict(headers or {})
        self.tool = tool
        self.keep = keep
        self.kind = kind
        self.sent = False
        """Set it before sending what may have effects: it is not sent again on another session."""
        self._talking = False
        self._session: Session | None = None

    async def hold(self, talk: Callable[[Client], Awaitable[T]], answered: Callable[[], None] | None = None) -> T:
        """Join a session with the server, ``talk``, and leave it; give back what ``talk`` gave.

        A session that was there already and turns out to be lost is replaced once, unless something was :attr:`sent`.
        When this ends, in whatever way, a session that nobody keeps is closed, and a server that was started for it has
        ended.

        Args:
            answered: called when ``talk`` is done, before anything is closed.

        Raises:
            MCPConnectionError: the server cannot be reached, or went away.
            MCPTimeoutError: the server left the protocol's own first question unanswered.
            MCPError: the server does not keep to the protocol.
        """
        session = join_session(self.address, self.headers, shared=self.keep > 0)
        reused = session.started.done()
        try:
            return await self._use(session, talk, answered)
        except MCPError as error:
            if not reused or self.sent or isinstance(error, MCPToolError | MCPTimeoutError):
                raise
        self._talking = False
        session = join_session(self.address, self.headers, shared=True)
        return await self._use(session, talk, answered)

    async def _use(
        self, session: Session, talk: Callable[[Client], Awaitable[T]], answered: Callable[[], None] | None
    ) -> T:
        self._session = session
        failed: Exception | None = None
        try:
            answer = await self._answer(session, talk)
            if answered is not None:
                answered()
        except MCPToolError:
            raise  # The tool's affair: the session is well.
        except Exception as error:
            session.retire()
            failed = error
        except BaseException:
            # Nobody knows what the server is doing with a call that was given up, or whether it does anything else
            # meanwhile: let the next call not wait behind it.
            if self._talking:
                session.retire()
            raise
        finally:
            session.leave(self.keep)
            if session.closing:
                await wait_out(session.keeper)
        if failed is not None:
            raise self._translated(failed) from None
        return answer

    async def _answer(self, session: Session, talk: Callable[[Client], Awaitable[T]]) -> T:
        lost: set[asyncio.Future[Any]] = {session.keeper, session.refused}
        await asyncio.wait({*lost, session.started}, return_when=asyncio.FIRST_COMPLETED)
        if session.started.done() and not session.keeper.done():
            self._talking = True

            async def talks() -> T:
                return await talk(session.started.result())

            talking = asyncio.create_task(talks())
            try:
                await asyncio.wait({*lost, talking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # Cancelled once: what tells the server to stop must not be interrupted.
                if not talking.done():
                    talking.cancel()
                await wait_out(talking)
            if not talking.cancelled():
                return talking.result()
        error = session.keeper.exception() if session.keeper.done() and not session.keeper.cancelled() else None
        if error is not None:
            raise error
        why = f"HTTP status {session.status}" if session.status is not None else "the session ended"
        raise MCPConnectionError(
            f"{self.subject}: there was no answer ({why}){self._doubt}", status=session.status, **self.fields
        )

    # What went wrong -----------------------------------------------------------------------------

    @property
    def subject(self) -> str:
        """What the conversation is about, for messages."""
        return f"{self.kind} {self.tool!r} on {self.address.shown}" if self.tool else f"MCP server {self.address.shown}"

    @property
    def fields(self) -> dict[str, Any]:
        """What an error of this conversation carries."""
        return {"tool": self.tool, "server": self.address.shown}

    @property
    def _status(self) -> int | None:
        return None if self._session is None else self._session.status

    @property
    def _doubt(self) -> str:
        return "; whether the tool did its work is not known, so it was not called again" if self.sent else ""

    def redacted(self, text: str) -> str:
        """``text`` without what is confidential in the address and in the headers."""
        words = (word for value in self.headers.values() for word in (value, *value.split()))
        return self.address.redacted(text, *words)

    def is_lost(self, error: ProtocolError) -> bool:
        """Whether the protocol's error says that there is no server to talk to any more."""
        status = self._status
        refused = status in (401, 403) or (status is not None and status >= 500)
        return error.code == CONNECTION_CLOSED or refused

    def _text(self, error: BaseException) -> str:
        told = str(error)
        return self.redacted(f"{type(error).__name__}: {told}" if told else type(error).__name__)

    def _translated(self, error: BaseException) -> BaseException:
        """The error to raise for what ended the conversation before its answer."""
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
        elif self._status is not None:
            happened = f"the server refused to connect with HTTP status {self._status}; check its address and the login"
        elif isinstance(error, ProtocolError) and error.code != CONNECTION_CLOSED:
            happened = "what is there does not speak MCP"
        elif self.address.kind == "stdio":
            happened = "the server could not be started"
        else:
            happened = "the server cannot be reached"
        detail = self.redacted(error.message) if isinstance(error, ProtocolError) else self._text(error)
        said = self._session.said if self._session is not None else ""
        message = f"{self.subject}: {happened} ({detail}){self._doubt}"
        message += f"; it wrote: {self.redacted(said)}" if said else ""
        return MCPConnectionError(message, status=self._status, **self.fields)
