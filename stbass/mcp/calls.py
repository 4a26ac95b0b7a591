"""The requests to an MCP server: call a tool, list the tools, see whether it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any

from jsonschema import exceptions as jsonschema_exceptions  # type: ignore[import-untyped]
from jsonschema.validators import validator_for  # type: ignore[import-untyped]
from mcp import Client
from mcp.shared.exceptions import MCPError as ProtocolError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, CallToolResult, Tool
from pydantic_core import PydanticSerializationError, to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

from stbass._values.texts import value_text
from stbass.errors import MCPArgumentError, MCPError, MCPToolError, MCPUnknownToolError
from stbass.mcp.conversation import Conversation

__all__ = ["call_tool", "list_tools", "ping", "plain_arguments"]

Progress = Callable[[float, float | None, str], None]

# A server that never stops listing must not keep us for ever.
_PAGES = 100
_SHOWN_NAMES = 20
_SHOWN_TEXT = 2000


async def call_tool(
    conversation: Conversation,
    tool: str,
    arguments: Mapping[str, Any],
    on_progress: Progress | None = None,
    answered: Callable[[], None] | None = None,
) -> Any:
    """Call a tool and give back its value: structured content, else the one text, else the parts as plain data.

    Args:
        on_progress: told how far the tool is, if it says so.
        answered: called when the answer is there, before the connection is closed.

    Raises:
        MCPArgumentError: the arguments cannot be sent, or do not fit the tool.
        MCPUnknownToolError: the server has no such tool.
        MCPToolError: the tool failed.
        MCPError: as :meth:`Conversation.hold` says.
    """
    plain = plain_arguments(conversation, arguments)

    context = copy_context()

    async def report(progress: float, total: float | None, message: str | None) -> None:
        # It comes in the task of the session, which others may have begun.
        if on_progress is not None:
            context.run(on_progress, progress, total, message or "")

    async def talk(client: Client) -> Any:
        # Listed first, and not after the call as the client would do it: an answer that came is then not lost to a
        # listing that fails, and the headers that the listing asks for are sent.
        listed = await _listed(client, until=tool)
        described = next((known for known in listed if known.name == tool), None)
        if described is not None and described.execution is not None and described.execution.task_support == "required":
            raise MCPToolError(
                f"{conversation.subject} runs only as a task of the MCP protocol, which the mcp package does not offer "
                "to clients; use a server or a tool that answers the call itself",
                **conversation.fields,
            )
        conversation.sent = True
        try:
            answer = await client.call_tool(tool, plain, progress_callback=report if on_progress is not None else None)
        except ProtocolError as error:
            if conversation.is_lost(error):
                raise
            raise _failed(conversation, plain, listed, described, error.message, error.data, error.code) from None
        except RuntimeError as error:
            # This is how the client says that the answer does not fit what the tool declares.
            raise MCPToolError(
                f"{conversation.subject}: {conversation.redacted(str(error))}", **conversation.fields
            ) from None
        if answer.is_error:
            parts = _parts(answer)
            said = "\n".join(part["text"] for part in parts if part.get("type") == "text")
            raise _failed(conversation, plain, listed, described, said, parts, None)
        return _value(answer)

    return await conversation.hold(talk, answered)


async def list_tools(conversation: Conversation, answered: Callable[[], None] | None = None) -> list[Tool]:
    """Every tool that the server lists.

    Raises:
        MCPError: as :meth:`Conversation.hold` says.
    """
    return await conversation.hold(_listed, answered)


async def ping(conversation: Conversation, answered: Callable[[], None] | None = None) -> None:
    """Connect, agree on a protocol version, and disconnect.

    Raises:
        MCPError: as :meth:`Conversation.hold` says.
    """

    async def talk(client: Client) -> None:
        # Connecting is enough: the newer protocol has no ping.
        return None

    await conversation.hold(talk, answered)


async def _listed(client: Client, until: str | None = None) -> list[Tool]:
    found: list[Tool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None or any(tool.name == until for tool in page.tools):
            break
    return found


def plain_arguments(conversation: Conversation, arguments: Mapping[Any, Any]) -> dict[str, Any]:
    """The arguments as plain data.

    Raises:
        MCPArgumentError: they are no JSON object.
    """
    try:
        strange = next((name for name in arguments if not isinstance(name, str)), None)
        if strange is not None:
            raise ValueError(f"a name of an argument is a str, got {value_text(strange)}")
        plain: dict[str, Any] = to_jsonable_python(dict(arguments), inf_nan_mode="constants")
        json.dumps(plain, allow_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise MCPArgumentError(
            f"{conversation.subject}: the arguments cannot be sent as JSON: {error}", **conversation.fields
        ) from None
    return plain


def _parts(answer: CallToolResult) -> list[dict[str, Any]]:
    return [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in answer.content]


def _value(answer: CallToolResult) -> Any:
    if answer.structured_content is not None:
        return answer.structured_content
    parts = _parts(answer)
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _failed(
    conversation: Conversation,
    arguments: dict[str, Any],
    listed: list[Tool],
    described: Tool | None,
    said: str,
    content: Any,
    code: int | None,
) -> MCPError:
    """The error for a call that the server answered with one; only its list of tools shows what that means."""
    said = conversation.redacted(said.strip())
    if len(said) > _SHOWN_TEXT:
        said = said[:_SHOWN_TEXT] + "…"
    fields = {**conversation.fields, "content": content, "code": code}
    if described is None:
        names = tuple(sorted(tool.name for tool in listed))
        shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
        message = f"{conversation.subject}: the server lists no such tool; it lists: {shown or 'none'}"
        return MCPUnknownToolError(f"{message} (it said: {said})" if said else message, known=names, **fields)
    misfit = _misfit(described.input_schema, arguments)
    if misfit is None and code not in (INVALID_PARAMS, METHOD_NOT_FOUND):
        return MCPToolError(f"{conversation.subject} failed: {said or 'it did not say why'}", **fields)
    why = "; ".join(part for part in (misfit, said) if part)
    return MCPArgumentError(f"{conversation.subject}: the arguments do not fit: {why}", **fields)


def _misfit(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Where the arguments do not fit the tool's schema, without repeating their values; None if they fit."""
    try:
        checker = validator_for(schema)
        checker.check_schema(schema)
        error = jsonschema_exceptions.best_match(checker(schema, registry=Registry()).iter_errors(arguments))
    except (jsonschema_exceptions.SchemaError, Unresolvable):
        # The schema is the server's; if it cannot be used, the server's own words must do.
        return None
    if error is None:
        return None
    if error.validator in ("required", "additionalProperties", "unevaluatedProperties"):
        return str(error.message)
    path = ".".join(str(step) for step in error.absolute_path) or "they"
    return f"{path}: {error.validator} {error.validator_value!r} does not hold"
