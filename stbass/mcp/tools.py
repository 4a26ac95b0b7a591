"""Tools, resources and prompts of an MCP server as processes, and the server they come from."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self, TypeVar

from stbass._process.context import ProcessContext, checked_name, frame_of
from stbass._values.arguments import made_with, remember
from stbass._values.checks import is_number
from stbass._values.texts import value_text
from stbass.errors import (
    MCPArgumentError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MissingDependencyError,
    ProcessRefused,
)
from stbass.mcp.address import Address, parse_address
from stbass.process import Process

__all__ = ["MCPEntry", "MCPProcess", "MCPPrompt", "MCPResource", "MCPServer", "MCPTool", "allow_command"]

_log = logging.getLogger(__name__)

_PACKAGES = ("mcp", "mcp_types", "httpx2", "jsonschema", "referencing")
_allowed_commands: set[str] = set()

_KEEP = 60.0

P = TypeVar("P", bound="MCPProcess")


def allow_command(address: str) -> str:
    """Let processes that come to this worker in a message start this ``stdio:`` server; gives the address back.

    A message that names a command would otherwise let whoever can write to the broker run any command on the worker.
    Call it in a module that both sides import: ``FILES = allow_command("stdio:python files_server.py")``.

    Raises:
        ConfigurationError: it is not an address.
    """
    parse_address(address)
    _allowed_commands.add(address)
    return address


def _calls() -> ModuleType:
    """The module of ours that talks to servers, which needs the ``mcp`` package.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        from stbass.mcp import calls
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise MissingDependencyError(
            f"calling a tool of an MCP server needs the package {error.name!r}, which is not installed; "
            'run: pip install "stbass-celery[mcp]"'
        ) from None
    return calls


def _checked_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if not is_number(timeout):
        raise TypeError(f"timeout is a number of seconds or None, got {value_text(timeout)}")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, got {value_text(timeout)}")
    return float(timeout)


def _checked_keep(keep: object) -> float:
    if not is_number(keep):
        raise TypeError(f"keep is a number of seconds, got {value_text(keep)}")
    if not keep >= 0:
        raise ValueError(f"keep must be 0 seconds or more, got {value_text(keep)}")
    return float(keep)


@dataclass(frozen=True, slots=True)
class _Bound:
    """The time limit and the listener of the conversation in the current context."""

    clock: asyncio.Timeout
    on_progress: Callable[[float, float | None, str], None] | None = None


_bound: ContextVar[_Bound | None] = ContextVar("_bound", default=None)


@asynccontextmanager
async def _within(
    clock: asyncio.Timeout, on_progress: Callable[[float, float | None, str], None] | None = None
) -> AsyncIterator[None]:
    async with clock:
        token = _bound.set(_Bound(clock, on_progress))
        try:
            yield
        finally:
            _bound.reset(token)


def _answered() -> None:
    # The answer came in time. What is left is closing the connection, which has its own bound: stopping a server that
    # was started can take seconds, and must not turn an answer into a time-out.
    bound = _bound.get()
    if bound is not None and not bound.clock.expired():
        bound.clock.reschedule(None)


class MCPProcess(Process):
    """A process that calls a tool of an MCP server once.

    **Arguments** are those bound with :meth:`with_arguments` and those found on the channel ``input``, if it has one: a
    mapping received there adds to what is bound, and what is bound wins. ``None`` adds nothing. Any other value is an
    error if no arguments are bound, and else is ignored, as by any stage of a SEQ that does not use its input.

    **Value**: the tool's structured content if it gives any, as it is (the ``mcp`` package's servers wrap a plain
    number as ``{"result": 3}``); else, if its content is one text, that text; else the list of its content's parts as
    plain data (``{"type": "image", "data": …}``). It is returned, and sent on the channel ``output`` if there is one.

    What the tool says about its progress goes to ``ctx.progress``.

    **Sessions** last: calls of one event loop to the same address with the same headers share one connection (for a
    ``stdio:`` address: one server), several at once. It is closed after ``keep`` idle seconds, or at the end of the
    loop. A call that was cancelled or timed out takes its session out of use: the next call gets another, and the old
    one is closed when the calls that share it are done. A session that was kept and turns out to be lost is replaced,
    but only before the tool was called: a tool may have effects, so it is never called twice.

    Failures name the tool and the server: :class:`~stbass.errors.MCPConnectionError`,
    :class:`~stbass.errors.MCPTimeoutError`, :class:`~stbass.errors.MCPUnknownToolError`,
    :class:`~stbass.errors.MCPArgumentError`, and :class:`~stbass.errors.MCPToolError` when the tool itself says that it
    failed.

    On a worker, a ``stdio:`` address that came in the message runs only if :func:`allow_command` allows it. What is
    given to the constructor travels in the message; so a subclass that takes its address or its token from where it
    runs (``super().__init__("https://…", "search", headers={"Authorization": os.environ["TOKEN"]})``) keeps them out.

    Args:
        server_url: address of the server; see :mod:`stbass.mcp.address`.
        tool_name: name of the tool, and, until :meth:`with_name`, of the process.
        timeout: seconds for connecting and the call together; the deadline of the context bounds them too. None: only
            the deadline does.
        headers: sent with every HTTP request, for example ``{"Authorization": "Bearer …"}``.
        arguments: as with :meth:`with_arguments`.
        keep: seconds for which the session is kept for other calls when nobody uses it; 0: the call has a session of
            its own, closed when the process ends, in whatever way.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the address has none of the known forms, the name is empty, the time-out is not positive, or
            ``keep`` is negative.
    """

    kind = "tool"
    """What it is that :attr:`tool_name` names, for messages."""

    def __init__(
        self,
        server_url: str,
        tool_name: str,
        timeout: float | None = 30.0,
        *,
        headers: Mapping[str, str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        keep: float = _KEEP,
    ) -> None:
        super().__init__()
        self._address: Address = parse_address(server_url)
        self._name = checked_name(tool_name)
        self.server_url = server_url
        self.tool_name = tool_name
        self.timeout = _checked_timeout(timeout)
        self.keep = _checked_keep(keep)
        self._headers = dict(headers or {})
        self._bound: dict[str, Any] = dict(arguments or {})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A process travels as its class and what its constructor was given. A constructor that knows nothing of bound
        # arguments must not keep them from travelling.
        own = cls.__dict__.get("__init__")
        if own is None:
            return
        parameters = inspect.signature(own).parameters
        if "arguments" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return

        @functools.wraps(own)
        def init(self: MCPProcess, *args: Any, arguments: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
            own(self, *args, **kwargs)
            if arguments is not None:
                self._bound = {**self._bound, **arguments}

        cls.__init__ = init  # type: ignore[method-assign]

    @property
    def bound_arguments(self) -> Mapping[str, Any]:
        """The arguments bound with :meth:`with_arguments`."""
        return self._bound

    def with_arguments(self, /, **arguments: Any) -> Self:
        """A copy with these arguments of the tool bound, beside those bound before."""
        made = self._copy()
        made._bound = {**self._bound, **arguments}
        positional, named = made_with(self) or ((), {})
        remember(made, positional, {**named, "arguments": made._bound})
        return made

    def at_server(self, server_url: str, headers: Mapping[str, str]) -> Self:
        """A copy that calls its tool on another server. It runs only here: a worker would make it for the old one."""
        made = self._copy()
        made._address = parse_address(server_url)
        made.server_url = server_url
        made._headers = dict(headers)
        return made

    async def run(self, ctx: ProcessContext) -> Any:
        """Call the tool, send its value on ``output`` if there is such a channel, and return it.

        Raises:
            MCPError: one of its children, as the class says.
            ProcessRefused: the address names a command, and this worker does not allow it.
        """
        self._refuse_foreign_command(ctx)
        value = await self._bounded_call(ctx, await self._found_arguments(ctx))
        if "output" in ctx.channels:
            await ctx.send("output", value)
        return value

    async def _call_tool(self, arguments: dict[str, Any]) -> Any:
        """Call the tool and give back its value. Override it to call something else in a test."""
        calls = _calls()
        bound = _bound.get()
        on_progress = None if bound is None else bound.on_progress
        return await calls.call_tool(self._conversation(calls), self.tool_name, arguments, on_progress, _answered)

    def _conversation(self, calls: ModuleType) -> Any:
        return calls.Conversation(self._address, self._headers, self.tool_name, self.keep, self.kind)

    async def _bounded_call(self, ctx: ProcessContext, arguments: dict[str, Any]) -> Any:
        remaining = ctx.remaining
        bounds = [bound for bound in (self.timeout, remaining) if bound is not None]
        limit = min(bounds, default=None)
        clock = asyncio.timeout(limit)
        try:
            async with _within(clock, ctx.progress):
                return await self._call_tool(arguments)
        except MCPError:
            raise
        except TimeoutError as error:
            if not clock.expired() or limit is None:
                raise self._error(MCPTimeoutError, f"timed out: {error}") from None
            bound = "the deadline" if limit == remaining else "its timeout"
            raise self._error(MCPTimeoutError, f"no answer within {limit:g} s ({bound})", deadline=limit) from None
        except OSError as error:
            text = self._address.redacted(f"{type(error).__name__}: {error}")
            raise self._error(MCPConnectionError, text) from None
        except Exception as error:
            error.add_note(f"while calling {self._subject}")
            raise

    async def _found_arguments(self, ctx: ProcessContext) -> dict[str, Any]:
        if "input" not in ctx.channels:
            return dict(self._bound)
        received = await ctx.recv("input")
        if isinstance(received, Mapping):
            return {**received, **self._bound}
        if received is None or self._bound:
            return dict(self._bound)
        raise self._error(
            MCPArgumentError,
            f"a mapping of arguments was expected on the channel 'input', got {type(received).__name__}; "
            "send a mapping, or bind arguments with with_arguments(…)",
        )

    def _refuse_foreign_command(self, ctx: ProcessContext) -> None:
        if self._address.kind != "stdio" or frame_of(ctx).worker is None or self.server_url in _allowed_commands:
            return
        positional, named = made_with(self) or ((), {})
        if self.server_url not in (*positional, *named.values()):
            return  # The class itself, which the worker knows, names the command.
        raise ProcessRefused(
            f"{self._subject}: a message may not name the command that a worker runs; call "
            "stbass.mcp.allow_command(address) in a module that the worker includes",
            reference=f"{type(self).__module__}:{type(self).__qualname__}",
            worker=frame_of(ctx).worker,
        )

    @property
    def _subject(self) -> str:
        return f"{self.kind} {self.tool_name!r} on {self._address.shown}"

    def _error(self, kind: type[MCPError], what: str, **fields: Any) -> MCPError:
        return kind(f"{self._subject}: {what}", tool=self.tool_name, server=self._address.shown, **fields)


class MCPResource(MCPProcess):
    """A process that reads a resource of an MCP server.

    **Value**: if the resource is one text, that text; if it is one block of bytes, the ``bytes``; else the list of its
    parts as plain data (``{"uri": …, "mimeType": …, "text": …}``). Everything else is as with :class:`MCPProcess`: it
    takes the same arguments, and its errors are of the same classes, with the address of the resource as ``tool``.

    The address may be a template of the server's (``log://{day}/{level}``): the arguments, bound or found on the
    channel ``input``, stand for the names in it, and each must be there; others are not used. What they say is escaped,
    so that it stays one part of the address.
    """

    kind = "resource"

    async def _call_tool(self, arguments: dict[str, Any]) -> Any:
        calls = _calls()
        return await calls.read_resource(self._conversation(calls), self.tool_name, arguments, _answered)


class MCPPrompt(MCPProcess):
    """A process that has an MCP server write a prompt.

    **Value**: the list of the prompt's messages, as SDKs of models take them: ``{"role": "user", "content": "…"}``; the
    content is a text, or for anything else (a picture, a resource) the part as plain data. Everything else is as with
    :class:`MCPProcess`. Arguments of prompts are texts: anything else is sent as the JSON of it.
    """

    kind = "prompt"

    async def _call_tool(self, arguments: dict[str, Any]) -> Any:
        calls = _calls()
        return await calls.get_prompt(self._conversation(calls), self.tool_name, arguments, _answered)


@dataclass(frozen=True, slots=True)
class MCPEntry:
    """A resource, a template of resources, or a prompt that a server lists.

    Args:
        name: what it is asked for by: the address of a resource, also of a template; the name of a prompt.
        title: for people, in the server's words.
        description: what it is, in the server's words.
        mime_type: of a resource, if the server says it.
        arguments: the names of a prompt's or a template's arguments, and whether each must be given.
    """

    name: str
    title: str = ""
    description: str = ""
    mime_type: str | None = None
    arguments: Mapping[str, bool] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class MCPTool:
    """A tool that a server lists.

    Args:
        name: its name.
        description: what it does, in the server's words.
        input_schema: JSON schema of its arguments.
        output_schema: JSON schema of its structured content, if it declares one.
    """

    name: str
    description: str = ""
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.name


class MCPServer:
    """An MCP server, and its tools, resources and prompts as processes.

    Args:
        url: its address; see :mod:`stbass.mcp.address`.
        name: for people; by default the address, with what may be confidential masked.
        headers: sent with every HTTP request, also by the processes made here.
        keep: seconds for which a session with it is kept when nobody uses it, also by the processes made here; see
            :class:`MCPProcess`.

    Raises:
        ConfigurationError: the address has none of the known forms.
        TypeError: ``keep`` is no number.
        ValueError: ``keep`` is negative.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        keep: float = _KEEP,
    ) -> None:
        self._address = parse_address(url)
        self._headers = dict(headers or {})
        self.keep = _checked_keep(keep)
        self.url = url
        self.name = self._address.shown if name is None else checked_name(name)

    def __repr__(self) -> str:
        return f"MCPServer({self._address.shown!r})"

    def tool(self, name: str, timeout: float | None = 30.0) -> MCPProcess:
        """A tool of this server as a process; nothing is asked of the server now."""
        return self._process(MCPProcess, name, timeout)

    def resource(self, uri: str, timeout: float | None = 30.0) -> MCPResource:
        """A resource of this server as a process; nothing is asked of the server now.

        Args:
            uri: its address, or a template of addresses.
        """
        return self._process(MCPResource, uri, timeout)

    def prompt(self, name: str, timeout: float | None = 30.0) -> MCPPrompt:
        """A prompt of this server as a process; nothing is asked of the server now."""
        return self._process(MCPPrompt, name, timeout)

    def _process(self, cls: type[P], name: str, timeout: float | None) -> P:
        given: dict[str, Any] = {"headers": self._headers} if self._headers else {}
        if self.keep != _KEEP:
            given["keep"] = self.keep
        return cls(self.url, name, timeout, **given)

    async def resources(self, timeout: float | None = 30.0) -> list[MCPEntry]:
        """Every resource that the server lists, and every template of resources; raises as :meth:`tools` does."""
        calls, found = _calls(), []
        for one in await self._ask("list_resources", timeout):
            address = calls.address_of(one)
            wanted = dict.fromkeys(calls.names_in(address), True)
            found.append(MCPEntry(address, one.title or one.name or "", one.description or "", one.mime_type, wanted))
        return found

    async def prompts(self, timeout: float | None = 30.0) -> list[MCPEntry]:
        """Every prompt that the server lists; raises as :meth:`tools` does."""
        found = await self._ask("list_prompts", timeout)
        return [
            MCPEntry(
                one.name,
                one.title or "",
                one.description or "",
                arguments={argument.name: bool(argument.required) for argument in one.arguments or ()},
            )
            for one in found
        ]

    async def tools(self, timeout: float | None = 30.0) -> list[MCPTool]:
        """Every tool that the server lists.

        Args:
            timeout: seconds.

        Raises:
            MCPTimeoutError: the server did not answer in time.
            MCPConnectionError: it cannot be reached.
            MCPError: it answers what the protocol does not allow.
            MissingDependencyError: the ``mcp`` package is not installed.
        """
        listed = await self._ask("list_tools", timeout)
        return [MCPTool(tool.name, tool.description or "", tool.input_schema, tool.output_schema) for tool in listed]

    async def _ask(self, what: str, timeout: float | None) -> list[Any]:
        calls = _calls()
        conversation = calls.Conversation(self._address, self._headers, keep=self.keep)
        try:
            async with _within(asyncio.timeout(timeout)):
                listed: list[Any] = await getattr(calls, what)(conversation, _answered)
                return listed
        except TimeoutError as error:
            raise self._late(timeout, error) from None

    async def health(self, timeout: float | None = 10.0) -> bool:
        """Whether the server can be reached and speaks the protocol. Why not is in the log (INFO).

        Args:
            timeout: seconds.

        Raises:
            MissingDependencyError: the ``mcp`` package is not installed.
        """
        try:
            async with _within(asyncio.timeout(timeout)):
                return bool(await self._ping())
        except MissingDependencyError:
            raise
        except Exception as error:
            # Whatever keeps the server from answering, it is not healthy.
            _log.info("MCP server %s is not healthy: %s", self._address.shown, self._address.redacted(repr(error)))
            return False

    async def _ping(self) -> bool:
        """Connect, and say whether that worked. Override it to stand for a server in a test."""
        calls = _calls()
        conversation = calls.Conversation(self._address, self._headers)
        await calls.ping(conversation, _answered)
        return True

    def _late(self, timeout: float | None, error: TimeoutError) -> MCPError:
        if isinstance(error, MCPError):
            return error
        shown = self._address.shown
        return MCPTimeoutError(f"MCP server {shown}: no answer within {timeout} s", server=shown, deadline=timeout)
