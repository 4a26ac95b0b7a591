"""The requests to an MCP server: call a tool, read a resource, get a prompt, list them, see whether it answers."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar
from urllib.parse import quote

from jsonschema import exceptions as jsonschema_exceptions  # type: ignore[import-untyped]
from jsonschema.validators import validator_for  # type: ignore[import-untyped]
from mcp import Client
from mcp.shared.exceptions import MCPError as ProtocolError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    BlobResourceContents,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    CancelTaskRequest,
    CancelTaskRequestParams,
    CancelTaskResult,
    CreateTaskResult,
    GetTaskPayloadRequest,
    GetTaskPayloadRequestParams,
    Prompt,
    Resource,
    ResourceTemplate,
    TaskMetadata,
    TextContent,
    TextResourceContents,
    Tool,
)
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

from stbass._values.texts import value_text
from stbass.errors import MCPArgumentError, MCPError, MCPToolError, MCPUnknownToolError
from stbass.mcp.conversation import Conversation

__all__ = [
    "address_of",
    "call_tool",
    "get_prompt",
    "list_prompts",
    "list_resources",
    "list_tools",
    "names_in",
    "ping",
    "plain_arguments",
    "read_resource",
]

T = TypeVar("T")


Progress = Callable[[float, float | None, str], None]

# A server that never stops listing must not keep us for ever.
_PAGES = 100
_SHOWN_NAMES = 20
_SHOWN_TEXT = 2000
_CREATED: TypeAdapter[CreateTaskResult | CallToolResult] = TypeAdapter(CreateTaskResult | CallToolResult)
# Seconds for a server to say that it has heard that a task is not wanted any more.
_CANCELLING = 2.0
# What servers of the older protocols answer when there is no such resource.
_NO_RESOURCE = -32002
_TEMPLATE = re.compile(r"\{(?P<path>\+)?(?P<name>\w+)\}")


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
        execution = None if described is None else described.execution
        conversation.sent = True
        try:
            if execution is not None and execution.task_support == "required":
                answer = await _as_task(client, tool, plain)
            else:
                told = report if on_progress is not None else None
                answer = await client.call_tool(tool, plain, progress_callback=told)
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


async def _as_task(client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    """Call a tool that runs only as a task of the protocol, and wait for its result.

    The server is told to end a task whose result nobody waits for any more.
    """
    params = CallToolRequestParams(name=tool, arguments=arguments, task=TaskMetadata())
    session = client.session
    made: CreateTaskResult | CallToolResult
    try:
        made = await session.send_request(CallToolRequest(params=params), _CREATED)
    except ValidationError as error:
        # The mcp package (2.3) takes every answer to a call for a result, whatever it is asked for. What is none is in
        # its error.
        inputs = [line["input"] for line in error.errors()]
        task = next((one for one in inputs if type(one) is dict and "task" in one), None)
        if task is None:
            raise
        made = CreateTaskResult.model_validate(task, by_name=False)
    if isinstance(made, CallToolResult):
        return made
    task_id = made.task.task_id
    try:
        # It is answered when the task has ended.
        wanted = GetTaskPayloadRequest(params=GetTaskPayloadRequestParams(task_id=task_id))
        answer = await session.send_request(wanted, CallToolResult)
    except asyncio.CancelledError:
        given_up = CancelTaskRequest(params=CancelTaskRequestParams(task_id=task_id))
        with suppress(ProtocolError):
            await session.send_request(given_up, CancelTaskResult, _CANCELLING)
        raise
    if not answer.is_error:
        await session.validate_tool_result(tool, answer)
    return answer


async def list_tools(conversation: Conversation, answered: Callable[[], None] | None = None) -> list[Tool]:
    """Every tool that the server lists.

    Raises:
        MCPError: as :meth:`Conversation.hold` says.
    """
    return await conversation.hold(_listed, answered)


async def read_resource(
    conversation: Conversation,
    uri: str,
    arguments: Mapping[str, Any],
    answered: Callable[[], None] | None = None,
) -> Any:
    """Read a resource: its one text, its one block of bytes, else its parts as plain data.

    Raises:
        MCPArgumentError: the address is a template, and an argument for it is missing, or cannot be sent.
        MCPUnknownToolError: the server has no such resource.
        MCPToolError: it answered with another error.
        MCPError: as :meth:`Conversation.hold` says.
    """
    address = _filled(conversation, uri, plain_arguments(conversation, arguments))

    async def talk(client: Client) -> Any:
        try:
            answer = await client.read_resource(address)
        except ProtocolError as error:
            if conversation.is_lost(error):
                raise
            listed = await _resources(client)
            known = tuple(sorted(map(address_of, listed)))
            is_known = uri in known or error.code not in (INVALID_PARAMS, METHOD_NOT_FOUND, _NO_RESOURCE)
            raise _refused(conversation, error.message, error.data, error.code, None if is_known else known) from None
        parts = answer.contents
        if len(parts) == 1 and isinstance(parts[0], TextResourceContents):
            return parts[0].text
        if len(parts) == 1 and isinstance(parts[0], BlobResourceContents):
            return b64decode(parts[0].blob)
        return [_plain(part) for part in parts]

    return await conversation.hold(talk, answered)


async def get_prompt(
    conversation: Conversation,
    prompt: str,
    arguments: Mapping[str, Any],
    answered: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Have a prompt written: its messages, each with a role and a content.

    Raises:
        MCPArgumentError: the arguments cannot be sent, or one that the prompt needs is missing, or not known to it.
        MCPUnknownToolError: the server has no such prompt.
        MCPToolError: it answered with another error.
        MCPError: as :meth:`Conversation.hold` says.
    """
    plain = plain_arguments(conversation, arguments)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in plain.items()}

    async def talk(client: Client) -> list[dict[str, Any]]:
        try:
            answer = await client.get_prompt(prompt, texts)
        except ProtocolError as error:
            if conversation.is_lost(error):
                raise
            listed = await _prompts(client)
            described = next((known for known in listed if known.name == prompt), None)
            if described is None:
                names = tuple(sorted(known.name for known in listed))
                raise _refused(conversation, error.message, error.data, error.code, names) from None
            wanted = {one.name: bool(one.required) for one in described.arguments or ()}
            missing = [name for name, required in wanted.items() if required and name not in texts]
            surplus = [name for name in texts if name not in wanted]
            if missing or surplus:
                takes = ", ".join(wanted) or "none"
                what = f"needs {', '.join(missing)}" if missing else f"does not know {', '.join(surplus)}"
                raise MCPArgumentError(
                    f"{conversation.subject}: it {what}; its arguments: {takes}", **conversation.fields, code=error.code
                ) from None
            raise _refused(conversation, error.message, error.data, error.code) from None
        return [{"role": one.role, "content": _content(one.content)} for one in answer.messages]

    return await conversation.hold(talk, answered)


async def list_resources(
    conversation: Conversation, answered: Callable[[], None] | None = None
) -> list[Resource | ResourceTemplate]:
    """Every resource and every template of resources that the server lists.

    Raises:
        MCPError: as :meth:`Conversation.hold` says.
    """
    return await conversation.hold(_resources, answered)


async def list_prompts(conversation: Conversation, answered: Callable[[], None] | None = None) -> list[Prompt]:
    """Every prompt that the server lists.

    Raises:
        MCPError: as :meth:`Conversation.hold` says.
    """
    return await conversation.hold(_prompts, answered)


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


async def _resources(client: Client) -> list[Resource | ResourceTemplate]:
    # A server that has none of a kind may not know the question.
    return [
        *await _all(client.list_resources, lambda page: page.resources),
        *await _all(client.list_resource_templates, lambda page: page.resource_templates),
    ]


async def _prompts(client: Client) -> list[Prompt]:
    return await _all(client.list_prompts, lambda page: page.prompts)


async def _all(ask: Callable[..., Awaitable[Any]], items: Callable[[Any], list[T]]) -> list[T]:
    found: list[T] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        try:
            page = await ask(cursor=cursor)
        except ProtocolError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            break
        found += items(page)
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def address_of(listed: Resource | ResourceTemplate) -> str:
    """The address of a resource, or the template of addresses."""
    return listed.uri if isinstance(listed, Resource) else listed.uri_template


def names_in(template: str) -> list[str]:
    """The names that stand in a template of addresses, in order."""
    return [found["name"] for found in _TEMPLATE.finditer(template)]


def _filled(conversation: Conversation, uri: str, arguments: Mapping[str, Any]) -> str:
    missing = [name for name in names_in(uri) if name not in arguments]
    if missing:
        raise MCPArgumentError(
            f"{conversation.subject}: the address needs {', '.join(missing)}; bind it with with_arguments(…)",
            **conversation.fields,
        )

    def escaped(found: re.Match[str]) -> str:
        value = arguments[found["name"]]
        # What has a plus in front is a path: slashes stay.
        return quote(value if isinstance(value, str) else json.dumps(value), safe="/" if found["path"] else "")

    return _TEMPLATE.sub(escaped, uri)


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
    return [_plain(part) for part in answer.content]


def _plain(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)


def _content(part: BaseModel) -> Any:
    return part.text if isinstance(part, TextContent) else _plain(part)


def _shown(conversation: Conversation, said: str) -> str:
    said = conversation.redacted(said.strip())
    return said if len(said) <= _SHOWN_TEXT else said[:_SHOWN_TEXT] + "…"


def _refused(
    conversation: Conversation, said: str, content: Any, code: int | None, known: tuple[str, ...] | None = None
) -> MCPToolError:
    """The error for what the server answered with one.

    Args:
        known: what the server lists, if what was asked for is not among it.
    """
    said = _shown(conversation, said)
    fields = {**conversation.fields, "content": content, "code": code}
    if known is None:
        return MCPToolError(f"{conversation.subject} failed: {said or 'it did not say why'}", **fields)
    shown = ", ".join(known[:_SHOWN_NAMES]) + (", …" if len(known) > _SHOWN_NAMES else "")
    message = f"{conversation.subject}: the server lists no such {conversation.kind}; it lists: {shown or 'none'}"
    return MCPUnknownToolError(f"{message} (it said: {said})" if said else message, known=known, **fields)


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
    if described is None:
        return _refused(conversation, said, content, code, tuple(sorted(tool.name for tool in listed)))
    misfit = _misfit(described.input_schema, arguments)
    if misfit is None and code not in (INVALID_PARAMS, METHOD_NOT_FOUND):
        return _refused(conversation, said, content, code)
    why = "; ".join(part for part in (misfit, _shown(conversation, said)) if part)
    fields = {**conversation.fields, "content": content, "code": code}
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
